/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file is known by its magic number, not by its name, which may be another one by now; only the id is in the name.
 */
#include "decode.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "directory-private.h"
#include "pagemap.pb-c.h"
#include "pagestream-files.pb-c.h"
#include "pipe.pb-c.h"
#include "sk-packet.pb-c.h"
#include "util/cleanup.h"

/* Records that only the state file has. */
static const struct {
	enum image_type type;
	const ProtobufCMessageDescriptor *descriptor;
} own_kinds[] = {
	{ IMAGE_THREAD_EXTRA, &thread_extra__descriptor },   { IMAGE_PROCESS_EXTRA, &process_extra__descriptor },
	{ IMAGE_MM_EXTRA, &mm_extra__descriptor },	     { IMAGE_SHARED_MEMORY, &shared_memory__descriptor },
	{ IMAGE_DATAGRAM, &datagram__descriptor },	     { IMAGE_RING_BUFFERS, &io_uring_buffers__descriptor },
	{ IMAGE_FILE_CHECK, &file_check__descriptor },
};

static const struct image_criu_kind pagemap_head = {
	IMAGE_PAGEMAP, "pagemap", true, false, IMAGE_MAGIC_PAGEMAP, &pagemap_head__descriptor, IMAGE_EXTRA_NONE,
};

struct decoder {
	const struct image_directory *dir; /* only its path and descriptor */
	const char *name;
	image_decode_fn *each;
	void *context;
	struct error *error;
};

/* ---- the state file */

static const ProtobufCMessageDescriptor *record_descriptor(enum image_type type)
{
	const struct image_criu_kind *kind = image_criu_kind_of(type);

	for (size_t i = 0; i < sizeof(own_kinds) / sizeof(own_kinds[0]); i++)
		if (own_kinds[i].type == type)
			return own_kinds[i].descriptor;
	return kind ? kind->descriptor : NULL;
}

/* True if the next record of this type is bytes that belong to the message. */
static bool bytes_follow(enum image_type type, const ProtobufCMessage *message)
{
	if (type == IMAGE_PIPE_DATA || type == IMAGE_FIFO_DATA)
		return ((const PipeData *)message)->bytes > 0;
	return type == IMAGE_SOCKET_QUEUE && ((const SocketPacket *)message)->length > 0;
}

static int decode_records(const struct decoder *decoder, const struct image_set *set)
{
	enum image_type bytes_of = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < image_set_count(set); i++) {
		const struct image_record *record = image_set_get(set, i);
		const ProtobufCMessageDescriptor *descriptor = record_descriptor(record->type);
		struct image_decoded entry = { .kind = image_type_name(record->type), .type = record->type, .id = record->id };
		_cleanup_message_ ProtobufCMessage *message = NULL;

		if (!descriptor || record->type == bytes_of) {
			entry.extra = record->data;
			entry.extra_size = record->size;
			bytes_of = 0;
		} else {
			r = image_record_unpack(record, descriptor, &message, decoder->error);
			if (r < 0)
				return error_wrap(decoder->error, r, "%s/%s: record %zu", decoder->dir->path, decoder->name,
						  i + 1);
			entry.message = message;
			bytes_of = bytes_follow(record->type, message) ? record->type : 0;
		}
		r = decoder->each(decoder->context, &entry);
	}
	return r;
}

static int decode_state(const struct decoder *decoder, const struct buffer *file)
{
	struct image_set *set;
	int r = image_set_new(&set);

	if (r < 0)
		return image_file_errno(decoder->dir, decoder->name, decoder->error, r, "cannot read it");
	r = image_state_unpack(decoder->dir, file, set, decoder->error);
	if (r == 0)
		r = decode_records(decoder, set);
	image_set_free(set);
	return r;
}

/* ---- images */

static const struct image_criu_kind *find_kind(const struct buffer *file)
{
	uint32_t magic[2] = { 0 };

	memcpy(magic, file->data, file->size < sizeof(magic) ? file->size : sizeof(magic));
	if (magic[0] == IMAGE_MAGIC_COMMON && magic[1] == IMAGE_MAGIC_PAGEMAP)
		return &pagemap_head;
	for (size_t i = 0; i < image_criu_kind_count; i++) {
		const struct image_criu_kind *kind = &image_criu_kinds[i];
		bool inventory = kind->type == IMAGE_INVENTORY;

		if ((inventory || magic[0] == IMAGE_MAGIC_COMMON) && magic[inventory ? 0 : 1] == kind->magic)
			return kind;
	}
	return NULL;
}

/* The number between the last '-' and ".img". */
static uint32_t id_of(const char *name, bool hex)
{
	const char *dash = strrchr(name, '-');

	return dash ? (uint32_t)strtoul(dash + 1, NULL, hex ? 16 : 10) : 0;
}

static int decode_image(const struct decoder *decoder, const struct image_criu_kind *kind, const struct buffer *file)
{
	struct image_decoded decoded = { .kind = kind->name, .type = kind->type };
	const ProtobufCMessageDescriptor *descriptor = kind->descriptor;
	struct image_criu_reader reader;
	struct image_criu_entry entry;
	int r = image_criu_reader_init(&reader, decoder->dir, decoder->name, kind, file, decoder->error);

	if (kind->has_id)
		decoded.id = id_of(decoder->name, kind->hex);
	while (r == 0 && (r = image_criu_next(&reader, &entry, decoder->error)) > 0) {
		ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, NULL, entry.size, entry.payload);

		if (!message)
			return image_file_error(decoder->dir, decoder->name, decoder->error, -EPROTO,
						"entry %zu is damaged: its %zu bytes are no such message", reader.number,
						entry.size);
		decoded.message = message;
		decoded.extra = entry.extra_size ? entry.extra : NULL;
		decoded.extra_size = entry.extra_size;
		r = decoder->each(decoder->context, &decoded);
		protobuf_c_message_free_unpacked(message, NULL);
		if (kind == &pagemap_head)
			descriptor = &pagemap_entry__descriptor;
	}
	return r;
}

static int decode(const struct decoder *decoder)
{
	_cleanup_buffer_ struct buffer file = BUFFER_INIT;
	const struct image_criu_kind *kind;
	int r;

	if (image_file_is_pages(decoder->name) || strcmp(decoder->name, IMAGE_SEAL_NAME) == 0)
		return image_file_error(decoder->dir, decoder->name, decoder->error, -EOPNOTSUPP, "it has no entries: %s",
					image_file_is_pages(decoder->name) ? "it is plain pages, and a page map says of which "
					"addresses" : "it is text, the hashes of the other files");
	r = image_file_read(decoder->dir, decoder->name, &file, decoder->error);
	if (r < 0)
		return r == -ENOENT ? image_file_errno(decoder->dir, decoder->name, decoder->error, r, "cannot read it") : r;
	if (strcmp(decoder->name, IMAGE_STATE_NAME) == 0)
		return decode_state(decoder, &file);
	kind = find_kind(&file);
	if (!kind)
		return image_file_error(decoder->dir, decoder->name, decoder->error, -EOPNOTSUPP,
					"it is no image that is known here: it does not begin with such a magic number");
	return decode_image(decoder, kind, &file);
}

int image_decode_file(const char *path, image_decode_fn *each, void *context, struct error *error)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	struct image_directory dir = { .path = folder };
	struct decoder decoder = { &dir, slash ? slash + 1 : path, each, context, error };
	int r;

	if (!folder)
		return error_set_errno(error, -ENOMEM, "%s", path);
	dir.fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir.fd < 0)
		return error_set_errno(error, -errno, "%s", folder);
	r = decode(&decoder);
	close(dir.fd);
	return r;
}

/* ---- directories */

static int keep_record(void *context, const struct image_decoded *entry)
{
	struct image_set *set = context;
	int r = 0;

	if (entry->type == 0 || entry->type == IMAGE_PAGEMAP)
		return 0;
	if (entry->message)
		r = image_set_add(set, entry->type, entry->id, entry->message, NULL);
	if (r == 0 && entry->extra && entry->type != IMAGE_GHOST_FILE)
		r = image_set_add_bytes(set, entry->type, entry->id, entry->extra, entry->extra_size, NULL);
	return r;
}

static void keep_images(const struct image_directory *dir, struct image_set *set, image_decode_problem_fn *problem,
			void *context)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *file;

	if (!list)
		cleanup_fd(&fd);
	while (list && (file = readdir(list))) {
		struct error error = ERROR_INIT;
		struct decoder decoder = { dir, file->d_name, keep_record, set, &error };
		int r;

		if (!image_file_is_image(file->d_name) || image_file_is_pages(file->d_name))
			continue;
		r = decode(&decoder);
		if (r < 0 && r != -EOPNOTSUPP)
			problem(context, error_text(&error, r));
	}
}

int image_decode_directory(const char *path, image_decode_problem_fn *problem, void *context, struct image_set **ret,
			   struct error *error)
{
	struct image_directory dir = { .path = (char *)path, .fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) };
	struct error damage = ERROR_INIT;
	struct decoder decoder = { &dir, IMAGE_STATE_NAME, keep_record, NULL, &damage };
	struct image_set *set;
	int r;

	if (dir.fd < 0)
		return error_set_errno(error, -errno, "%s: cannot open the directory", path);
	if (image_set_new(&set) < 0) {
		close(dir.fd);
		return error_set_errno(error, -ENOMEM, "%s", path);
	}
	decoder.context = set;
	r = decode(&decoder);
	if (r < 0 && r != -ENOENT)
		problem(context, error_text(&damage, r));
	if (image_set_count(set) == 0)
		keep_images(&dir, set, problem, context);
	close(dir.fd);
	*ret = set;
	return 0;
}
