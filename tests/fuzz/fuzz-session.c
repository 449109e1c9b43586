/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump pageserver transport proto */
/*
 * A session of the page server, from its WELCOME to the answer to the preflight and what comes after it out of turn:
 * records of a living process, damaged (living.h), then frames of any other type with any content. LAYOUT is left out, as
 * it would make processes. Each session must end by itself when the source hangs up, and say why if it fails.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../unit/scratch.h"
#include "living.h"
#include "pageserver/registry.h"
#include "pageserver/session.h"
#include "wire.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t session_id[WIRE_SESSION_SIZE] = "fuzz-session";

static void wake(void *data)
{
	eventfd_write(*(int *)data, 1);
}

static void send_images(struct stream *stream, const struct image_set *images)
{
	for (size_t i = 0; i < image_set_count(images); i++) {
		const struct image_record *record = image_set_get(images, i);

		if (wire_send_image(stream, record->type, record->id, record->data, record->size, clock_deadline(CLOCK_S),
				    NULL) < 0)
			return;
	}
}

static void send_rest(struct stream *stream, const uint8_t *data, size_t size)
{
	static const enum wire_type types[] = { WIRE_IMAGE, WIRE_PREFLIGHT, WIRE_ROUND_END, WIRE_DROP, WIRE_PREPARE,
						WIRE_COMMIT, WIRE_ABORT, WIRE_ASK_STATE, WIRE_ENDED, WIRE_FAILURE,
						WIRE_HELLO, WIRE_PAGES, WIRE_PACKETS };

	while (size >= 2) {
		enum wire_type type = types[data[0] % (sizeof(types) / sizeof(types[0]))];
		size_t length = data[1] < size - 2 ? data[1] : size - 2;

		if (frame_send(stream, (uint16_t)type, 0, data + 2, length, clock_deadline(CLOCK_S), NULL) < 0)
			return;
		data += 2 + length;
		size -= 2 + length;
	}
}

static void talk(struct stream *stream, const struct image_set *images, const uint8_t *data, size_t size)
{
	WirePreflight preflight = WIRE_PREFLIGHT__INIT;

	preflight.memory = 1 << 20;
	send_images(stream, images);
	if (size && data[0] % 4)
		(void)wire_send(stream, WIRE_PREFLIGHT, &preflight.base, clock_deadline(CLOCK_S), NULL);
	if (size)
		send_rest(stream, data + 1, size - 1);
	stream_shutdown(stream, clock_deadline(CLOCK_S), NULL);
}

static void run(struct registry *registry, int ended, const struct image_set *images, const uint8_t *data, size_t size)
{
	struct stream *ours, *theirs;

	if (stream_memory_new(8 << 20, &ours, &theirs, NULL) < 0)
		return;
	if (session_open(registry, &theirs, session_id, "fuzz", NULL) == 0) {
		talk(ours, images, data, size);
		for (registry_reap(registry); !registry_idle(registry); registry_reap(registry)) {
			eventfd_t value;

			(void)eventfd_read(ended, &value);
		}
	}
	stream_free(ours);
	(void)journal_remove(registry->dir_fd, session_id, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char state_dir[64];
	static const struct pageserver_options options = { .state_dir = state_dir };
	static const struct log log = { .fd = -1 };
	static struct registry registry;
	static struct image_set *living;
	static int ended = -1;
	struct image_set *images;
	size_t half = size / 2 / sizeof(struct living_damage) * sizeof(struct living_damage);

	if (!living) {
		living = living_images();
		ended = eventfd(0, EFD_CLOEXEC);
		scratch_directory(state_dir, sizeof(state_dir), "fuzz-session");
		if (registry_init(&registry, &options, &log, NULL) < 0)
			abort();
		registry.wake = wake;
		registry.wake_data = &ended;
	}
	images = living_damaged(living, data, half);
	if (images)
		run(&registry, ended, images, data + half, size - half);
	image_set_free(images);
	return 0;
}
