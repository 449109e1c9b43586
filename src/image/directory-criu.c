/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of a checkpoint directory as CRIU has them: names, magic numbers, and how entries follow one another. A file
 * begins with a magic number common to all (but for the inventory) and one of its kind. An entry is a length of four bytes
 * and a message; after some, bytes follow of which the message tells how many there are.
 *
 * https://criu.org/Images, and Debian's pycriu/images/magic.py.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.pb-c.h"
#include "creds.pb-c.h"
#include "directory-private.h"
#include "eventpoll.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fs.pb-c.h"
#include "fsnotify.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-files.pb-c.h"
#include "pipe.pb-c.h"
#include "pstree.pb-c.h"
#include "regfile.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "timens.pb-c.h"
#include "tty.pb-c.h"

const struct image_criu_kind image_criu_kinds[] = {
	{ IMAGE_INVENTORY, "inventory", false, false, 1479618838, &inventory__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_PSTREE, "pstree", false, false, 1344745520, &tree_process__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_CORE, "core", true, false, 1426405447, &core__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_IDS, "ids", true, false, 1413685296, &object_ids__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_MM, "mm", true, false, 1464412192, &address_space__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_FS, "fs", true, false, 1363163410, &fs__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_FDINFO, "fdinfo", true, false, 1445017394, &descriptor__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_FILES, "files", false, false, 1445998904, &open_file__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_PIPE_DATA, "pipes-data", false, false, 1447376649, &pipe_data__descriptor, IMAGE_EXTRA_PIPE },
	{ IMAGE_FIFO_DATA, "fifo-data", false, false, 1496526932, &pipe_data__descriptor, IMAGE_EXTRA_PIPE },
	{ IMAGE_SOCKET_QUEUE, "sk-queues", false, false, 1445347366, &socket_packet__descriptor, IMAGE_EXTRA_PACKET },
	{ IMAGE_GHOST_FILE, "ghost-file", true, true, 1381512709, &ghost_file__descriptor, IMAGE_EXTRA_GHOST },
	{ IMAGE_REMAP_PATH, "remap-fpath", false, false, 1494432084, &remap_path__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_EVENTPOLL_ITEM, "eventpoll-tfd", false, false, 1145255750, &epoll_item__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_INOTIFY_WATCH, "inotify-wd", false, false, 1414930441, &inotify_watch__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_MEMFD, "memfd", false, false, 1212495001, &mem_fd_inode__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_CREDS, "creds", true, false, 1409430855, &creds__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_TIMENS, "timens", true, false, 1125205043, &clocks__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_TCP_STREAM, "tcp-stream", true, true, 1363563782, &tcp_stream__descriptor, IMAGE_EXTRA_STREAM },
	{ IMAGE_TTY_INFO, "tty-info", false, false, 1497706550, &terminal_info__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_TTY_DATA, "tty-data", false, false, 1497444390, &terminal_data__descriptor, IMAGE_EXTRA_NONE },
	{ IMAGE_SECCOMP, "seccomp", false, false, 1681993801, &seccomp_filters__descriptor, IMAGE_EXTRA_NONE },
	{ 0, "filelocks", false, false, 1412576790, &file_lock_entry__descriptor, IMAGE_EXTRA_NONE },
};
const size_t image_criu_kind_count = sizeof(image_criu_kinds) / sizeof(image_criu_kinds[0]);

const struct image_criu_kind *image_criu_kind_of(enum image_type type)
{
	for (size_t i = 0; i < image_criu_kind_count; i++)
		if (image_criu_kinds[i].type == type)
			return &image_criu_kinds[i];
	return NULL;
}

void image_criu_name(char name[IMAGE_NAME_MAX], const struct image_criu_kind *kind, uint32_t id)
{
	if (!kind->has_id)
		snprintf(name, IMAGE_NAME_MAX, "%s.img", kind->name);
	else
		snprintf(name, IMAGE_NAME_MAX, kind->hex ? "%s-%x.img" : "%s-%u.img", kind->name, id);
}

const struct image_criu_kind *image_criu_kind_named(const char *name, uint32_t *ret_id)
{
	for (size_t i = 0; i < image_criu_kind_count; i++) {
		const struct image_criu_kind *kind = &image_criu_kinds[i];
		size_t length = strlen(kind->name);
		char canonical[IMAGE_NAME_MAX];
		uint32_t id = 0;

		if (strncmp(name, kind->name, length) != 0)
			continue;
		if (kind->has_id && name[length] == '-')
			id = (uint32_t)strtoul(name + length + 1, NULL, kind->hex ? 16 : 10);
		image_criu_name(canonical, kind, id);
		if (strcmp(name, canonical) == 0) {
			*ret_id = id;
			return kind;
		}
	}
	return NULL;
}

int image_criu_begin(struct buffer *file, const struct image_criu_kind *kind)
{
	uint32_t common = IMAGE_MAGIC_COMMON;
	int r = 0;

	if (kind->type != IMAGE_INVENTORY)
		r = buffer_append(file, &common, sizeof(common));
	return r < 0 ? r : buffer_append(file, &kind->magic, sizeof(kind->magic));
}

/* ---- reading */

static int wrong(const struct image_criu_reader *reader, struct error *error, const char *what)
{
	return image_file_error(reader->dir, reader->name, error, -EPROTO, "entry %zu at byte %zu: %s", reader->number + 1,
				reader->at, what);
}

int image_criu_reader_init(struct image_criu_reader *reader, const struct image_directory *dir, const char *name,
			   const struct image_criu_kind *kind, const struct buffer *file, struct error *error)
{
	size_t words = kind->type == IMAGE_INVENTORY ? 1 : 2;
	uint32_t magic[2] = { 0 };

	*reader = (struct image_criu_reader){ .dir = dir, .name = name, .kind = kind, .data = file->data, .size = file->size };
	if (file->size < words * sizeof(magic[0]))
		return image_file_error(dir, name, error, -EPROTO, "it is shorter than its magic numbers");
	memcpy(magic, file->data, words * sizeof(magic[0]));
	if (magic[words - 1] != kind->magic || (words == 2 && magic[0] != IMAGE_MAGIC_COMMON))
		return image_file_error(dir, name, error, -EPROTO, "its magic number is not that of such an image");
	reader->at = words * sizeof(magic[0]);
	return 0;
}

/* How many bytes follow a message. */
static int extra_size(const struct image_criu_reader *reader, const struct image_criu_entry *entry, size_t *ret,
		      struct error *error)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;

	*ret = 0;
	if (reader->kind->extra == IMAGE_EXTRA_GHOST)
		*ret = reader->size - reader->at;
	if (reader->kind->extra == IMAGE_EXTRA_NONE || reader->kind->extra == IMAGE_EXTRA_GHOST)
		return 0;
	message = protobuf_c_message_unpack(reader->kind->descriptor, NULL, entry->size, entry->payload);
	if (!message)
		return wrong(reader, error, "its message is damaged");
	if (reader->kind->extra == IMAGE_EXTRA_PIPE)
		*ret = ((const PipeData *)message)->bytes;
	else if (reader->kind->extra == IMAGE_EXTRA_STREAM)
		*ret = (size_t)((const TcpStream *)message)->inq_len + ((const TcpStream *)message)->outq_len;
	else
		*ret = ((const SocketPacket *)message)->length;
	return 0;
}

int image_criu_next(struct image_criu_reader *reader, struct image_criu_entry *ret, struct error *error)
{
	struct image_criu_entry entry = { .payload = NULL };
	uint32_t size;
	int r;

	if (reader->at == reader->size)
		return 0;
	if (reader->size - reader->at < sizeof(size))
		return wrong(reader, error, "the file ends in the middle of its length");
	memcpy(&size, reader->data + reader->at, sizeof(size));
	if (size > IMAGE_RECORD_MAX || size > reader->size - reader->at - sizeof(size))
		return wrong(reader, error, "the file ends in the middle of it");
	reader->at += sizeof(size);
	entry.payload = reader->data + reader->at;
	entry.size = size;
	reader->at += size;
	r = extra_size(reader, &entry, &entry.extra_size, error);
	if (r < 0)
		return r;
	if (entry.extra_size > reader->size - reader->at)
		return wrong(reader, error, "the file ends in the middle of the bytes behind it");
	entry.extra = reader->data + reader->at;
	reader->at += entry.extra_size;
	reader->number++;
	*ret = entry;
	return 1;
}
