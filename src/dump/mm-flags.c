/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flags of mappings that only /proc/PID/smaps shows ("VmFlags:").
 *
 * The kernel walks all page tables to make that file: some 10 ms a GiB, and some 5 us a mapping. While the process
 * runs that does not matter. At the freeze it would, so for all but small processes the flags of the last round are
 * used for mappings that lie where one was, or that contain one (the kernel only merges and grows mappings with equal
 * flags), and smaps is read only when a mapping is new. What that misses is a madvise() between the last round and
 * the freeze on exactly a whole mapping; the total of locked memory (VmLck) is compared, so that mlock() is never
 * missed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/fdio.h"

#define SMAPS_MAX     (512u << 20)
#define QUICK_RSS_KIB (16u << 10)
#define QUICK_MAPS    100

static const struct {
	char name[3];
	uint32_t flag;
} flag_names[] = {
	{ "gd", DUMP_VM_GROWSDOWN },  { "nr", DUMP_VM_NORESERVE },	{ "lo", DUMP_VM_LOCKED },
	{ "lf", DUMP_VM_LOCK_ON_FAULT }, { "sl", DUMP_VM_SEALED },	{ "mw", DUMP_VM_MAY_WRITE },
	{ "dp", DUMP_VM_DROPPABLE },  { "sr", DUMP_VM_SEQUENTIAL },	{ "rr", DUMP_VM_RANDOM },
	{ "dc", DUMP_VM_DONTFORK },   { "dd", DUMP_VM_DONTDUMP },	{ "hg", DUMP_VM_HUGEPAGE },
	{ "nh", DUMP_VM_NOHUGEPAGE }, { "mg", DUMP_VM_MERGEABLE },	{ "wf", DUMP_VM_WIPEONFORK },
	{ "io", DUMP_VM_IO },	      { "pf", DUMP_VM_IO },		{ "ht", DUMP_VM_HUGETLB },
	{ "um", DUMP_VM_UFFD },	      { "ui", DUMP_VM_UFFD },		{ "ss", DUMP_VM_SHADOW_STACK },
};

/* Older kernels (Linux 6.1, say) have no name for "lf" and show "??"; there nothing else without a name goes with "lo". */
static uint32_t parse_flags(const char *text)
{
	bool nameless = strstr(text, "??") != NULL;
	uint32_t flags = 0;

	for (; text[0] && text[1]; text += 3) {
		for (size_t i = 0; i < sizeof(flag_names) / sizeof(flag_names[0]); i++)
			if (strncmp(text, flag_names[i].name, 2) == 0)
				flags |= flag_names[i].flag;
		if (!text[2])
			break;
	}
	if (nameless && flags & DUMP_VM_LOCKED)
		flags |= DUMP_VM_LOCK_ON_FAULT;
	return flags;
}

static int flags_read(struct dump_process *process, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	struct dump_map_flags current = { 0 };
	char *line, *rest;
	int r;

	r = fdio_read_file(process->proc_fd, "smaps", SMAPS_MAX, &text);
	if (r == -ESRCH || r == -ENOENT)
		return error_set(error, -ESRCH, "PID %d has ended", process->pid);
	if (r < 0)
		return error_set_errno(error, r, "cannot read /proc/%d/smaps", process->pid);
	array_clear(&process->map_flags);
	for (line = strtok_r((char *)text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(line, "VmFlags: ", 9) == 0) {
			current.flags = parse_flags(line + 9);
			if (array_append(&process->map_flags, current) < 0)
				return error_set_errno(error, -ENOMEM, "cannot read /proc/%d/smaps", process->pid);
		} else if ((line[0] >= '0' && line[0] <= '9') || (line[0] >= 'a' && line[0] <= 'f')) {
			(void)sscanf(line, "%" SCNx64 "-%" SCNx64, &current.start, &current.end);
		}
	}
	return 0;
}

/* The first known mapping that ends behind `address`. */
static const struct dump_map_flags *flags_from(const struct dump_process *process, uint64_t address)
{
	size_t low = 0, high = process->map_flags.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (process->map_flags.items[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < process->map_flags.count ? &process->map_flags.items[low] : NULL;
}

/* Can the flags of every mapping be told from the last look? */
static bool flags_known(const struct dump_process *process)
{
	array_for_each(map, &process->maps) {
		const struct dump_map_flags *old = flags_from(process, map->start);

		if (!old || old->start >= map->end)
			return false;
	}
	return true;
}

static uint64_t flags_locked_kib(const struct dump_process *process)
{
	uint64_t locked = 0;

	array_for_each(entry, &process->map_flags)
		if (entry->flags & DUMP_VM_LOCKED)
			locked += (entry->end - entry->start) >> 10;
	return locked;
}

int dump_mm_flags_update(struct dump_process *process, bool quick, struct error *error)
{
	const struct dump_status *status;
	int r;

	if (!quick)
		return flags_read(process, error);
	r = dump_process_status(process, &status, error);
	if (r < 0)
		return r;
	if ((status->rss_kib <= QUICK_RSS_KIB && process->maps.count <= QUICK_MAPS) ||
	    status->locked_kib != flags_locked_kib(process) || !flags_known(process))
		return flags_read(process, error);
	return 0;
}

uint32_t dump_mm_flags_get(const struct dump_process *process, const struct procfs_map *map)
{
	const struct dump_map_flags *entry = flags_from(process, map->start);

	return entry && entry->start < map->end ? entry->flags : 0;
}
