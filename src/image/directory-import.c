/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The images of CRIU as our records: for a directory that CRIU wrote, and for one of ours of which images were edited.
 *
 * Happy path. Each entry of each image is looked for among those that our own records would give (directory-export.c). If it
 * is there, the record counts, with all that CRIU has no place for. If not, it is an entry from elsewhere: it is translated
 * back (directory-translate.c), and takes from the record in the same place of the same file, if that has a shape like it,
 * the fields that are ours.
 * Records of our own types are taken as long as the process or thread that they belong to is there. The rest is derived
 * (directory-derive.c).
 *
 * Failure modes: -EPROTO for images that are damaged; -EOPNOTSUPP for what cannot be restored here, by its name.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "directory-import.h"
#include "fdinfo.pb-c.h"
#include "memfd.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define GHOST_HEAD     12   /* magic numbers and the length of the record */
#define GHOST_HEAD_MAX 8192 /* with the record */

/* Images that mean something which cannot be restored, by how their names begin. */
static const struct {
	const char *begin;
	const char *what;
} unsupported[] = {
	{ "tty", "a terminal" },
	{ "ipcns-", "an IPC namespace" },		    { "utsns-", "a UTS namespace" },
	{ "netns-", "a network namespace" },		    { "userns-", "a user namespace" },
	{ "pidns-", "a PID namespace" },		    { "autofs-", "an autofs mount" },
	{ "bpfmap-", "a BPF map" },			    { "apparmor", "an AppArmor profile" },
	{ "memfd-secret", "secret memory" },
};

int image_import_no_memory(struct importer *importer)
{
	return error_set_errno(importer->error, -ENOMEM, "%s: cannot read the images", importer->dir->path);
}

/* ---- loading */

/* The entry that we would write with these very bytes; entries mostly are in the same order. */
static struct image_export_entry *find_entry(struct image_export_file *file, size_t number,
					     const struct image_criu_entry *entry)
{
	size_t size = entry->size + entry->extra_size, count = file ? file->entries.count : 0;

	for (size_t i = 0; i < count; i++) {
		struct image_export_entry *candidate = &file->entries.items[(number + i) % count];

		if (!candidate->used && candidate->size == size &&
		    memcmp(file->data.data + candidate->offset, entry->payload, size) == 0)
			return candidate;
	}
	return NULL;
}

static int keep_records(struct importer *importer, struct image_export_entry *entry)
{
	entry->used = true;
	for (size_t i = 0; i < entry->count; i++) {
		const struct image_record *record = importer->export.records.items[entry->first + i];
		struct import_item item = { record->type, record->id, NULL, record->data, record->size };

		if (array_append(&importer->items, item) < 0)
			return image_import_no_memory(importer);
	}
	return 0;
}

/* Gives a message that was edited the fields of ours that the record in its place has. */
static void adopt_fields(struct importer *importer, struct image_export_file *file, size_t number, size_t total,
			 ProtobufCMessage *message, enum image_type type)
{
	const struct image_export_entry *entry;
	const struct image_record *record;
	ProtobufCMessage *own;

	if (!file || number >= file->entries.count || total != file->entries.count)
		return;
	entry = &file->entries.items[number];
	record = entry->count ? importer->export.records.items[entry->first] : NULL;
	if (!record || record->type != type)
		return;
	own = image_arena_unpack(&importer->arena, message->descriptor, record->data, record->size);
	if (own)
		image_message_adopt(message, own);
}

static int note_memfd(struct importer *importer, const struct image_criu_kind *kind, const ProtobufCMessage *message)
{
	const OpenFile *file = (const OpenFile *)message;
	const MemFdInode *inode = (const MemFdInode *)message;
	struct import_memfd open_file;
	struct import_object object;

	if (kind->type == IMAGE_FILES && file->memfd) {
		open_file = (struct import_memfd){ file->memfd->id, file->memfd->inode_id };
		return array_append(&importer->memfds, open_file) < 0 ? image_import_no_memory(importer) : 0;
	}
	if (kind->type == IMAGE_MEMFD) {
		object = (struct import_object){ inode->inode_id, inode->shmid };
		return array_append(&importer->objects, object) < 0 ? image_import_no_memory(importer) : 0;
	}
	return 0;
}

static int load_entry(struct importer *importer, const struct image_criu_reader *reader, uint32_t id,
		      struct image_export_file *own, size_t total, const struct image_criu_entry *entry)
{
	const struct image_criu_kind *kind = reader->kind;
	struct image_export_entry *same = find_entry(own, reader->number - 1, entry);
	struct import_item item = { .type = kind->type, .id = id };
	int r;

	item.message = image_arena_unpack(&importer->arena, kind->descriptor, entry->payload, entry->size);
	if (!item.message)
		return image_file_error(importer->dir, reader->name, importer->error, -EPROTO,
					"entry %zu is damaged: its %zu bytes are no such message", reader->number, entry->size);
	r = note_memfd(importer, kind, item.message);
	if (r == 0 && kind->type == 0)
		r = array_append(&importer->locks, (FileLockEntry *)item.message) < 0 ? image_import_no_memory(importer) : 0;
	if (r < 0 || kind->type == 0)
		return r;
	if (same)
		return keep_records(importer, same);
	adopt_fields(importer, own, reader->number - 1, total, item.message, kind->type);
	if (array_append(&importer->items, item) < 0)
		return image_import_no_memory(importer);
	if (entry->extra_size == 0 || kind->extra == IMAGE_EXTRA_GHOST)
		return 0;
	item = (struct import_item){ kind->type, id, NULL, entry->extra, entry->extra_size };
	return array_append(&importer->items, item) < 0 ? image_import_no_memory(importer) : 0;
}

static int count_entries(struct image_criu_reader reader, size_t *ret, struct error *error)
{
	struct image_criu_entry entry;
	int r;

	while ((r = image_criu_next(&reader, &entry, error)) > 0)
		;
	*ret = reader.number;
	return r;
}

/* Of a deleted file only the record: its content stays where it is. */
static int read_ghost(struct importer *importer, const char *name, struct buffer *ret)
{
	_cleanup_fd_ int fd = -1;
	uint64_t size = 0;
	uint32_t length;
	ssize_t got;
	int r = image_file_open(importer->dir, name, &fd, &size, importer->error);

	if (r < 0)
		return r;
	if (!buffer_extend(ret, GHOST_HEAD_MAX))
		return image_import_no_memory(importer);
	got = fdio_pread(fd, ret->data, GHOST_HEAD_MAX, 0);
	if (got < 0)
		return image_file_errno(importer->dir, name, importer->error, (int)got, "cannot read it");
	ret->size = (size_t)got;
	if (ret->size >= GHOST_HEAD) {
		memcpy(&length, ret->data + GHOST_HEAD - sizeof(length), sizeof(length));
		if (length <= ret->size - GHOST_HEAD)
			ret->size = GHOST_HEAD + length;
	}
	return 0;
}

static int load_image(struct importer *importer, const struct image_criu_kind *kind, const char *name, uint32_t id)
{
	struct image_export_file *own = image_export_find(&importer->export, name);
	struct image_criu_reader reader;
	struct image_criu_entry entry;
	struct buffer file = BUFFER_INIT;
	size_t total = 0;
	int r;

	r = kind->extra == IMAGE_EXTRA_GHOST ? read_ghost(importer, name, &file)
					     : image_file_read(importer->dir, name, &file, importer->error);
	if (r < 0 || array_append(&importer->files, file) < 0) {
		buffer_deinit(&file);
		return r < 0 ? r : image_import_no_memory(importer);
	}
	if (kind->type == 0 && (!own || own->data.size != file.size || memcmp(own->data.data, file.data, file.size) != 0))
		importer->locks_changed = true;
	r = image_criu_reader_init(&reader, importer->dir, name, kind, &file, importer->error);
	if (r == 0)
		r = count_entries(reader, &total, importer->error);
	while (r == 0 && (r = image_criu_next(&reader, &entry, importer->error)) > 0)
		r = load_entry(importer, &reader, id, own, total, &entry);
	return r;
}

static int load_images(struct importer *importer)
{
	array_for_each(file, &importer->dir->files) {
		uint32_t id = 0;
		const struct image_criu_kind *kind = image_criu_kind_named(file->name, &id);
		int r = kind ? load_image(importer, kind, file->name, id) : 0;

		if (r < 0)
			return r;
		for (size_t i = 0; !kind && i < sizeof(unsupported) / sizeof(unsupported[0]); i++)
			if (strncmp(file->name, unsupported[i].begin, strlen(unsupported[i].begin)) == 0)
				return image_file_error(importer->dir, file->name, importer->error, -EOPNOTSUPP,
							"%s cannot be restored", unsupported[i].what);
	}
	if (image_export_find(&importer->export, "filelocks.img") && importer->locks.count == 0)
		importer->locks_changed = true;
	return 0;
}

/* ---- records of ours */

/* Which record must be there for one of ours to mean something; 0: none. */
static enum image_type base_type(enum image_type type)
{
	switch (type) {
	case IMAGE_THREAD_EXTRA:
	case IMAGE_PROCESS_EXTRA:
		return IMAGE_CORE;
	case IMAGE_MM_EXTRA:
		return IMAGE_MM;
	default:
		return 0;
	}
}

/* Objects that have an image of their own came with that. */
static bool came_with_image(const struct image_record *record)
{
	_cleanup_message_ SharedMemory *object = NULL;

	return record->type == IMAGE_SHARED_MEMORY && image_unpack(record, shared_memory, &object, NULL) == 0 &&
	       object->memfd;
}

static int take_own_records(struct importer *importer)
{
	int r = 0;

	for (size_t i = 0; importer->native && r == 0 && i < image_set_count(importer->native); i++) {
		const struct image_record *record = image_set_get(importer->native, i);
		enum image_type base = base_type(record->type);

		if (image_criu_kind_of(record->type) || came_with_image(record) ||
		    (base && !image_set_find(importer->set, base, record->id)))
			continue;
		/* That of an edited address space is there already. */
		if (record->type == IMAGE_MM_EXTRA && image_set_find(importer->set, IMAGE_MM_EXTRA, record->id))
			continue;
		r = image_set_add_bytes(importer->set, record->type, record->id, record->data, record->size, importer->error);
	}
	return r;
}

/* ---- all */

static int import_all(struct importer *importer)
{
	int r = load_images(importer);

	if (r < 0)
		return r;
	r = image_import_translate(importer);
	if (r == 0)
		r = take_own_records(importer);
	return r < 0 ? r : image_derive(importer->dir, importer->set, importer->error);
}

int image_import(struct image_directory *dir, const struct image_set *native, struct image_set *set, struct error *error)
{
	struct importer importer = { .dir = dir, .native = native, .set = set, .error = error };
	int r = 0;

	if (native)
		r = image_export_make(native, &importer.export, error);
	if (r == 0)
		r = import_all(&importer);
	image_export_deinit(&importer.export);
	image_arena_deinit(&importer.arena);
	array_for_each(file, &importer.files)
		buffer_deinit(file);
	array_deinit(&importer.files);
	array_deinit(&importer.items);
	array_deinit(&importer.memfds);
	array_deinit(&importer.objects);
	array_deinit(&importer.locks);
	return r;
}
