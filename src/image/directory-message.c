/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages by reflection: taking out the fields that only we know, and putting them back. Such messages are unpacked into an
 * arena, so that a member can be dropped or borrowed without a thought of who frees it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core.pb-c.h"
#include "directory-private.h"
#include "fdinfo.pb-c.h"
#include "sk-packet.pb-c.h"

#define OWN_FIELD 1000 /* the first number that is ours */

/* Fields of CRIU that are newer than Debian's crit (3.17.1), which drops them. */
static const struct {
	const ProtobufCMessageDescriptor *message;
	uint32_t field;
} newer_fields[] = {
	{ &socket_packet__descriptor, 128 },
	{ &core_process__descriptor, 19 },
	{ &open_file__descriptor, 22 },
};

void *image_arena_take(struct image_arena *arena, size_t size)
{
	void *block = calloc(1, size ? size : 1);

	if (!block || array_append(&arena->blocks, block) < 0) {
		free(block);
		arena->failed = true;
		return NULL;
	}
	return block;
}

static void *arena_alloc(void *arena, size_t size)
{
	return image_arena_take(arena, size);
}

static void arena_free(void *arena, void *block)
{
	(void)arena;
	(void)block;
}

void image_arena_deinit(struct image_arena *arena)
{
	array_for_each(block, &arena->blocks)
		free(*block);
	array_deinit(&arena->blocks);
}

ProtobufCMessage *image_arena_unpack(struct image_arena *arena, const ProtobufCMessageDescriptor *descriptor,
				     const void *data, size_t size)
{
	ProtobufCAllocator allocator = { .alloc = arena_alloc, .free = arena_free, .allocator_data = arena };

	return protobuf_c_message_unpack(descriptor, &allocator, size, data);
}

static bool is_foreign(const ProtobufCMessageDescriptor *message, const ProtobufCFieldDescriptor *field)
{
	for (size_t i = 0; i < sizeof(newer_fields) / sizeof(newer_fields[0]); i++)
		if (newer_fields[i].message == message && newer_fields[i].field == field->id)
			return true;
	return field->id >= OWN_FIELD;
}

static void *member_of(const ProtobufCMessage *message, unsigned offset)
{
	return (char *)message + offset;
}

/* Whether the field is a pointer (which is its own "is there"), not a value with a flag beside it. */
static bool is_pointer(const ProtobufCFieldDescriptor *field)
{
	return field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static size_t value_size(const ProtobufCFieldDescriptor *field)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return sizeof(uint64_t);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	default:
		return sizeof(uint32_t);
	}
}

static void clear_field(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		memset(member_of(message, field->quantifier_offset), 0, sizeof(size_t));
	else if (is_pointer(field))
		memset(member_of(message, field->offset), 0, sizeof(void *));
	else if (field->label == PROTOBUF_C_LABEL_OPTIONAL)
		memset(member_of(message, field->quantifier_offset), 0, sizeof(protobuf_c_boolean));
}

/* The messages in a field: none, one, or the list's. */
static ProtobufCMessage **messages_of(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t *ret_count)
{
	ProtobufCMessage **place = member_of(message, field->offset);

	*ret_count = 0;
	if (field->type != PROTOBUF_C_TYPE_MESSAGE)
		return NULL;
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		memcpy(ret_count, member_of(message, field->quantifier_offset), sizeof(*ret_count));
		memcpy(&place, member_of(message, field->offset), sizeof(place));
		return place;
	}
	*ret_count = *place ? 1 : 0;
	return place;
}

void image_message_strip(ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *descriptor = message->descriptor;

	message->n_unknown_fields = 0;
	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		ProtobufCMessage **children;
		size_t count;

		if (is_foreign(descriptor, field)) {
			clear_field(message, field);
			continue;
		}
		children = messages_of(message, field, &count);
		for (size_t k = 0; k < count; k++)
			image_message_strip(children[k]);
	}
}

static void copy_field(ProtobufCMessage *to, const ProtobufCMessage *from, const ProtobufCFieldDescriptor *field)
{
	size_t size = field->label == PROTOBUF_C_LABEL_REPEATED ? sizeof(void *) : value_size(field);

	memcpy(member_of(to, field->offset), member_of(from, field->offset), size);
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		memcpy(member_of(to, field->quantifier_offset), member_of(from, field->quantifier_offset), sizeof(size_t));
	else if (field->label == PROTOBUF_C_LABEL_OPTIONAL && !is_pointer(field))
		memcpy(member_of(to, field->quantifier_offset), member_of(from, field->quantifier_offset),
		       sizeof(protobuf_c_boolean));
}

void image_message_adopt(ProtobufCMessage *to, const ProtobufCMessage *from)
{
	const ProtobufCMessageDescriptor *descriptor = to->descriptor;

	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
		ProtobufCMessage **children, **others;
		size_t count, other_count;

		if (is_foreign(descriptor, field)) {
			copy_field(to, from, field);
			continue;
		}
		children = messages_of(to, field, &count);
		others = messages_of((ProtobufCMessage *)from, field, &other_count);
		for (size_t k = 0; count == other_count && k < count; k++)
			image_message_adopt(children[k], others[k]);
	}
}
