/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /proc tells of one process by itself: it changes nothing but the struct dump_process that it is given, so that at the
 * freeze several threads look at several processes at a time, while the one that has stopped them asks them the rest
 * (dump.c). What is made of it is said elsewhere: process.c, thread.c, mm.c.
 *
 * Failure modes: the process is killed meanwhile (-ESRCH); memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/fdio.h"

#define SMALL_FILE_MAX 256

static const char *const namespaces[DUMP_NAMESPACES] = {
	"ns/mnt", "ns/pid", "ns/pid_for_children", "ns/net", "ns/ipc", "ns/uts", "ns/user",
};

static struct dump_same look_same(int dir_fd, const char *path)
{
	struct stat st;

	if (fstatat(dir_fd, path, &st, 0) < 0)
		return (struct dump_same){ 0 };
	return (struct dump_same){ .device = st.st_dev, .inode = st.st_ino };
}

void dump_namespaces_read(struct dump_host *host)
{
	for (size_t i = 0; i < DUMP_NAMESPACES; i++) {
		char path[48];

		snprintf(path, sizeof(path), "/proc/self/%s", namespaces[i]);
		host->namespaces[i] = look_same(AT_FDCWD, path);
	}
}

const char *dump_namespace_name(size_t index)
{
	return namespaces[index] + strlen("ns/");
}

static long read_number(const struct dump_process *process, const char *name, int base, bool *ret_has)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;

	*ret_has = fdio_read_record(process->proc_fd, name, SMALL_FILE_MAX, &text) >= 0;
	return *ret_has ? strtol((const char *)text.data, NULL, base) : 0;
}

static void look(const struct dump_process *process, struct dump_look *ret)
{
	bool has;

	for (size_t i = 0; i < DUMP_NAMESPACES; i++)
		ret->namespaces[i] = look_same(process->proc_fd, namespaces[i]);
	ret->times[0] = look_same(process->proc_fd, "ns/time");
	ret->times[1] = look_same(process->proc_fd, "ns/time_for_children");
	ret->oom_score_adj = (int32_t)read_number(process, "oom_score_adj", 10, &has);
	ret->coredump_filter = (uint32_t)read_number(process, "coredump_filter", 16, &has);
	ret->loginuid = (uint32_t)read_number(process, "loginuid", 10, &ret->has_loginuid);
}

int dump_look_get(struct dump_process *process, const struct dump_look **ret, struct error *error)
{
	if (!process->look) {
		process->look = calloc(1, sizeof(*process->look));
		if (!process->look)
			return error_set_errno(error, -ENOMEM, "cannot look at PID %d", process->pid);
		look(process, process->look);
	}
	*ret = process->look;
	return 0;
}

int dump_look_stopped(struct dump_process *process, struct error *error)
{
	const struct dump_status *status;
	const struct dump_look *ignored;
	struct procfs_maps maps = { 0 };
	int r = tracee_read_maps(process->live, process->tracee ? process->tracee->mem_fd : -1, &maps, error);

	if (r < 0)
		return r;
	procfs_maps_deinit(&process->maps);
	process->maps = maps;
	r = dump_process_status(process, &status, error);
	if (r == 0)
		r = dump_mm_flags_update(process, true, error);
	if (r == 0)
		r = dump_look_get(process, &ignored, error);
	if (r == 0)
		process->look->has_flags = true;
	return r;
}

void dump_look_forget(struct dump_process *process)
{
	free(process->look);
	process->look = NULL;
}
