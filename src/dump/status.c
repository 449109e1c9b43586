/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /proc/PID/task/TID/status, read once and taken apart line by line (proc_pid_status(5)). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parts.h"
#include "util/buffer.h"
#include "util/fdio.h"

#define STATUS_MAX (1u << 20) /* 65,536 groups are the most */

static int parse_groups(const char *value, struct dump_status *status)
{
	char *end;

	for (;;) {
		unsigned long group = strtoul(value, &end, 10);

		if (end == value)
			return 0;
		if (array_append(&status->groups, (uint32_t)group) < 0)
			return -ENOMEM;
		value = end;
	}
}

static void parse_ids(const char *value, uint32_t *ids)
{
	(void)sscanf(value, "%" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &ids[0], &ids[1], &ids[2], &ids[3]);
}

static int parse_line(const char *name, const char *value, struct dump_status *status)
{
	const struct {
		const char *name;
		uint64_t *hex;
	} sets[] = {
		{ "CapInh", &status->cap_inh }, { "CapPrm", &status->cap_prm }, { "CapEff", &status->cap_eff },
		{ "CapBnd", &status->cap_bnd }, { "CapAmb", &status->cap_amb },
	};
	const struct {
		const char *name;
		uint64_t *number;
	} sizes[] = {
		{ "VmLck", &status->locked_kib },
		{ "VmPin", &status->pinned_kib },
		{ "VmRSS", &status->rss_kib },
		{ "FDSize", &status->fd_size },
	};

	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		if (strcmp(name, sets[i].name) == 0)
			*sets[i].hex = strtoull(value, NULL, 16);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (strcmp(name, sizes[i].name) == 0)
			*sizes[i].number = strtoull(value, NULL, 10);
	if (strcmp(name, "Uid") == 0)
		parse_ids(value, status->uid);
	else if (strcmp(name, "Gid") == 0)
		parse_ids(value, status->gid);
	else if (strcmp(name, "Groups") == 0)
		return parse_groups(value, status);
	else if (strcmp(name, "Umask") == 0)
		status->umask = (uint32_t)strtoul(value, NULL, 8);
	else if (strcmp(name, "TracerPid") == 0)
		status->tracer = (pid_t)strtol(value, NULL, 10);
	else if (strcmp(name, "Seccomp") == 0)
		status->seccomp = (uint32_t)strtoul(value, NULL, 10);
	else if (strcmp(name, "NoNewPrivs") == 0)
		status->no_new_privs = value[0] == '1';
	return 0;
}

int dump_status_read(pid_t pid, pid_t tid, struct dump_status *ret, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	struct dump_status status = { 0 };
	char path[64];
	char *line, *rest;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	r = fdio_read_record(AT_FDCWD, path, STATUS_MAX, &text);
	if (r == -ENOENT || r == -ESRCH)
		return error_set(error, -ESRCH, "thread %d of PID %d has ended", tid, pid);
	if (r < 0)
		return error_set_errno(error, r, "cannot read %s", path);
	for (line = strtok_r((char *)text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *colon = strchr(line, ':');

		if (!colon)
			continue;
		*colon = '\0';
		r = parse_line(line, colon + 1 + strspn(colon + 1, " \t"), &status);
		if (r < 0) {
			dump_status_deinit(&status);
			return error_set_errno(error, r, "cannot read %s", path);
		}
	}
	*ret = status;
	return 0;
}

void dump_status_deinit(struct dump_status *status)
{
	array_deinit(&status->groups);
}

int dump_process_status(struct dump_process *process, const struct dump_status **ret, struct error *error)
{
	struct dump_status *status;
	int r;

	if (!process->status) {
		status = calloc(1, sizeof(*status));
		r = status ? dump_status_read(process->pid, process->live, status, error)
			   : error_set_errno(error, -ENOMEM, "cannot look at PID %d", process->pid);
		if (r < 0) {
			free(status);
			return r;
		}
		process->status = status;
	}
	*ret = process->status;
	return 0;
}

void dump_process_forget_status(struct dump_process *process)
{
	if (process->status)
		dump_status_deinit(process->status);
	free(process->status);
	process->status = NULL;
}
