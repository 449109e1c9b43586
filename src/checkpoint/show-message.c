/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Any message as JSON by its descriptor: names of fields, names of enum values, bytes in hexadecimal; fields that are not set
 * are left out. And files of entries. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image/decode.h"
#include "show-private.h"
#include "util/cleanup.h"

json_t *show_number(uint64_t number)
{
	char text[24];

	if (number <= INT64_MAX)
		return json_integer((json_int_t)number);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	return json_string(text);
}

json_t *show_address(uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)number);
	return json_string(text);
}

static json_t *show_bytes(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(2 * size + 1);

	if (!text)
		return NULL;
	text[0] = '\0';
	for (size_t i = 0; i < size; i++)
		snprintf(text + 2 * i, 3, "%02x", data[i]);
	return json_string(text);
}

json_t *show_text(const void *text, size_t size)
{
	json_t *string = json_stringn(text, size);

	return string ? string : show_bytes(text, size); /* not UTF-8 */
}

/* A value of a field, at its place. */
static json_t *show_value(const ProtobufCFieldDescriptor *field, const void *at)
{
	const ProtobufCEnumValue *value;
	const ProtobufCBinaryData *bytes = at;
	const char *text;

	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32: return json_integer(*(const int32_t *)at);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64: return json_integer(*(const int64_t *)at);
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32: return json_integer(*(const uint32_t *)at);
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64: return show_number(*(const uint64_t *)at);
	case PROTOBUF_C_TYPE_FLOAT: return json_real(*(const float *)at);
	case PROTOBUF_C_TYPE_DOUBLE: return json_real(*(const double *)at);
	case PROTOBUF_C_TYPE_BOOL: return json_boolean(*(const protobuf_c_boolean *)at);
	case PROTOBUF_C_TYPE_ENUM:
		value = protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)at);
		return value ? json_string(value->name) : json_integer(*(const int *)at);
	case PROTOBUF_C_TYPE_STRING:
		text = *(const char *const *)at;
		return show_text(text, strlen(text));
	case PROTOBUF_C_TYPE_BYTES: return show_bytes(bytes->data, bytes->len);
	case PROTOBUF_C_TYPE_MESSAGE: return show_message(*(const ProtobufCMessage *const *)at);
	}
	return json_null();
}

static size_t value_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE: return 8;
	case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
	default: return 4;
	}
}

/* True if the field has a value of its own. */
static bool is_set(const ProtobufCFieldDescriptor *field, const void *at, const void *quantifier)
{
	bool is_pointer = field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;

	if (is_pointer)
		return *(const void *const *)at && *(const void *const *)at != field->default_value;
	return field->label == PROTOBUF_C_LABEL_REQUIRED || *(const protobuf_c_boolean *)quantifier;
}

json_t *show_message(const ProtobufCMessage *message)
{
	json_t *object = json_object();

	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
		const char *at = (const char *)message + field->offset;
		const char *quantifier = (const char *)message + field->quantifier_offset;
		json_t *list;
		size_t count;

		if (field->label != PROTOBUF_C_LABEL_REPEATED) {
			if (is_set(field, at, quantifier))
				json_object_set_new(object, field->name, show_value(field, at));
			continue;
		}
		memcpy(&count, quantifier, sizeof(count));
		list = count ? json_array() : NULL;
		for (size_t k = 0; k < count; k++)
			json_array_append_new(list, show_value(field, *(const char *const *)at + k * value_size(field->type)));
		if (list)
			json_object_set_new(object, field->name, list);
	}
	return object;
}

/* ---- files */

struct entries {
	json_t *list;
	const char *kind; /* of the last one */
	bool mixed;       /* not all are of one kind */
};

static int add_entry(void *context, const struct image_decoded *entry)
{
	struct entries *entries = context;
	json_t *object = entry->message ? show_message(entry->message) : json_object();

	if (entry->extra)
		json_object_set_new(object, "bytes", show_bytes(entry->extra, entry->extra_size));
	entries->mixed |= entries->kind && strcmp(entries->kind, entry->kind) != 0;
	entries->kind = entry->kind;
	object = json_pack("{s:s, s:I, s:o}", "kind", entry->kind, "id", (json_int_t)entry->id, "entry", object);
	return json_array_append_new(entries->list, object) < 0 ? -ENOMEM : 0;
}

int checkpoint_show_file(const char *path, json_t **ret, struct error *error)
{
	struct entries entries = { .list = json_array() };
	struct error damage = ERROR_INIT;
	json_t *problems = json_array();
	struct stat info;
	int r;

	if (stat(path, &info) < 0) {
		r = error_set_errno(error, -errno, "%s", path);
		json_decref(entries.list);
		json_decref(problems);
		return r;
	}
	r = image_decode_file(path, add_entry, &entries, &damage);
	if (r < 0)
		json_array_append_new(problems, show_text(error_text(&damage, r), strlen(error_text(&damage, r))));
	*ret = json_pack("{s:o, s:I, s:s?, s:o, s:o}", "file", show_text(path, strlen(path)), "bytes", (json_int_t)info.st_size,
			 "kind", entries.mixed ? "state" : entries.kind, "problems", problems, "entries", entries.list);
	return 0;
}
