/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: transport image util proto */
/* Each allocation of streams, frames, messages, keys, images and journals fails once: no crash, no leak, an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "image/blockers.h"
#include "image/image.h"
#include "image/journal.h"
#include "out-of-memory.h"
#include "scratch.h"
#include "transport-keys.h"
#include "transport/filter.h"
#include "transport/wire.h"
#include "util/bitmap.h"
#include "util/buffer.h"
#include "util/pageset.h"
#include "util/procfs.h"
#include "wire.pb-c.h"

#define SOON clock_deadline(5 * CLOCK_S)

/* ---- util */

static int use_containers(void *data, struct error *error)
{
	struct buffer buffer = BUFFER_INIT;
	struct bitmap bitmap = { 0 };
	struct pageset set = { 0 }, copy = { 0 };
	int r = 0;

	for (int i = 0; i < 40 && r == 0; i++)
		r = buffer_append(&buffer, "some bytes that make it grow", 28);
	if (r == 0)
		r = bitmap_init(&bitmap, 1000);
	for (uint64_t i = 0; i < 20 && r == 0; i++)
		r = pageset_add(&set, i * 10000, 3);
	if (r == 0)
		r = pageset_copy(&copy, &set);
	if (r == 0)
		assert_int_equal(pageset_count(&copy), 60);
	pageset_deinit(&set);
	pageset_deinit(&copy);
	bitmap_deinit(&bitmap);
	buffer_deinit(&buffer);
	return r;
}

static int read_proc(void *data, struct error *error)
{
	struct procfs_maps maps = { 0 };
	struct procfs_pids threads = { 0 }, children = { 0 };
	struct procfs_stat stat = { .ppid = -7 };
	int r;

	r = procfs_read_stat(getpid(), &stat, error);
	assert_int_equal(stat.ppid, r < 0 ? -7 : getppid());
	if (r == 0)
		r = procfs_read_maps(getpid(), &maps, error);
	assert_int_equal(maps.count > 0, r == 0);
	if (r == 0)
		r = procfs_read_threads(getpid(), &threads, error);
	if (r == 0)
		r = procfs_read_children(getpid(), &children, error);
	array_deinit(&threads);
	array_deinit(&children);
	procfs_maps_deinit(&maps);
	return r;
}

static void test_util(void **state)
{
	oom_walk("containers", use_containers, NULL);
	oom_walk("/proc", read_proc, NULL);
}

/* ---- streams */

static int make_pair(struct stream **a, struct stream **b, bool lz4, struct error *error)
{
	struct stream_fault_plan plan = STREAM_FAULT_PLAN_NONE;
	struct rate_bucket *bucket = NULL;
	int r;

	r = stream_memory_new(1 << 20, a, b, error);
	if (r == 0)
		r = stream_fault_push(b, &plan, error);
	if (r == 0)
		r = rate_bucket_new(1 << 30, &bucket, error);
	if (r == 0)
		r = stream_rate_push(a, bucket, error);
	if (r == 0 && lz4)
		r = stream_lz4_push(a, STREAM_LZ4_ALWAYS, error);
	if (r == 0 && lz4)
		r = stream_lz4_push(b, STREAM_LZ4_NEVER, error);
	rate_bucket_unref(bucket);
	return r;
}

static int talk(void *data, struct error *error)
{
	static const char text[] = "a message with a text that is not short, and which is repeated, repeated, repeated";
	_cleanup_stream_ struct stream *a = NULL;
	_cleanup_stream_ struct stream *b = NULL;
	WireFailure failure = WIRE_FAILURE__INIT;
	WireRound round = WIRE_ROUND__INIT, *back = NULL;
	struct error said = ERROR_INIT;
	int r;

	failure.code = EBUSY;
	failure.message = (char *)(uintptr_t)text;
	round.round = 7;
	r = make_pair(&a, &b, data != NULL, error);
	if (r == 0)
		r = wire_send(a, WIRE_LAID_OUT, &round.base, SOON, error);
	if (r == 0)
		r = wire_expect(b, &wire_table_client, WIRE_LAID_OUT, &wire_round__descriptor,
				(ProtobufCMessage **)(void *)&back, SOON, error);
	assert_int_equal(back != NULL, r == 0);
	if (r < 0)
		return r;
	assert_int_equal(back->round, 7);
	wire_round__free_unpacked(back, NULL);
	r = wire_send(a, WIRE_FAILURE, &failure.base, SOON, error);
	if (r < 0)
		return r;
	r = wire_expect(b, &wire_table_client, WIRE_RUNNING, NULL, NULL, SOON, &said);
	if (r == -EBUSY) {
		assert_non_null(strstr(said.message, text));
		return 0;
	}
	return error_set(error, r, "%s", said.message);
}

static void test_streams(void **state)
{
	oom_walk("frames", talk, NULL);
	oom_walk("frames over lz4", talk, &(int){ 1 });
}

/* ---- keys */

static int make_keys(void *data, struct error *error)
{
	static const char *const names[] = { "server.test", "127.0.0.1" };
	const struct keys_options options = { .names = names, .name_count = 2, .client = "mover.test" };
	struct tls_context *server = NULL, *client = NULL;
	char path[KEYS_PATH_MAX];
	int r;

	keys_dir_make(path);
	r = keys_generate(path, &options, error);
	if (r == 0)
		r = tls_context_new(TLS_SERVER, path, &server, error);
	if (r == 0)
		r = tls_context_new(TLS_CLIENT, path, &client, error);
	if (r < 0)
		assert_null(client);
	tls_context_unref(server);
	tls_context_unref(client);
	keys_dir_remove(path);
	return r;
}

static void test_keys(void **state)
{
	oom_walk("keys", make_keys, NULL);
}

/* ---- images */

static int make_images(void *data, struct error *error)
{
	struct image_set *images = NULL;
	WireRound round = WIRE_ROUND__INIT, *back = NULL;
	int r;

	r = image_set_new(&images);
	assert_int_equal(images != NULL, r == 0);
	for (uint32_t i = 0; i < 20 && r == 0; i++) {
		round.round = i;
		r = image_set_add(images, i % 2 ? IMAGE_CORE : IMAGE_MM, i, &round.base, error);
		/* A record that could not be added is in neither list. */
		assert_int_equal(image_set_count(images), i + (r == 0));
		assert_int_equal(image_set_find(images, i % 2 ? IMAGE_CORE : IMAGE_MM, i) != NULL, r == 0);
	}
	if (r == 0)
		r = image_set_add_bytes(images, IMAGE_FS, 1, "bytes", 5, error);
	if (r == 0)
		r = image_record_unpack(image_set_find(images, IMAGE_CORE, 7), &wire_round__descriptor,
					(ProtobufCMessage **)(void *)&back, error);
	if (r == 0) {
		assert_int_equal(back->round, 7);
		wire_round__free_unpacked(back, NULL);
	}
	image_set_free(images);
	return r;
}

/* It has no error to return: a list that lacks something says so, and nobody takes it for empty. */
static int list_blockers(void *data, struct error *error)
{
	struct image_blockers blockers;
	int r;

	image_blockers_init(&blockers);
	for (int i = 0; i < 20; i++)
		image_blockers_add(&blockers, i, "kind", "cause", "remedy", "object %d", i);
	assert_int_equal(blockers.list.count, blockers.incomplete ? 19 : 20);
	r = blockers.incomplete ? -ENOMEM : 0;
	assert_false(image_blockers_empty(&blockers));
	image_blockers_deinit(&blockers);
	return r;
}

static int keep_journal(void *data, struct error *error)
{
	uint8_t session[JOURNAL_SESSION_SIZE] = { 1, 2, 3 };
	JournalEntry entry = JOURNAL_ENTRY__INIT, *back = NULL;
	struct journal_list list = { 0 };
	int dir = -1, r;

	entry.session = (ProtobufCBinaryData){ sizeof(session), session };
	entry.side = JOURNAL_SOURCE;
	entry.phase = JOURNAL_STARTED;
	r = journal_open_dir(data, &dir, error);
	if (r == 0)
		r = journal_write(dir, &entry, error);
	if (r == 0)
		r = journal_read(dir, session, &back, error);
	assert_int_equal(back != NULL, r == 0);
	if (r == 0)
		r = journal_list(dir, &list, error);
	if (r < 0)
		assert_int_equal(list.entries.count, 0);
	if (back)
		journal_entry__free_unpacked(back, NULL);
	journal_list_deinit(&list);
	if (dir >= 0) {
		journal_remove(dir, session, NULL);
		close(dir);
	}
	return r;
}

static void test_images(void **state)
{
	char path[64], sessions[80];

	oom_walk("images", make_images, NULL);
	oom_walk("blockers", list_blockers, NULL);
	scratch_directory(path, sizeof(path), "out-of-memory");
	oom_walk("journal", keep_journal, path);
	snprintf(sessions, sizeof(sessions), "%s/sessions", path);
	assert_int_equal(rmdir(sessions), 0);
	assert_int_equal(rmdir(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_util),
		cmocka_unit_test(test_streams),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_images),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
