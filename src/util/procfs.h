/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /proc says of a process (proc(5)). Nothing here stops or changes a process; it may end at any moment, which
 * shows as -ESRCH.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "array.h"
#include "error.h"

#define PROCFS_COMM_MAX 64

/* One line of /proc/PID/maps. */
struct procfs_map {
	uint64_t start;  /* first address */
	uint64_t end;    /* first address behind it */
	uint64_t offset; /* byte offset in the file */
	uint64_t inode;  /* 0: no file */
	uint32_t major;  /* device of the file */
	uint32_t minor;
	int prot;        /* PROT_READ | PROT_WRITE | PROT_EXEC */
	bool shared;     /* MAP_SHARED */
	char *name;      /* path, "[heap]", ... or NULL; owned by the list */
};

struct procfs_maps {
	struct procfs_map *items; /* ordered by address; owned */
	size_t count;
	size_t capacity;
};

/* The fields of /proc/PID/stat that are used (their numbers there in brackets). */
struct procfs_stat {
	char comm[PROCFS_COMM_MAX]; /* [2] without its brackets */
	char state;                 /* [3] */
	pid_t ppid;                 /* [4] */
	pid_t pgid;                 /* [5] */
	pid_t sid;                  /* [6] */
	int tty;                    /* [7] device number of the controlling terminal, 0: none */
	pid_t foreground;           /* [8] foreground process group of that terminal, -1: no terminal */
	uint32_t flags;             /* [9] PF_* of the kernel */
	long nice;                  /* [19] */
	long threads;               /* [20] that have not been waited for; 1: only the main thread */
	uint64_t start_time;        /* [22] clock ticks after boot: with the PID, who it is */
	uint64_t start_code;        /* [26] */
	uint64_t end_code;          /* [27] */
	uint64_t start_stack;       /* [28] */
	int exit_signal;            /* [38] to the parent when it ends */
	uint64_t start_data;        /* [45] */
	uint64_t end_data;          /* [46] */
	uint64_t start_brk;         /* [47] */
	uint64_t arg_start;         /* [48] */
	uint64_t arg_end;           /* [49] */
	uint64_t env_start;         /* [50] */
	uint64_t env_end;           /* [51] */
	int exit_code;              /* [52] of one that has ended: as wait(2) tells it */
};

struct procfs_pids {
	pid_t *items;
	size_t count;
	size_t capacity;
};

/* What procfs_read_maps() and procfs_read_stat() do with the text of the file; they write into `text`. -EPROTO. */
int procfs_parse_maps(char *text, struct procfs_maps *ret, struct error *error);
int procfs_parse_stat(char *text, struct procfs_stat *ret, struct error *error);

int procfs_read_maps(pid_t pid, struct procfs_maps *ret, struct error *error);
void procfs_maps_deinit(struct procfs_maps *maps);
/* The mapping that holds `address`, or NULL. */
const struct procfs_map *procfs_maps_find(const struct procfs_maps *maps, uint64_t address);

/* `tid` may be a thread's; -ESRCH when it is gone. */
int procfs_read_stat(pid_t tid, struct procfs_stat *ret, struct error *error);

/*
 * A line of /proc/PID/status by its name, without name, colon and leading blanks ("SigCgt" -> "0000000180004a03").
 * -ENOENT when the kernel has no such line.
 */
int procfs_read_status(pid_t pid, const char *name, char *ret_value, size_t size, struct error *error);

/* Threads of a process, and children of all of its threads; appended in the kernel's order. */
/*
 * A thread of the process that lives: the first one, whose number is the PID, unless that has ended while others run. Under its
 * number /proc has the memory and the descriptors of the process. 0: nobody lives.
 */
pid_t procfs_live_thread(pid_t pid);
/* A pidfd by which its descriptors can be fetched: that thread's (PIDFD_THREAD, Linux 6.9, if it is not the first). -ESRCH. */
int procfs_live_pidfd(pid_t pid);
int procfs_read_threads(pid_t pid, struct procfs_pids *pids, struct error *error);
int procfs_read_children(pid_t pid, struct procfs_pids *pids, struct error *error);
