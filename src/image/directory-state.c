/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole image set in one file of ours: a head, each record with its type, id and size, and the hash of all that. Numbers
 * are little-endian, as on the machine.
 */
#include <errno.h>
#include <string.h>

#include "directory-private.h"

#define STATE_MAGIC   UINT64_C(0x4554415453475350) /* "PSGSTATE" */
#define STATE_VERSION 1

struct state_head {
	uint64_t magic;
	uint32_t version;
	uint32_t reserved; /* 0 */
	uint64_t count;    /* records */
};

struct state_record {
	uint32_t type;
	uint32_t id;
	uint32_t size;
};

int image_state_pack(const struct image_set *set, struct buffer *ret, struct error *error)
{
	size_t count = image_set_count(set);
	struct state_head head = { .magic = STATE_MAGIC, .version = STATE_VERSION, .count = count };
	struct image_hash hash;
	int r = buffer_append(ret, &head, sizeof(head));

	for (size_t i = 0; r == 0 && i < count; i++) {
		const struct image_record *record = image_set_get(set, i);
		struct state_record place = { record->type, record->id, (uint32_t)record->size };

		r = buffer_append(ret, &place, sizeof(place));
		if (r == 0)
			r = buffer_append(ret, record->data, record->size);
	}
	if (r == 0) {
		image_hash_bytes(ret->data, ret->size, &hash);
		r = buffer_append(ret, &hash, sizeof(hash));
	}
	return r < 0 ? error_set_errno(error, r, "cannot pack the records") : 0;
}

static int unpack_records(const struct image_directory *dir, const uint8_t *data, size_t size, uint64_t count,
			  struct image_set *set, struct error *error)
{
	size_t at = sizeof(struct state_head);

	for (uint64_t i = 0; i < count; i++) {
		struct state_record place;
		int r;

		if (size - at < sizeof(place))
			return image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO, "it ends before record %llu of %llu",
						(unsigned long long)i + 1, (unsigned long long)count);
		memcpy(&place, data + at, sizeof(place));
		at += sizeof(place);
		if (place.size > size - at)
			return image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO, "it ends in record %llu of %llu",
						(unsigned long long)i + 1, (unsigned long long)count);
		r = image_set_add_bytes(set, (enum image_type)place.type, place.id, data + at, place.size, error);
		if (r < 0)
			return error_wrap(error, r, "%s/%s: record %llu", dir->path, IMAGE_STATE_NAME,
					  (unsigned long long)i + 1);
		at += place.size;
	}
	return at == size ? 0 : image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO, "bytes follow its last record");
}

int image_state_unpack(const struct image_directory *dir, const struct buffer *data, struct image_set *set,
		       struct error *error)
{
	struct state_head head;
	struct image_hash hash;
	size_t size;

	if (data->size < sizeof(head) + sizeof(hash))
		return image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO, "it is too short for a state file");
	memcpy(&head, data->data, sizeof(head));
	if (head.magic != STATE_MAGIC)
		return image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO,
					"it is no state file (wrong magic number)");
	if (head.version != STATE_VERSION)
		return image_file_error(dir, IMAGE_STATE_NAME, error, -EPROTO,
					"its version %u is not known here, only %d is", head.version, STATE_VERSION);
	size = data->size - sizeof(hash);
	image_hash_bytes(data->data, size, &hash);
	if (memcmp(hash.bytes, data->data + size, sizeof(hash)) != 0)
		return image_file_error(dir, IMAGE_STATE_NAME, error, -EBADMSG, "it is damaged: its hash differs");
	return unpack_records(dir, data->data, size, head.count, set, error);
}
