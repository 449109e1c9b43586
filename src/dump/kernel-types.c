/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The types of the running kernel, as it describes them (BTF: Documentation/bpf/btf.rst).
 *
 * Model. The file is a header, a list of types of different lengths, each known by its place in the list from 1, and the text
 * of their names. The whole is read, and an index made of where each type begins. Members without a name are structures whose
 * members count as those of what is around them.
 *
 * Failure modes: -EOPNOTSUPP without such a file, or for one that is not understood.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dump/kernel.h"
#include "util/array.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define TYPES_FILE "/sys/kernel/btf/vmlinux"
#define TYPES_MAX  (256u << 20) /* bytes */
#define DEPTH_MAX  16		/* of structures in one another, and of names for one type */

struct dump_kernel_types {
	uint8_t *data; /* the whole file, owned */
	size_t size;
	const char *strings; /* in `data` */
	uint32_t strings_size;
	ARRAY(uint32_t) offsets; /* of each type in `data`; the first is of none */
};

/* What follows a type in the list. */
static size_t tail_size(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case 17: /* BTF_KIND_DECL_TAG, 5.16 */
		return sizeof(uint32_t);
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * sizeof(struct btf_enum);
	case BTF_KIND_FUNC_PROTO:
		return count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return count * sizeof(struct btf_var_secinfo);
	case 19: /* BTF_KIND_ENUM64, 6.0 */
		return count * 12;
	default:
		return 0;
	}
}

static int make_index(struct dump_kernel_types *types)
{
	const struct btf_header *header = (const void *)types->data;
	uint64_t at, end, strings;

	if (types->size < sizeof(*header) || header->magic != BTF_MAGIC)
		return -EOPNOTSUPP;
	at = (uint64_t)header->hdr_len + header->type_off;
	end = at + header->type_len;
	strings = (uint64_t)header->hdr_len + header->str_off;
	if (end > types->size || strings + header->str_len > types->size || header->str_len == 0 ||
	    types->data[strings + header->str_len - 1])
		return -EOPNOTSUPP;
	types->strings = (const char *)types->data + strings;
	types->strings_size = header->str_len;
	if (array_append(&types->offsets, 0) < 0)
		return -ENOMEM;
	while (at < end) {
		const struct btf_type *type = (const void *)(types->data + at);
		size_t length = sizeof(*type);

		if (end - at >= length)
			length += tail_size(type);
		if (length > end - at)
			return -EOPNOTSUPP;
		if (array_append(&types->offsets, (uint32_t)at) < 0)
			return -ENOMEM;
		at += length;
	}
	return 0;
}

int dump_kernel_types_read(struct dump_kernel_types **ret, struct error *error)
{
	struct dump_kernel_types *types = calloc(1, sizeof(*types));
	_cleanup_fd_ int fd = open(TYPES_FILE, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int r = types ? 0 : -ENOMEM;

	if (r == 0 && (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > TYPES_MAX))
		r = -EOPNOTSUPP;
	if (r == 0) {
		types->size = (size_t)st.st_size;
		types->data = malloc(types->size);
		r = types->data ? 0 : -ENOMEM;
	}
	if (r == 0 && fdio_pread(fd, types->data, types->size, 0) != (ssize_t)types->size)
		r = -EOPNOTSUPP;
	if (r == 0)
		r = make_index(types);
	if (r < 0) {
		dump_kernel_types_free(types);
		return error_set_errno(error, r, "the kernel's description of its types");
	}
	*ret = types;
	return 0;
}

void dump_kernel_types_free(struct dump_kernel_types *types)
{
	if (!types)
		return;
	array_deinit(&types->offsets);
	free(types->data);
	free(types);
}

static const struct btf_type *type_get(const struct dump_kernel_types *types, uint32_t id)
{
	return id > 0 && id < types->offsets.count ? (const void *)(types->data + types->offsets.items[id]) : NULL;
}

static bool name_is(const struct dump_kernel_types *types, uint32_t name, const char *wanted, size_t length)
{
	const char *text = name < types->strings_size ? types->strings + name : "";

	return strncmp(text, wanted, length) == 0 && text[length] == 0;
}

/* What a type is behind its other names. */
static const struct btf_type *type_resolve(const struct dump_kernel_types *types, uint32_t id)
{
	for (int i = 0; i < DEPTH_MAX; i++) {
		const struct btf_type *type = type_get(types, id);

		switch (type ? BTF_INFO_KIND(type->info) : BTF_KIND_UNKN) {
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_CONST:
		case BTF_KIND_RESTRICT:
		case 18: /* BTF_KIND_TYPE_TAG, 5.17 */
			id = type->type;
			break;
		default:
			return type;
		}
	}
	return NULL;
}

static bool is_structure(const struct btf_type *type)
{
	return type && (BTF_INFO_KIND(type->info) == BTF_KIND_STRUCT || BTF_INFO_KIND(type->info) == BTF_KIND_UNION);
}

static uint32_t size_of(const struct btf_type *type)
{
	switch (type ? BTF_INFO_KIND(type->info) : BTF_KIND_UNKN) {
	case BTF_KIND_PTR:
		return sizeof(uint64_t);
	case BTF_KIND_INT:
	case BTF_KIND_ENUM:
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return type->size;
	default:
		return 0;
	}
}

/* One step of a path, in members without a name, too. Adds to what `at` has. */
static const struct btf_type *step(const struct dump_kernel_types *types, const struct btf_type *structure, const char *name,
				   size_t length, int depth, struct dump_kernel_member *at)
{
	const struct btf_member *members = (const void *)(structure + 1);
	bool fields = BTF_INFO_KFLAG(structure->info);

	for (uint32_t i = 0; i < BTF_INFO_VLEN(structure->info); i++) {
		uint32_t bit = fields ? BTF_MEMBER_BIT_OFFSET(members[i].offset) : members[i].offset;
		const struct btf_type *type = type_resolve(types, members[i].type), *found;
		struct dump_kernel_member inner = *at;

		inner.offset += bit / 8;
		if (name_is(types, members[i].name_off, name, length)) {
			inner.size = size_of(type);
			inner.bits = fields ? BTF_MEMBER_BITFIELD_SIZE(members[i].offset) : 0;
			inner.shift = inner.bits ? bit % 8 : 0;
			*at = inner;
			return type;
		}
		if (!name_is(types, members[i].name_off, "", 0) || !is_structure(type) || depth == DEPTH_MAX)
			continue;
		found = step(types, type, name, length, depth + 1, &inner);
		if (found) {
			*at = inner;
			return found;
		}
	}
	return NULL;
}

static const struct btf_type *find_structure(const struct dump_kernel_types *types, const char *name)
{
	size_t length = strlen(name);

	for (uint32_t id = 1; id < types->offsets.count; id++) {
		const struct btf_type *type = type_get(types, id);

		if (BTF_INFO_KIND(type->info) == BTF_KIND_STRUCT && name_is(types, type->name_off, name, length))
			return type;
	}
	return NULL;
}

uint32_t dump_kernel_types_size(const struct dump_kernel_types *types, const char *structure)
{
	return size_of(find_structure(types, structure));
}

bool dump_kernel_types_find(const struct dump_kernel_types *types, const char *structure, const char *path,
			    struct dump_kernel_member *ret)
{
	const struct btf_type *type = find_structure(types, structure);
	struct dump_kernel_member at = { 0 };

	while (type) {
		size_t length = strcspn(path, ".");

		type = length > 0 && is_structure(type) ? step(types, type, path, length, 0, &at) : NULL;
		if (type && !path[length]) {
			*ret = at;
			return true;
		}
		path += length + 1;
	}
	return false;
}
