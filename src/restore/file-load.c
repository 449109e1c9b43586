/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File records of an image set, unpacked: each open file with its kind, found by id. Records come
 * from another host: one whose type is unknown, or whose message lacks the part that its type
 * promises, is an error.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "regfile.pb-c.h"
#include "restore/file-kind.h"

static const struct restore_file_kind *const kinds[] = {
	&restore_kind_packet,  &restore_kind_netlink,  &restore_kind_tun,
	&restore_kind_regular, &restore_kind_memfd,    &restore_kind_pipe,    &restore_kind_fifo,
	&restore_kind_unix,    &restore_kind_inet,     &restore_kind_eventfd, &restore_kind_epoll,
	&restore_kind_timerfd, &restore_kind_signalfd, &restore_kind_inotify, &restore_kind_terminal,
	&restore_kind_pidfd,   &restore_kind_namespace, &restore_kind_fanotify, &restore_kind_io_uring,
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

void restore_file_close(struct restore_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (file->other_fd >= 0)
		close(file->other_fd);
	file->fd = file->other_fd = -1;
}

void restore_files_clear(struct restore_files *files)
{
	array_for_each (file, &files->list) {
		restore_file_close(file);
		protobuf_c_message_free_unpacked(&file->message->base, NULL);
	}
	array_clear(&files->list);
}

static int compare_id(const void *left, const void *right)
{
	const struct restore_file *a = left, *b = right;

	return (a->id > b->id) - (a->id < b->id);
}

struct restore_file *restore_file_find(struct restore_files *files, uint32_t id)
{
	struct restore_file key = { .id = id };

	if (files->list.count == 0)
		return NULL;
	return bsearch(&key, files->list.items, files->list.count, sizeof(key), compare_id);
}

/* A record must have the member that its type promises. */
static bool message_is_whole(const OpenFile *message)
{
	switch (message->type) {
	case FILE_TYPE__FILE_REGULAR:
		return message->reg;
	case FILE_TYPE__FILE_PIPE:
		return message->pipe;
	case FILE_TYPE__FILE_FIFO:
		return message->fifo;
	case FILE_TYPE__FILE_INET_SOCKET:
		return message->isk;
	case FILE_TYPE__FILE_UNIX_SOCKET:
		return message->usk;
	case FILE_TYPE__FILE_EVENTFD:
		return message->efd;
	case FILE_TYPE__FILE_EPOLL:
		return message->epfd;
	case FILE_TYPE__FILE_INOTIFY:
		return message->ify;
	case FILE_TYPE__FILE_SIGNALFD:
		return message->sgfd;
	case FILE_TYPE__FILE_TIMERFD:
		return message->tfd;
	case FILE_TYPE__FILE_TERMINAL:
		return message->tty;
	case FILE_TYPE__FILE_NAMESPACE:
		return message->nsf;
	case FILE_TYPE__FILE_PACKET_SOCKET:
		return message->psk;
	case FILE_TYPE__FILE_NETLINK_SOCKET:
		return message->nlsk;
	case FILE_TYPE__FILE_TUN:
		return message->tunf;
	case FILE_TYPE__FILE_FANOTIFY:
		return message->ffy;
	case FILE_TYPE__FILE_IO_URING:
		return message->uring;
	case FILE_TYPE__FILE_PIDFD:
		return message->pidfd;
	case FILE_TYPE__FILE_MEMFD:
		return message->memfd;
	default:
		return false;
	}
}

static int load_file(struct restore_files *files, const struct image_record *record,
		     struct error *error)
{
	struct restore_file file = { .fd = -1, .other_fd = -1 };
	int r;

	r = image_unpack(record, open_file, &file.message, error);
	if (r < 0)
		return r;
	file.id = file.message->id;
	for (size_t i = 0; i < COUNT(kinds); i++)
		if (kinds[i]->type == file.message->type)
			file.kind = kinds[i];
	if (file.message->has_queue)
		file.kind = file.message->type == FILE_TYPE__FILE_REGULAR ? &restore_kind_mqueue : NULL;
	if (!file.kind || !message_is_whole(file.message))
		r = error_set(error, -EPROTO,
			      "open file %u is of the unknown or incomplete type %d", file.id,
			      (int)file.message->type);
	else if (array_append(&files->list, file) < 0)
		r = error_set(error, -ENOMEM, "no memory for open files");
	if (r < 0)
		protobuf_c_message_free_unpacked(&file.message->base, NULL);
	return r;
}

static int load_remaps(struct restore_files *files, const struct image_set *images,
		       struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = NULL;
		struct restore_file *file;
		int r = image_unpack(record, remap_path, &remap, error);

		if (r < 0)
			return r;
		file = restore_file_find(files, remap->orig_id);
		if (!file || file->message->type != FILE_TYPE__FILE_REGULAR)
			return error_set(error, -EPROTO, "deleted file %u belongs to no open file",
					 remap->remap_id);
		file->ghost_id = remap->remap_id;
	}
	return 0;
}

int restore_files_load(struct restore_tree *tree, const struct image_set *images,
		       struct error *error)
{
	struct restore_files *files = restore_files_get(tree);
	const struct image_record *record;
	size_t cursor = 0;
	int r;

	if (!files)
		return error_set(error, -ENOMEM, "no memory for open files");
	restore_files_clear(files);
	while ((record = image_set_next(images, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		r = load_file(files, record, error);
		if (r < 0)
			return r;
	}
	if (files->list.count > 1)
		qsort(files->list.items, files->list.count, sizeof(files->list.items[0]),
		      compare_id);
	r = load_remaps(files, images, error);
	return r < 0 ? r : restore_ghosts_load(tree, images, error);
}
