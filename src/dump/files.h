/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and files, source side.
 *
 * Descriptors are fetched with pidfd_getfd(2), which works while the process runs; what they are is
 * told by fstat(2), fcntl(2) and /proc/PID/fdinfo. Nothing of the process is changed or consumed:
 * data in pipes is copied with tee(2), data in sockets is peeked at. One exception lasts for
 * microseconds: SO_PEEK_OFF of a UNIX socket with unread data, which is put back at once.
 *
 * Records added: IMAGE_FDINFO (id: dump_process.files_id), IMAGE_FILES, IMAGE_FILE_CHECK (what the
 * target must have), IMAGE_PIPE_DATA, IMAGE_FIFO_DATA, IMAGE_SOCKET_QUEUE, IMAGE_REMAP_PATH and
 * IMAGE_GHOST_FILE. Unread data is only added when the process is stopped (dump_process.tracee is
 * set); the content of deleted files travels as pages (shared-memory.h).
 *
 * None of these calls blocks but for reading /proc. Errors: -ESRCH when a process ends meanwhile,
 * -ENOMEM, others from the kernel. What cannot be moved is no error but a blocker.
 *
 * What is lost by design: events queued in an inotify descriptor (the program is told) and datagrams
 * queued in a UDP socket.
 *
 * Relies on: pidfd_getfd 5.6, kcmp(2), fdinfo of eventfd, timerfd, signalfd, epoll and inotify
 * (proc(5)), UNIX_DIAG (sock_diag(7)).
 */
#pragma once

#include <stdint.h>

#include "dump/dump.h"
#include "util/error.h"
#include "util/procfs.h"

/* All descriptors of all processes of the tree. */
int dump_files_collect(struct dump_context *ctx, struct error *error);

/*
 * Records of what has content that is sent before the freeze, of what the tree has open but not mapped: memfds and
 * deleted files. For a tree that runs.
 */
int dump_files_ahead(struct dump_context *ctx, struct error *error);

/*
 * The file behind a mapping of a file (never shared memory, see shared-memory.h). Adds its records
 * when this image set has none yet. The id is the same in every round. A blocker leaves id 0.
 */
int dump_file_map(struct dump_context *ctx, struct dump_process *process,
		  const struct procfs_map *map, uint32_t *ret_file_id, struct error *error);

/* The same for the links "exe", "cwd" and "root" in /proc/PID. */
int dump_file_link(struct dump_context *ctx, struct dump_process *process, const char *link,
		   uint32_t *ret_file_id, struct error *error);

/* A new image set begins: records have to be added again, ids of mappings and links stay. */
void dump_files_begin(struct dump_context *ctx);

/* NULL is fine. */
void dump_files_free(struct dump_files *files);
