/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. Two maps of one element: an order (what was negotiated, whether it is due, what became of it), and the listener, as a
 * map of sockets leads to that very one, where a search by addresses might find another of its group (SO_REUSEPORT). The
 * program is some thirty instructions, written here; of the kernel it needs one function by its number in the kernel's BTF.
 *
 * Failure modes. The kernel is older, has no BTF, or lets us not: whatever of it is lacking is named.
 */
#include "net/queue-program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/buffer.h"
#include "util/cleanup.h"

#define BTF_PATH "/sys/kernel/btf/vmlinux"
#define FUNCTION "bpf_sk_assign_tcp_reqsk"
#define TCX_INGRESS 46 /* BPF_TCX_INGRESS, Linux 6.6; as the next two */
#define TCX_BEFORE (1u << 3)
#define TCX_NEXT (-1)
#define TCX_PASS 0
#define KIND_ENUM64 19 /* BTF_KIND_ENUM64, Linux 6.0 */

/* The value of the map. */
struct order {
	uint32_t due;
	int32_t result;
	struct net_queue_attributes attributes;
};

static int bpf(int command, union bpf_attr *attributes)
{
	long r = syscall(SYS_bpf, command, attributes, sizeof(*attributes));

	return r < 0 ? -errno : (int)r;
}

/* ---- the kernel's types */

/* Bytes that follow a type; -1: a kind that is not known. */
static ssize_t extra_bytes(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_ENUM:
	case BTF_KIND_FUNC_PROTO:
		return (ssize_t)(count * 8);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_DATASEC:
	case KIND_ENUM64:
		return (ssize_t)(count * 12);
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return 0;
	default:
		return -1;
	}
}

static int read_types(struct buffer *ret)
{
	_cleanup_fd_ int fd = open(BTF_PATH, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *place;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	place = buffer_extend(ret, (size_t)st.st_size + 1);
	if (!place)
		return -ENOMEM;
	place[st.st_size] = '\0'; /* names end before it */
	for (off_t done = 0; done < st.st_size;) {
		ssize_t got = read(fd, place + done, (size_t)(st.st_size - done));

		if (got <= 0)
			return got < 0 ? -errno : -EPROTO;
		done += got;
	}
	return 0;
}

/* The number of a function of the kernel; -ENOENT. */
static int find_function(const char *name)
{
	_cleanup_buffer_ struct buffer types = BUFFER_INIT;
	const struct btf_header *header;
	const uint8_t *place, *end;
	const char *names;
	int r = read_types(&types), id = 1;

	if (r < 0)
		return r;
	header = (const struct btf_header *)types.data;
	if (types.size < sizeof(*header) || header->magic != BTF_MAGIC ||
	    (uint64_t)header->hdr_len + header->type_off + header->type_len >= types.size ||
	    (uint64_t)header->hdr_len + header->str_off + header->str_len >= types.size)
		return -EPROTO;
	place = types.data + header->hdr_len + header->type_off;
	end = place + header->type_len;
	names = (const char *)types.data + header->hdr_len + header->str_off;
	for (; place + sizeof(struct btf_type) <= end; id++) {
		const struct btf_type *type = (const struct btf_type *)place;
		ssize_t extra = extra_bytes(type);

		if (extra < 0)
			return -EPROTO;
		if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC && type->name_off < header->str_len &&
		    strcmp(names + type->name_off, name) == 0)
			return id;
		place += sizeof(*type) + (size_t)extra;
	}
	return -ENOENT;
}

/* ---- the program */

#define INSN(c, d, s, o, i) \
	((struct bpf_insn){ .code = (uint8_t)(c), .dst_reg = (d), .src_reg = (s), .off = (int16_t)(o), .imm = (int32_t)(i) })
#define MOVE(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SET(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE(d, o, s) INSN(BPF_STX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE_ZERO(d, o) INSN(BPF_ST | BPF_MEM | BPF_W, d, 0, o, 0)
/* Skips the next `n` instructions. */
#define SKIP_IF(op, d, i, n) INSN(BPF_JMP32 | (op) | BPF_K, d, 0, n, i)
#define SKIP_UNLESS_NULL(d, n) INSN(BPF_JMP | BPF_JNE | BPF_K, d, 0, n, 0)
#define CALL(function) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, function)
#define CALL_KERNEL(id) INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id)
#define MAP(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define RETURN(i) SET(BPF_REG_0, i), INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

#define R0 BPF_REG_0
#define R1 BPF_REG_1
#define R2 BPF_REG_2
#define R3 BPF_REG_3
#define R4 BPF_REG_4
#define R6 BPF_REG_6 /* the packet */
#define R7 BPF_REG_7 /* the order */
#define R8 BPF_REG_8 /* the listener */
#define R10 BPF_REG_10

static int load_program(struct net_queue_program *program, uint32_t mark, int function)
{
	const struct bpf_insn code[] = {
		MOVE(R6, R1),
		LOAD(R2, R6, offsetof(struct __sk_buff, mark)),
		SKIP_IF(BPF_JEQ, R2, mark, 2),
		RETURN(TCX_NEXT),
		LOAD(R2, R6, offsetof(struct __sk_buff, priority)),
		SKIP_IF(BPF_JEQ, R2, program->cookie, 2),
		RETURN(TCX_NEXT),
		STORE_ZERO(R10, -4),
		/* Is it due? */
		MAP(R1, program->order_map),
		MOVE(R2, R10),
		ADD(R2, -4),
		CALL(BPF_FUNC_map_lookup_elem),
		SKIP_UNLESS_NULL(R0, 2),
		RETURN(TCX_NEXT),
		MOVE(R7, R0),
		LOAD(R1, R7, offsetof(struct order, due)),
		SKIP_IF(BPF_JNE, R1, 0, 2),
		RETURN(TCX_PASS), /* what comes behind it */
		STORE_ZERO(R7, offsetof(struct order, due)),
		MAP(R1, program->listener_map),
		MOVE(R2, R10),
		ADD(R2, -4),
		CALL(BPF_FUNC_map_lookup_elem),
		SKIP_UNLESS_NULL(R0, 2),
		RETURN(TCX_NEXT),
		MOVE(R8, R0),
		MOVE(R1, R0),
		CALL(BPF_FUNC_skc_to_tcp_sock),
		SKIP_UNLESS_NULL(R0, 4),
		MOVE(R1, R8),
		CALL(BPF_FUNC_sk_release),
		RETURN(TCX_NEXT),
		MOVE(R1, R6),
		MOVE(R2, R0),
		MOVE(R3, R7),
		ADD(R3, offsetof(struct order, attributes)),
		SET(R4, sizeof(struct net_queue_attributes)),
		CALL_KERNEL(function),
		STORE(R7, offsetof(struct order, result), R0),
		MOVE(R1, R8),
		CALL(BPF_FUNC_sk_release),
		RETURN(TCX_PASS),
	};
	union bpf_attr attributes = {
		.prog_type = BPF_PROG_TYPE_SCHED_CLS,
		.insns = (uintptr_t)code,
		.insn_cnt = sizeof(code) / sizeof(code[0]),
		.license = (uintptr_t)"Dual BSD/GPL", /* of these instructions: the kernel's function asks for it */
	};
	int r;

	strcpy(attributes.prog_name, "pagestream");
	r = bpf(BPF_PROG_LOAD, &attributes);
	if (r < 0)
		return r;
	program->program = r;
	return 0;
}

static int make_map(enum bpf_map_type type, uint32_t value_size, int *ret)
{
	union bpf_attr attributes = { .map_type = type, .key_size = 4, .value_size = value_size, .max_entries = 1 };
	int r;

	strcpy(attributes.map_name, "pagestream");
	r = bpf(BPF_MAP_CREATE, &attributes);
	if (r < 0)
		return r;
	*ret = r;
	return 0;
}

static int update(int map, const void *value)
{
	uint32_t key = 0;
	union bpf_attr attributes = { .map_fd = (uint32_t)map, .key = (uintptr_t)&key, .value = (uintptr_t)value };

	return bpf(BPF_MAP_UPDATE_ELEM, &attributes);
}

int net_queue_program_attach(struct net_queue_program *program, struct error *error)
{
	union bpf_attr attributes = { .link_create = {
		.prog_fd = (uint32_t)program->program, .target_ifindex = if_nametoindex("lo"),
		.attach_type = TCX_INGRESS, .flags = TCX_BEFORE } };
	int r;

	if (program->link >= 0)
		return 0;
	r = bpf(BPF_LINK_CREATE, &attributes);
	if (r < 0)
		return error_set_errno(error, r, "cannot put a BPF program at the loopback device");
	program->link = r;
	return 0;
}

int net_queue_program_load(struct net_queue_program *program, uint32_t mark, struct error *error)
{
	int function = find_function(FUNCTION), r;

	if (function == -ENOENT)
		return error_set(error, -EOPNOTSUPP, "the kernel has no %s(), which Linux 6.9 brought", FUNCTION);
	if (function < 0)
		return error_set_errno(error, function, "cannot read the kernel's types (CONFIG_DEBUG_INFO_BTF)");
	if (getrandom(&program->cookie, sizeof(program->cookie), 0) != sizeof(program->cookie))
		return error_set_errno(error, -EIO, "no random number for the queue of a listening socket");
	r = make_map(BPF_MAP_TYPE_ARRAY, sizeof(struct order), &program->order_map);
	if (r == 0)
		r = make_map(BPF_MAP_TYPE_SOCKMAP, sizeof(int), &program->listener_map);
	if (r < 0)
		return error_set_errno(error, r, "cannot make a BPF map");
	r = load_program(program, mark, function);
	return r < 0 ? error_set_errno(error, r, "the kernel does not take the BPF program for connections that wait") : 0;
}

int net_queue_program_clone(const struct net_queue_program *program, struct net_queue_program *ret, struct error *error)
{
	ret->cookie = program->cookie;
	ret->order_map = fcntl(program->order_map, F_DUPFD_CLOEXEC, 0);
	ret->listener_map = fcntl(program->listener_map, F_DUPFD_CLOEXEC, 0);
	ret->program = fcntl(program->program, F_DUPFD_CLOEXEC, 0);
	return ret->order_map < 0 || ret->listener_map < 0 || ret->program < 0 ?
		       error_set_errno(error, -errno, "copying descriptors") : 0;
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close_fd(fd);
}

void net_queue_program_deinit(struct net_queue_program *program)
{
	close_one(&program->link);
	close_one(&program->program);
	close_one(&program->listener_map);
	close_one(&program->order_map);
}

int net_queue_program_arm(struct net_queue_program *program, int listener, const struct net_queue_attributes *attributes)
{
	const struct order order = { .due = 1, .result = -EINPROGRESS, .attributes = *attributes };
	int r = update(program->listener_map, &listener);

	return r < 0 ? r : update(program->order_map, &order);
}

int net_queue_program_result(const struct net_queue_program *program)
{
	struct order order = { 0 };
	uint32_t key = 0;
	union bpf_attr attributes = { .map_fd = (uint32_t)program->order_map, .key = (uintptr_t)&key,
				      .value = (uintptr_t)&order };
	int r = bpf(BPF_MAP_LOOKUP_ELEM, &attributes);

	return r < 0 ? r : order.result;
}

void net_queue_program_disarm(struct net_queue_program *program)
{
	const struct order order = { 0 };
	uint32_t key = 0;
	union bpf_attr attributes = { .map_fd = (uint32_t)program->listener_map, .key = (uintptr_t)&key };

	(void)update(program->order_map, &order);
	(void)bpf(BPF_MAP_DELETE_ELEM, &attributes);
}
