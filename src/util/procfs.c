/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "buffer.h"
#include "cleanup.h"
#include "fdio.h"

#define MAPS_TRIES_MAX  20
#define PROCFS_FILE_MAX (64u << 20) /* 30,000 mappings are some 3 MiB */

static int read_proc(pid_t pid, const char *name, bool in_one_piece, struct buffer *buffer, struct error *error)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	r = in_one_piece ? fdio_read_record(AT_FDCWD, path, PROCFS_FILE_MAX, buffer)
			 : fdio_read_file(AT_FDCWD, path, PROCFS_FILE_MAX, buffer);
	if (r == -ENOENT || r == -ESRCH)
		return error_set(error, -ESRCH, "no process has PID %d", pid);
	if (r < 0)
		return error_set_errno(error, r, "cannot read %s", path);
	return 0;
}

/* The name ends a line, after a run of blanks; it is absent for anonymous memory. */
static int parse_map_line(const char *line, struct procfs_map *map)
{
	char perms[5];
	int name_at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &map->start, &map->end, perms,
		   &map->offset, &map->major, &map->minor, &map->inode, &name_at) < 7 || strlen(perms) != 4)
		return -EPROTO;
	map->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
		    (perms[2] == 'x' ? PROT_EXEC : 0);
	map->shared = perms[3] == 's';
	map->name = NULL;
	if (name_at && line[name_at]) {
		map->name = strdup(line + name_at);
		if (!map->name)
			return -ENOMEM;
	}
	return 0;
}

int procfs_parse_maps(char *text, struct procfs_maps *ret, struct error *error)
{
	struct procfs_maps maps = { 0 };
	char *line, *rest;
	int r;

	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct procfs_map map = { 0 };

		r = parse_map_line(line, &map);
		if (r == 0)
			r = array_append(&maps, map);
		if (r < 0) {
			free(map.name);
			procfs_maps_deinit(&maps);
			return error_set_errno(error, r, "line '%s'", line);
		}
	}
	*ret = maps;
	return 0;
}

static bool maps_in_order(const struct procfs_maps *maps)
{
	for (size_t i = 1; i < maps->count; i++)
		if (maps->items[i].start < maps->items[i - 1].end)
			return false;
	return true;
}

/* It is read a page of text at a time: a mapping that grows in between may be there twice, once with each size. */
int procfs_read_maps(pid_t pid, struct procfs_maps *ret, struct error *error)
{
	for (unsigned tries = 1;; tries++) {
		_cleanup_buffer_ struct buffer text = BUFFER_INIT;
		struct procfs_maps maps = { 0 };
		int r;

		r = read_proc(pid, "maps", false, &text, error);
		if (r < 0)
			return r;
		r = procfs_parse_maps((char *)text.data, &maps, error);
		if (r < 0)
			return error_wrap(error, r, "cannot read /proc/%d/maps", pid);
		if (maps_in_order(&maps)) {
			*ret = maps;
			return 0;
		}
		procfs_maps_deinit(&maps);
		if (tries == MAPS_TRIES_MAX)
			return error_set(error, -EAGAIN, "/proc/%d/maps keeps changing while it is read", pid);
	}
}

void procfs_maps_deinit(struct procfs_maps *maps)
{
	array_for_each(map, maps)
		free(map->name);
	array_deinit(maps);
}

const struct procfs_map *procfs_maps_find(const struct procfs_maps *maps, uint64_t address)
{
	size_t low = 0, high = maps->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (maps->items[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < maps->count && maps->items[low].start <= address)
		return &maps->items[low];
	return NULL;
}

/* comm may hold blanks and brackets: the last ')' ends it. */
int procfs_parse_stat(char *text, struct procfs_stat *ret, struct error *error)
{
	struct procfs_stat stat = { 0 };
	char *open = strchr(text, '('), *close = strrchr(text, ')'), *field, *rest;
	int number = 3;

	if (!open || !close || close < open || close[1] != ' ')
		return error_set(error, -EPROTO, "it has no name in brackets");
	*close = '\0';
	snprintf(stat.comm, sizeof(stat.comm), "%s", open + 1);
	for (field = strtok_r(close + 2, " \n", &rest); field; field = strtok_r(NULL, " \n", &rest), number++) {
		uint64_t value = strtoull(field, NULL, 10);

		switch (number) {
		case 3: stat.state = field[0]; break;
		case 4: stat.ppid = (pid_t)value; break;
		case 5: stat.pgid = (pid_t)value; break;
		case 6: stat.sid = (pid_t)value; break;
		case 7: stat.tty = (int)value; break;
		case 8: stat.foreground = (pid_t)strtol(field, NULL, 10); break;
		case 9: stat.flags = (uint32_t)value; break;
		case 19: stat.nice = strtol(field, NULL, 10); break;
		case 20: stat.threads = strtol(field, NULL, 10); break;
		case 22: stat.start_time = value; break;
		case 26: stat.start_code = value; break;
		case 27: stat.end_code = value; break;
		case 28: stat.start_stack = value; break;
		case 38: stat.exit_signal = (int)value; break;
		case 45: stat.start_data = value; break;
		case 46: stat.end_data = value; break;
		case 47: stat.start_brk = value; break;
		case 48: stat.arg_start = value; break;
		case 49: stat.arg_end = value; break;
		case 50: stat.env_start = value; break;
		case 51: stat.env_end = value; break;
		case 52: stat.exit_code = (int)value; break;
		default: break;
		}
	}
	*ret = stat;
	return 0;
}

int procfs_read_stat(pid_t tid, struct procfs_stat *ret, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r;

	r = read_proc(tid, "stat", true, &text, error);
	if (r < 0)
		return r;
	r = procfs_parse_stat((char *)text.data, ret, error);
	return r < 0 ? error_wrap(error, r, "cannot understand /proc/%d/stat", tid) : 0;
}

int procfs_read_status(pid_t pid, const char *name, char *ret_value, size_t size, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	size_t length = strlen(name);
	char *line, *rest;
	int r;

	r = read_proc(pid, "status", true, &text, error);
	if (r < 0)
		return r;
	for (line = strtok_r((char *)text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(line, name, length) != 0 || line[length] != ':')
			continue;
		line += length + 1;
		line += strspn(line, " \t");
		if ((size_t)snprintf(ret_value, size, "%s", line) >= size)
			return error_set(error, -ENAMETOOLONG, "/proc/%d/status: %s is too long", pid, name);
		return 0;
	}
	return error_set(error, -ENOENT, "/proc/%d/status has no line %s", pid, name);
}

int procfs_read_threads(pid_t pid, struct procfs_pids *pids, struct error *error)
{
	_cleanup_dir_ DIR *dir = NULL;
	struct dirent *entry;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return error_set(error, -ESRCH, "no process has PID %d", pid);
	while ((entry = readdir(dir))) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);

		if (tid > 0 && array_append(pids, tid) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	}
	return 0;
}

int procfs_live_pidfd(pid_t pid)
{
	pid_t live = procfs_live_thread(pid);
	int fd = live ? (int)syscall(SYS_pidfd_open, live, live == pid ? 0 : O_EXCL) : -ESRCH;

	return live && fd < 0 ? -errno : fd;
}

pid_t procfs_live_thread(pid_t pid)
{
	struct procfs_pids threads = { 0 };
	struct procfs_stat stat;
	pid_t found = 0;

	if (procfs_read_stat(pid, &stat, NULL) < 0)
		return 0;
	if (stat.state != 'Z' && stat.state != 'X')
		return pid;
	if (stat.threads > 1 && procfs_read_threads(pid, &threads, NULL) == 0)
		array_for_each(tid, &threads)
			if (!found && procfs_read_stat(*tid, &stat, NULL) == 0 && stat.state != 'Z' && stat.state != 'X')
				found = *tid;
	array_deinit(&threads);
	return found;
}

int procfs_read_children(pid_t pid, struct procfs_pids *pids, struct error *error)
{
	struct procfs_pids threads = { 0 };
	int r;

	r = procfs_read_threads(pid, &threads, error);
	for (size_t i = 0; r == 0 && i < threads.count; i++) {
		_cleanup_buffer_ struct buffer text = BUFFER_INIT;
		char path[96], *word, *rest;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, threads.items[i]);
		if (fdio_read_file(AT_FDCWD, path, PROCFS_FILE_MAX, &text) < 0)
			continue; /* the thread ended; its children are listed by another one */
		for (word = strtok_r((char *)text.data, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
			pid_t child = (pid_t)strtol(word, NULL, 10);

			if (array_append(pids, child) < 0)
				r = error_set(error, -ENOMEM, "out of memory");
		}
	}
	array_deinit(&threads);
	return r;
}
