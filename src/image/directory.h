/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checkpoint directories: an image set and pages, in files that CRIU and its crit can read, and ours beside them.
 * docs/images.md describes every file.
 *
 * Writing: image_directory_create(); pages of each process, shared memory object and deleted file (image_pages_begin() to
 * image_pages_end()); image_directory_write_set(); image_directory_seal(). Before the seal the directory is *incomplete*
 * and cannot be opened. A round of pre-copy is a directory of its own, sealed without a set, and the parent of the next.
 *
 * Reading: image_directory_open() checks everything but the content of pages; that is checked as it is read, by the hash of
 * each MiB. A directory of CRIU's (no seal, no file of ours) is taken as it is, and what CRIU does not record is filled in.
 *
 * All calls block on the file system. One thread at a time uses a directory, but for image_pages_add*() and
 * image_pages_read(): different writers and readers may be used by different threads. Errors name directory and file.
 * Codes besides those of the system: -ENODATA incomplete, -EBADMSG differs from its seal, -EPROTO damaged or a chain that
 * does not fit, -EOPNOTSUPP something that this version cannot restore, -ENOTEMPTY holds a checkpoint already.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "util/error.h"

#define IMAGE_PAGE_SIZE UINT64_C(4096)

/* A round of pre-copy, in the directory of the checkpoint to which it belongs. */
#define IMAGE_ROUND_NAME "pre-copy-%u"

struct image_directory;    /* one directory, being written or read, and those that it builds upon */
struct image_pages_writer; /* a pair of pagemap and pages files being written */
struct image_pages_reader; /* the same being read, through the whole chain */

/* Whose pages. */
enum image_pages_kind {
	IMAGE_PAGES_PROCESS, /* id: PID; by address */
	IMAGE_PAGES_SHARED,  /* id of its IMAGE_SHARED_MEMORY record; by offset */
	IMAGE_PAGES_GHOST,   /* id of its IMAGE_GHOST_FILE record; by offset, what lies behind its end is left out */
};

/* ---- writing */

/*
 * Begins a checkpoint in the directory `path`, which is made if it is not there (its own parent directory must be).
 * `parent_path`: an earlier, complete directory that pages may be left in, or NULL. Directories of one chain may be moved
 * together, since links are relative. -ENOTEMPTY: there are images in it; they are left alone.
 */
int image_directory_create(const char *path, const char *parent_path, struct image_directory **ret, struct error *error);

/* Several writers may be open at once. There is one writer for each object. */
int image_pages_begin(struct image_directory *dir, enum image_pages_kind kind, uint32_t id,
		      struct image_pages_writer **ret, struct error *error);
/*
 * Adds a run of pages; addresses only ever go up. What is not added has no page: it reads as zeros or as its file. An error
 * is remembered: image_pages_end() gives it again.
 */
int image_pages_add(struct image_pages_writer *writer, uint64_t address, uint64_t pages, const void *data,
		    struct error *error);
/* Pages that are there and hold zeros: a hole in the file. */
int image_pages_add_zero(struct image_pages_writer *writer, uint64_t address, uint64_t pages, struct error *error);
/* Pages that did not change since the parent directory was written, which has them. */
int image_pages_add_in_parent(struct image_pages_writer *writer, uint64_t address, uint64_t pages, struct error *error);
/* Frees the writer in every case. NULL is fine. */
int image_pages_end(struct image_pages_writer *writer, struct error *error);

/* Once, after the pages of deleted files. Processes and shared objects without a writer get an empty page map. */
int image_directory_write_set(struct image_directory *dir, const struct image_set *set, struct error *error);

/* Makes it complete: all files are on the disk before the seal is. */
int image_directory_seal(struct image_directory *dir, struct error *error);

/* Removes what was written since image_directory_create(), also the directory if that made it; frees. NULL is fine. */
void image_directory_discard(struct image_directory *dir);

/* ---- reading */

int image_directory_open(const char *path, struct image_directory **ret, struct error *error);
/* -EPROTO: a dedup through a directory that builds upon this one took pages out of it or of those below; image_pages_open()
 * refuses it as well. */
int image_directory_check_hollow(const struct image_directory *dir, struct error *error);

/* The records; empty for a round of pre-copy. Belongs to the directory. */
const struct image_set *image_directory_set(const struct image_directory *dir);

/* A run of pages whose content lies in one piece in one file. */
struct image_pages_run {
	uint64_t address; /* or offset in the object; a multiple of the page size */
	uint64_t pages;
	int fd;           /* of the file that holds them; belongs to the reader */
	uint64_t offset;  /* of the first page in it */
	uint64_t size;    /* bytes there; less than the pages only at the end of a deleted file: the rest is zeros */
	bool zero;        /* checked, and all zeros */
	unsigned level;   /* directories down the chain, 0: the one that was opened */
	uint32_t index;   /* for the reader */
};

/* -ENOENT: the directory has no page map of it. Page maps are read and checked as a whole, down the chain. */
int image_pages_open(struct image_directory *dir, enum image_pages_kind kind, uint32_t id,
		     struct image_pages_reader **ret, struct error *error);
/* The next run by address. 1: `ret` is filled; 0: there are no more. */
int image_pages_next(struct image_pages_reader *reader, struct image_pages_run *ret, struct error *error);
/* The run that has the page of `address`, or -ENOENT without an error. Leaves image_pages_next() where it is. */
int image_pages_find(struct image_pages_reader *reader, uint64_t address, struct image_pages_run *ret);
/* Sum of all runs. */
uint64_t image_pages_count(const struct image_pages_reader *reader);

/*
 * Reads `pages` pages of a run from its page number `first` on, and checks them. The first use of a MiB of a file reads and
 * checks all of it. Whole MiB at once are the quickest.
 */
int image_pages_read(struct image_pages_reader *reader, const struct image_pages_run *run, uint64_t first, uint64_t pages,
		     void *buffer, struct error *error);
void image_pages_close(struct image_pages_reader *reader);

/* Reads and checks all pages of the directory and of those below it. */
int image_directory_verify(struct image_directory *dir, struct error *error);

/* ---- for people */

struct image_directory_info {
	const char *path;
	bool sealed;       /* complete, and as it was written */
	bool native;       /* written by us; otherwise by CRIU */
	bool edited;       /* its seal was emptied on purpose: nothing is checked against hashes */
	bool deduplicated; /* pages were taken out that a later directory has; cannot be restored by itself */
	unsigned depth;    /* directories that it builds upon */
	size_t files;      /* images in it */
	uint64_t bytes;    /* sum of their sizes */
	uint64_t page_bytes; /* of these, pages */
};
void image_directory_describe(const struct image_directory *dir, struct image_directory_info *ret);
/* The directory that it builds upon, NULL: none. Belongs to it. */
struct image_directory *image_directory_parent(const struct image_directory *dir);

/* ---- dedup */

/*
 * Frees in the directories below `dir` the pages that it, or one between, holds too (holes in the files). Those can be
 * read only through `dir` from then on. `ret_bytes`: how much was freed. -EPROTO: `dir` itself cannot be read any more.
 * -EINVAL: it was edited, and those below were not.
 */
int image_directory_dedup(struct image_directory *dir, uint64_t *ret_bytes, struct error *error);

/* Also of one being written: it stays there, incomplete. NULL is fine. */
void image_directory_free(struct image_directory *dir);

static inline void image_cleanup_directory(struct image_directory **dir)
{
	image_directory_free(*dir);
}

static inline void image_cleanup_pages_reader(struct image_pages_reader **reader)
{
	image_pages_close(*reader);
}

#define _cleanup_image_directory_ __attribute__((cleanup(image_cleanup_directory)))
#define _cleanup_image_pages_reader_ __attribute__((cleanup(image_cleanup_pages_reader)))
