/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image records of a living process, for fuzzers to damage: bytes out of nowhere would hardly ever get past the first
 * check. Needs root.
 */
#pragma once

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/dump.h"

/* What dump_preflight() says of a child that waits; the child is ended. Never freed. */
static inline struct image_set *living_images(void)
{
	static const struct dump_options options = { 0 };
	struct dump_context *context;
	struct image_set *images;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	if (pid < 0 || image_set_new(&images) < 0 || dump_context_new(pid, &options, NULL, &context, NULL) < 0 ||
	    dump_preflight(context, images, NULL) < 0)
		abort();
	dump_context_free(context);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return images;
}

/* Damage: eight bytes each in the fuzzer's data. */
struct living_damage {
	uint16_t record; /* which, of all */
	uint16_t place;  /* byte of the record */
	uint8_t value;
	uint8_t what;    /* 0..3: set the byte; 4: cut there; 5: another type; 6: leave the record out; 7: twice */
	uint16_t id;
};

/* A copy of the records, damaged. */
static inline struct image_set *living_damaged(const struct image_set *images, const uint8_t *data, size_t size)
{
	struct image_set *copy;

	if (image_set_new(&copy) < 0)
		return NULL;
	for (size_t i = 0; i < image_set_count(images); i++) {
		const struct image_record *record = image_set_get(images, i);
		uint8_t *bytes = malloc(record->size + 1);
		size_t length = record->size;
		uint32_t type = record->type, id = record->id;
		int times = 1;

		if (!bytes)
			break;
		memcpy(bytes, record->data, record->size);
		for (size_t at = 0; at + sizeof(struct living_damage) <= size; at += sizeof(struct living_damage)) {
			struct living_damage damage;

			memcpy(&damage, data + at, sizeof(damage));
			if (damage.record % image_set_count(images) != i || !length)
				continue;
			switch (damage.what % 8) {
			case 4: length = damage.place % length; break;
			case 5: type = damage.value % IMAGE_TYPE_MAX; break;
			case 6: times = 0; break;
			case 7: times = 2, id = damage.id; break;
			default: bytes[damage.place % length] = damage.value; break;
			}
		}
		while (times-- > 0)
			(void)image_set_add_bytes(copy, (enum image_type)type, id, bytes, length, NULL);
		free(bytes);
	}
	return copy;
}
