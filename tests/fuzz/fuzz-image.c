/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore image proto */
/*
 * Image records: the target's preflight with those of a living process, damaged (living.h); single records as each kind
 * of message; and a journal file. The first byte chooses.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit/scratch.h"
#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "image/journal.h"
#include "living.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "restore/restore.h"
#include "util/cleanup.h"
#include "util/fdio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_images(const uint8_t *data, size_t size)
{
	static struct image_set *living;
	struct image_blockers blockers;
	struct error error = ERROR_INIT;
	struct image_set *images;
	int r;

	if (!living)
		living = living_images();
	images = living_damaged(living, data, size);
	if (!images)
		return;
	image_blockers_init(&blockers);
	r = restore_check(images, &blockers, &error);
	if (r < 0 && !error.message[0])
		abort();
	array_for_each(blocker, &blockers.list)
		if (!blocker->kind || !blocker->object || !blocker->cause || !blocker->remedy)
			abort();
	image_blockers_deinit(&blockers);
	image_set_free(images);
}

static void unpack(const uint8_t *data, size_t size)
{
	static const ProtobufCMessageDescriptor *const kinds[] = {
		&core__descriptor, &descriptor__descriptor, &open_file__descriptor, &address_space__descriptor,
		&mm_extra__descriptor, &process_extra__descriptor, &thread_extra__descriptor,
	};
	struct image_set *images;
	ProtobufCMessage *message;

	if (image_set_new(&images) < 0)
		return;
	if (image_set_add_bytes(images, IMAGE_CORE, 1, data, size, NULL) == 0)
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
			if (image_record_unpack(image_set_find(images, IMAGE_CORE, 1), kinds[i], &message, NULL) == 0)
				protobuf_c_message_free_unpacked(message, NULL);
	image_set_free(images);
}

static void read_journal(const uint8_t *data, size_t size)
{
	char name[64], file[64];
	_cleanup_fd_ int dir = -1;
	struct journal_list list;

	scratch_directory(name, sizeof(name), "fuzz-image");
	dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(file, sizeof(file), "%032x.journal", 7);
	if (fdio_replace_file(dir, file, data, size, 0600) == 0 && journal_list(dir, &list, NULL) == 0) {
		array_for_each(entry, &list.entries) {
			if ((*entry)->session.len != JOURNAL_SESSION_SIZE)
				abort();
			(void)journal_phase_name((*entry)->phase);
			for (size_t i = 0; i < (*entry)->n_processes; i++)
				(void)journal_process_alive((*entry)->processes[i]);
		}
		journal_list_deinit(&list);
	}
	unlinkat(dir, file, 0);
	rmdir(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] % 16 == 1)
		read_journal(data + 1, size - 1);
	else if (data[0] % 4 == 0)
		unpack(data + 1, size - 1);
	else
		check_images(data + 1, size - 1);
	return 0;
}
