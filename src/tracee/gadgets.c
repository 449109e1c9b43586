/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the instructions are that inject.c uses: "syscall; ret" and "mov $15, %eax; syscall" in the
 * C library, near its start, or in any other file that a program is made of; for a shell only
 * "syscall", in the vDSO.
 *
 * Searching costs some 300 us, which would be part of the pause. So what was found is kept in the
 * hints, if the caller gave some, by PID, and by device, inode and offset of the file; a forked
 * child tries the addresses of its parent. All of that is believed only after the bytes have been
 * read again.
 */
#include "internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/pidmap.h"

#define CHUNK	 (UINT64_C(64) << 10)
#define SCAN_MAX (UINT64_C(64) << 20) /* executable bytes searched in one process */

/* A file in which both places were found. */
struct hint {
	uint32_t major; /* device */
	uint32_t minor;
	uint64_t inode;
	uint64_t offset;      /* of the mapping in the file */
	uint64_t syscall_ret; /* bytes from the start of the mapping */
	uint64_t sigreturn;
};

/* A process that was stopped before: it need not be asked for its mappings again, of which there
 * may be thousands. */
struct known_process {
	pid_t pid;
	struct gadgets gadgets;
	uint64_t free_end; /* end of a gap */
};

/* A thread that was stopped in a call that will go on by restart_syscall(2), and whose number the code does not tell. */
struct known_call {
	pid_t tid;
	uint64_t nr;
	struct user_regs_struct regs; /* at that stop */
};

struct tracee_hints {
	ARRAY(struct hint) files;
	ARRAY(struct known_process) processes;
	struct pidmap known;          /* places in there, counted from 1 */
	struct kept_areas *kept;      /* owned */
	ARRAY(struct known_call) calls; /* one for each thread, at most */
};

struct tracee_hints *tracee_hints_new(void)
{
	struct tracee_hints *hints = calloc(1, sizeof(*hints));

	if (!hints)
		return NULL;
	hints->kept = kept_new();
	if (!hints->kept) {
		free(hints);
		return NULL;
	}
	return hints;
}

struct kept_areas *hints_kept(struct tracee_hints *hints)
{
	return hints->kept;
}

void tracee_hints_free(struct tracee_hints *hints)
{
	if (!hints)
		return;
	array_deinit(&hints->files);
	array_deinit(&hints->processes);
	pidmap_deinit(&hints->known);
	kept_free(hints->kept);
	array_deinit(&hints->calls);
	free(hints);
}

/* Looked for at once, and not when time matters; clones have what their maker knows. If that fails, it does again later. */
void tracee_process_code_moved(struct tracee_process *process)
{
	process->own->gadgets = (struct gadgets){ .known = false };
	(void)gadgets_find(process, NULL);
}

bool gadgets_complete(const struct gadgets *gadgets)
{
	return gadgets->syscall_ret && gadgets->sigreturn;
}

/* Takes what a piece of code at `address` holds. Looks at each "0f 05"; searched by its rarer byte.
 */
static void scan_code(struct gadgets *gadgets, const uint8_t *code, size_t size, uint64_t address)
{
	static const uint8_t mov_rax[] = { 0x48, 0xc7, 0xc0, 15, 0, 0, 0 },
			     mov_eax[] = { 0xb8, 15, 0, 0, 0 };
	const uint8_t *next = code + 1, *end = code + size;

	while (!gadgets_complete(gadgets) && next < end &&
	       (next = memchr(next, 0x05, (size_t)(end - next)))) {
		const uint8_t *at = next++ - 1;
		uint64_t here = address + (uint64_t)(at - code);

		if (*at != 0x0f)
			continue;
		if (!gadgets->syscall)
			gadgets->syscall = here;
		if (!gadgets->syscall_ret && end - at > 2 && at[2] == 0xc3)
			gadgets->syscall_ret = here;
		if (at - code >= (ptrdiff_t)sizeof(mov_rax) &&
		    memcmp(at - sizeof(mov_rax), mov_rax, sizeof(mov_rax)) == 0)
			gadgets->sigreturn = here - sizeof(mov_rax);
		else if (at - code >= (ptrdiff_t)sizeof(mov_eax) &&
			 memcmp(at - sizeof(mov_eax), mov_eax, sizeof(mov_eax)) == 0)
			gadgets->sigreturn = here - sizeof(mov_eax);
	}
}

static void scan_map(const struct tracee_process *process, const struct procfs_map *map,
		     uint8_t *buffer, uint64_t *left)
{
	const uint64_t overlap = 16; /* an instruction pair may lie across two chunks */
	struct gadgets *gadgets = &process->own->gadgets;

	for (uint64_t at = map->start; at<map->end && * left> 0 && !gadgets_complete(gadgets);
	     at += CHUNK - overlap) {
		size_t size = (size_t)(map->end - at < CHUNK ? map->end - at : CHUNK);
		ssize_t n = fdio_pread(process->mem_fd, buffer, size, at);

		if (n <= 0)
			return;
		scan_code(gadgets, buffer, (size_t)n, at);
		*left -= (uint64_t)n < *left ? (uint64_t)n : *left;
	}
}

static bool is_c_library(const struct procfs_map *map)
{
	return map->name && (strstr(map->name, "/libc.so") || strstr(map->name, "/libc-") ||
			     strstr(map->name, "/ld-musl"));
}

/* Are both places really there? */
static bool verify(const struct tracee_process *process, uint64_t syscall_ret, uint64_t sigreturn)
{
	struct gadgets found = { .known = false };
	uint8_t code[SIGRETURN_MAX];

	if (tracee_process_read(process, syscall_ret, code, 3, NULL) < 0 ||
	    memcmp(code, "\x0f\x05\xc3", 3) != 0 ||
	    tracee_process_read(process, sigreturn, code, sizeof(code), NULL) < 0)
		return false;
	scan_code(&found, code, sizeof(code), sigreturn);
	return found.sigreturn == sigreturn;
}

static struct known_process *find_known(const struct tracee_hints *hints, pid_t pid)
{
	uintptr_t place = (uintptr_t)pidmap_get(&hints->known, (uint32_t)pid);

	return place ? &hints->processes.items[place - 1] : NULL;
}

/*
 * What may have changed since: the program (the bytes tell), the stack has grown (then the stack
 * pointer is outside of what is known, and another place is taken), the gap is in use (then mapping
 * there fails, and another is looked for).
 */
static bool recall(struct tracee_process *process)
{
	const struct known_process *known;

	if (!process->own->hints || process->exit_kill)
		return false;
	known = find_known(process->own->hints, process->pid);
	if (!known || !verify(process, known->gadgets.syscall_ret, known->gadgets.sigreturn))
		return false;
	process->own->gadgets = known->gadgets;
	process->own->free_end = known->free_end;
	return true;
}

static void remember(struct tracee_process *process)
{
	struct known_process known = {
		.pid = process->pid,
		.gadgets = process->own->gadgets,
		.free_end = process->own->free_end,
	};

	struct tracee_hints *hints = process->own->hints;
	struct known_process *older;

	if (!hints || process->exit_kill || !gadgets_complete(&known.gadgets))
		return;
	older = find_known(hints, process->pid);
	if (older)
		*older = known;
	else if (array_append(&hints->processes, known) == 0)
		(void)pidmap_put(&hints->known, (uint32_t)process->pid, (void *)hints->processes.count);
}

void hints_note_call(struct tracee_hints *hints, pid_t tid, const struct user_regs_struct *regs)
{
	const struct known_call call = { .tid = tid, .nr = regs->orig_rax, .regs = *regs };

	if (!hints)
		return;
	array_for_each (older, &hints->calls) {
		if (older->tid == tid) {
			*older = call;
			return;
		}
	}
	(void)array_append(&hints->calls, call);
}

int64_t hints_find_call(const struct tracee_hints *hints, pid_t tid, const struct user_regs_struct *regs)
{
	if (!hints)
		return -1;
	array_for_each (call, &hints->calls) {
		const struct user_regs_struct *was = &call->regs;

		if (call->tid == tid && was->rsp == regs->rsp && was->rdi == regs->rdi && was->rsi == regs->rsi &&
		    was->rdx == regs->rdx && was->r10 == regs->r10)
			return (int64_t)call->nr;
	}
	return -1;
}

/* A forked child mostly has the layout of its parent: two short reads tell. */
static bool inherit(struct tracee_process *process)
{
	const struct gadgets *found;

	if (!process->parent || process->exit_kill)
		return false;
	found = &process->parent->own->gadgets;
	if (!found->known || !gadgets_complete(found) ||
	    !verify(process, found->syscall_ret, found->sigreturn))
		return false;
	process->own->gadgets = *found;
	return true;
}

static bool is_same_file(const struct hint *hint, const struct procfs_map *map)
{
	return hint->inode == map->inode && hint->major == map->major &&
	       hint->minor == map->minor && hint->offset == map->offset;
}

static bool use_hint(struct tracee_process *process, const struct procfs_map *map)
{
	struct gadgets *gadgets = &process->own->gadgets;

	if (!process->own->hints || !map->inode)
		return false;
	array_for_each (hint, &process->own->hints->files) {
		if (!is_same_file(hint, map) ||
		    !verify(process, map->start + hint->syscall_ret, map->start + hint->sigreturn))
			continue;
		gadgets->syscall = gadgets->syscall_ret = map->start + hint->syscall_ret;
		gadgets->sigreturn = map->start + hint->sigreturn;
		return true;
	}
	return false;
}

/* Only a mapping that holds both is worth it. */
static void keep_hint(struct tracee_process *process, const struct procfs_map *map)
{
	const struct gadgets *gadgets = &process->own->gadgets;
	struct hint hint = {
		.major = map->major,
		.minor = map->minor,
		.inode = map->inode,
		.offset = map->offset,
		.syscall_ret = gadgets->syscall_ret - map->start,
		.sigreturn = gadgets->sigreturn - map->start,
	};
	uint64_t size = map->end - map->start;

	if (process->own->hints && map->inode && gadgets_complete(gadgets) &&
	    hint.syscall_ret < size && hint.sigreturn < size)
		(void)array_append(&process->own->hints->files, hint);
}

static bool is_named(const struct procfs_map *map, const char *name)
{
	return map->name && strcmp(map->name, name) == 0;
}

/* The C library first, then the other files, for static programs and other languages. */
static void search_files(struct tracee_process *process, const struct procfs_maps *maps,
			 uint8_t *buffer)
{
	uint64_t left = SCAN_MAX;

	for (int pass = 0; pass < 2; pass++) {
		array_for_each (map, maps) {
			if (!(map->prot & PROT_EXEC) || !(map->prot & PROT_READ) ||
			    is_c_library(map) != (pass == 0) ||
			    (map->name && map->name[0] == '[') ||
			    gadgets_complete(&process->own->gadgets))
				continue;
			if (use_hint(process, map))
				return;
			scan_map(process, map, buffer, &left);
			keep_hint(process, map);
		}
	}
}

static int search(struct tracee_process *process, const struct procfs_maps *maps,
		  struct error *error)
{
	struct gadgets *gadgets = &process->own->gadgets;
	_cleanup_free_ uint8_t *buffer = malloc(CHUNK);
	uint64_t left = SCAN_MAX;

	if (!buffer)
		return error_set(error, -ENOMEM, "out of memory");
	*gadgets = (struct gadgets){ .known = true };
	if (!process->exit_kill)
		search_files(process, maps, buffer);
	array_for_each (map, maps) {
		if (!gadgets->syscall && is_named(map, "[vdso]"))
			scan_map(process, map, buffer, &left);
		if (is_named(map, "[stack]")) {
			gadgets->stack_start = map->start;
			gadgets->stack_end = map->end;
		}
	}
	if (!gadgets->syscall)
		search_files(process, maps, buffer);
	if (gadgets->syscall)
		return 0;
	gadgets->known = false;
	return error_set(error, -ENOEXEC,
			 "PID %d: no system call instruction in its memory (no vDSO)",
			 process->pid);
}

int gadgets_find(struct tracee_process *process, struct error *error)
{
	struct procfs_maps maps = { 0 };
	int r;

	if (process->own->gadgets.known || recall(process) || inherit(process))
		return 0;
	r = procfs_read_maps(process->threads.items[0]->tid, &maps, error);
	if (r < 0)
		return r;
	r = search(process, &maps, error);
	if (r == 0) {
		process->own->free_end = area_find_gap(&maps, 0);
		remember(process);
	}
	procfs_maps_deinit(&maps);
	return r;
}
