/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of a tree outlives its processes: System V objects, and names of files in memory that the target has made anew. A file
 * that the target has found in its place is one that both hosts see: its name stays.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump/shared-memory.h"
#include "source.h"

static int note_files(const struct source *source, JournalEntry *entry, JournalFile ***ret)
{
	size_t count = source->files_made.count;
	JournalFile **pointers = malloc(count * (sizeof(*pointers) + sizeof(**pointers)) + 1);
	JournalFile *files;

	if (!pointers)
		return -ENOMEM;
	files = (JournalFile *)(void *)(pointers + count);
	for (size_t i = 0; i < count; i++) {
		uint32_t id = source->files_made.items[i];
		const struct dump_shared_object *object;

		if (!id || id > dump_shared_count(source->dump))
			continue;
		object = dump_shared_get(source->dump, id - 1);
		if (!object->present || !object->path)
			continue;
		journal_file__init(&files[entry->n_files]);
		files[entry->n_files].path = object->path;
		files[entry->n_files].dev = object->dev;
		files[entry->n_files].ino = object->ino;
		pointers[entry->n_files] = &files[entry->n_files];
		entry->n_files++;
	}
	entry->files = pointers;
	*ret = pointers;
	return 0;
}

int leftover_note(const struct source *source, JournalEntry *entry, struct leftover *ret, struct error *error)
{
	int r = image_ipc_list(source->images, &ret->objects, error);

	if (r == 0 && (image_ipc_note(&ret->objects, entry, &ret->ipc) < 0 || note_files(source, entry, &ret->files) < 0))
		r = error_set(error, -ENOMEM, "out of memory");
	return r;
}

void leftover_deinit(struct leftover *leftover)
{
	image_ipcs_deinit(&leftover->objects);
	free(leftover->ipc);
	free(leftover->files);
}

void leftover_end(const JournalEntry *entry)
{
	image_ipc_end(entry);
	for (size_t i = 0; i < entry->n_files; i++) {
		const JournalFile *file = entry->files[i];
		struct stat there;

		if (lstat(file->path, &there) == 0 && there.st_dev == file->dev && there.st_ino == file->ino)
			unlink(file->path);
	}
}
