/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors and files, target side.
 *
 * This process opens each open file description once, in ordinary C; a batch in each shell then
 * fetches it with pidfd_getfd(2) to its final number. What depends on numbers (the set of an epoll
 * descriptor) is done by the same batch.
 *
 * Path names are resolved in the file system as this process sees it. Files must be the same as on
 * the source: size, modification time and, for ELF files, build-id are compared, and a difference
 * is an error that names both values.
 *
 * Nothing blocks for long. Errors say which file or address was the trouble. The tree's thread
 * makes all calls.
 *
 * Relies on: pidfd_getfd 5.6, INOTIFY_IOC_SETNEXTWD 4.15 and TFD_IOC_SET_TICKS 3.17 (both
 * CONFIG_CHECKPOINT_RESTORE).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "image/blockers.h"
#include "image/image.h"
#include "restore/restore.h"
#include "util/error.h"

/*
 * The target's preflight: each file that the tree needs is looked for and compared, each address
 * that it listens on is tried. Lists all that is wrong. A file that the tree has open for writing
 * may still change: for it only what can never come right is listed, and it is compared again by
 * restore_files_apply(). `live`: the tree still runs on the source.
 */
int restore_files_check(const struct image_set *images, bool live, struct image_blockers *blockers,
			struct error *error);

/* Takes note of the file records of a round, and opens ahead what can be opened. */
int restore_files_prepare(struct restore_tree *tree, const struct image_set *images,
			  struct error *error);

/*
 * Opens all descriptors and installs them in all shells. A shell has no descriptor before. It may
 * raise a shell's limit on descriptors, so the final limit is set later. Afterwards nothing of the
 * tree's is open in this process.
 */
int restore_files_apply(struct restore_tree *tree, const struct image_set *images,
			struct error *error);

/*
 * After the commit, before the go: puts the socket files of listening UNIX sockets in their places.
 * Until then the source's own file is there and the source could go on.
 */
int restore_files_commit(struct restore_tree *tree, struct error *error);

/*
 * A descriptor to mmap the file with; the caller closes it. `prot` is that of the mapping, `shared`
 * says MAP_SHARED: it is opened for writing when the source had it open for writing. -ENOENT when
 * no IMAGE_FILES record has the id.
 */
int restore_file_map(struct restore_tree *tree, uint32_t file_id, int prot, bool shared,
		     int *ret_fd, struct error *error);

/* Objects of files in memory that the target had not: how many, and the ids of the first `room`. */
size_t restore_files_made(const struct restore_tree *tree, uint32_t *ids, size_t room);

/*
 * The file behind exe (opened for reading, as PR_SET_MM_MAP wants it), or the directory that cwd or
 * root is (O_PATH). The caller closes it.
 */
int restore_file_link(struct restore_tree *tree, uint32_t file_id, int *ret_fd,
		      struct error *error);

/*
 * NULL is fine. Removes what restore_files_apply() has put aside and restore_files_commit() did not
 * use.
 */
void restore_files_free(struct restore_files *files);
