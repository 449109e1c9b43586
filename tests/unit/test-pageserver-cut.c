/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump pageserver restore transport image util proto */
/*
 * A session whose control stream breaks after any number of bytes, in either direction: it ends by itself, in time, and
 * the next one is served. The records are those of a living process, up to the answer to the preflight.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <poll.h>
#include <unistd.h>

#include "scratch.h"

#include "dump/dump.h"
#include "pageserver/registry.h"
#include "pageserver/session.h"
#include "transport/filter.h"
#include "wire.pb-c.h"

#define SOON clock_deadline(10 * CLOCK_S)
#define STEP_READ 997 /* of some tens of thousands of bytes; prime, so that cuts fall anywhere */

struct place {
	char dir[64];
	struct pageserver_options options;
	struct registry registry;
	struct log log;
	struct image_set *images;
	int ended;
};

static void wake(void *data)
{
	eventfd_write(*(int *)data, 1);
}

static void take_images(struct place *place)
{
	static const struct dump_options options = { .tcp_close = false };
	struct dump_context *dump;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_int_equal(image_set_new(&place->images), 0);
	assert_int_equal(dump_context_new(pid, &options, NULL, &dump, NULL), 0);
	assert_int_equal(dump_preflight(dump, place->images, NULL), 0);
	dump_context_free(dump);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int setup(void **state)
{
	struct place *place = calloc(1, sizeof(*place));

	scratch_directory(place->dir, sizeof(place->dir), "session");
	place->options.state_dir = place->dir;
	place->log.fd = -1;
	place->ended = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(registry_init(&place->registry, &place->options, &place->log, NULL), 0);
	place->registry.wake = wake;
	place->registry.wake_data = &place->ended;
	take_images(place);
	*state = place;
	return 0;
}

static int teardown(void **state)
{
	struct place *place = *state;
	char path[96];

	registry_deinit(&place->registry);
	image_set_free(place->images);
	close(place->ended);
	snprintf(path, sizeof(path), "%s/sessions", place->dir);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(place->dir), 0);
	free(place);
	return 0;
}

/* The source's side: as much of it as the stream takes. Returns whether the answer came. */
static bool talk(const struct place *place, struct stream *stream)
{
	WirePreflight preflight = WIRE_PREFLIGHT__INIT;
	int r = wire_expect(stream, &wire_table_client, WIRE_WELCOME, NULL, NULL, SOON, NULL);

	for (size_t i = 0; r == 0 && i < image_set_count(place->images); i++) {
		const struct image_record *record = image_set_get(place->images, i);

		r = wire_send_image(stream, record->type, record->id, record->data, record->size, SOON, NULL);
	}
	if (r == 0)
		r = wire_send(stream, WIRE_PREFLIGHT, &preflight.base, SOON, NULL);
	if (r == 0)
		r = wire_expect(stream, &wire_table_client, WIRE_PREFLIGHT_REPLY, NULL, NULL, SOON, NULL);
	(void)stream_shutdown(stream, SOON, NULL);
	return r == 0;
}

static bool serve(struct place *place, const struct stream_fault_plan *plan)
{
	static const uint8_t id[WIRE_SESSION_SIZE] = "a session";
	struct pollfd ended = { .fd = place->ended, .events = POLLIN };
	struct stream *ours, *theirs;
	bool answered;

	assert_int_equal(stream_memory_new(1 << 20, &ours, &theirs, NULL), 0);
	assert_int_equal(stream_fault_push(&theirs, plan, NULL), 0);
	assert_int_equal(session_open(&place->registry, &theirs, id, "a test", NULL), 0);
	answered = talk(place, ours);
	for (registry_reap(&place->registry); !registry_idle(&place->registry); registry_reap(&place->registry)) {
		eventfd_t value;

		assert_int_equal(poll(&ended, 1, 10000), 1);
		assert_int_equal(eventfd_read(place->ended, &value), 0);
	}
	assert_int_equal(place->registry.memory_taken, 0);
	stream_free(ours);
	assert_int_equal(journal_remove(place->registry.dir_fd, id, NULL), 0);
	return answered;
}

static void reads_are_cut(void **state)
{
	struct place *place = *state;
	size_t total = 0;
	bool answered = false;

	for (size_t after = 0; !answered; after += STEP_READ) {
		struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;

		plan.cut_read_after = after;
		plan.cut_error = after % 2; /* a reset, or an end as if the source had ended */
		answered = serve(place, &plan);
		total = after;
		assert_true(total < 1 << 20);
	}
	assert_true(total > STEP_READ);
}

static void writes_are_cut(void **state)
{
	struct place *place = *state;
	bool answered = false;

	for (size_t after = 0; !answered; after++) {
		struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;

		plan.cut_write_after = after;
		answered = serve(place, &plan);
		assert_true(after < 5000);
	}
}

static void short_reads_and_writes(void **state)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;

	plan.read_max = 3;
	plan.write_max = 1;
	assert_true(serve(*state, &plan));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(short_reads_and_writes, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_are_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(writes_are_cut, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
