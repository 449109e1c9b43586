/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of directory*.c share. */
#pragma once

#include "core-x86.pb-c.h"
#include "directory.h"
#include "pagestream-core.pb-c.h"
#include "util/array.h"
#include "util/buffer.h"

/* Files of ours. */
#define IMAGE_STATE_NAME "pagestream.state" /* the image set; empty while the directory is being written */
#define IMAGE_SEAL_NAME  "pagestream.seal"  /* sizes and hashes of all files; empty: edited on purpose */
#define IMAGE_PARENT_NAME "parent"          /* symbolic link */

#define IMAGE_NAME_MAX       64             /* of a file, with its end */
#define IMAGE_CHAIN_MAX      256            /* directories in a chain */
#define IMAGE_FILES_MAX      2000000        /* files in a directory */
#define IMAGE_FILE_MAX       (UINT64_C(1) << 30) /* a file that is read as a whole: images, seal */
#define IMAGE_PAGES_FILE_MAX (UINT64_C(1) << 46) /* a pages file */
#define IMAGE_CHUNK_SIZE     (UINT64_C(1) << 20) /* what of a pages file has a hash of its own */

/* XXH3, 128 bits, in its canonical form. */
struct image_hash {
	uint8_t bytes[16];
};

/* A file of the directory, as written or as the seal has it. */
struct image_file {
	char name[IMAGE_NAME_MAX];
	uint64_t size;
	struct image_hash hash;    /* of its bytes; of a pages file: of its chunks' hashes */
	bool pages;                /* has chunks */
	struct image_hash *chunks; /* owned */
	size_t chunk_count;
};

struct image_directory {
	char *path;                     /* as given; owned */
	int fd;                         /* owned */
	bool writing;                   /* made by image_directory_create() and not sealed */
	bool created;                   /* by image_directory_create(): what is in it is ours */
	bool made;                      /* the directory itself was made by us */
	bool linked;                    /* we made its link to the parent */
	bool has_set;                   /* image_directory_write_set() was called */
	struct image_hash id;           /* random; zeros when there is no seal */
	struct image_hash parent_id;    /* of the parent when this one was written; zeros: not known */
	struct image_directory *parent; /* owned */
	ARRAY(struct image_file) files; /* sorted by name when reading */
	uint32_t next_pages_id;         /* number of the next pages file */
	struct image_set *set;          /* owned */
	bool native, sealed, edited;    /* as in struct image_directory_info */
	struct image_hash reader_id;    /* what was taken out of this one, the directory of this id has; zeros: all is there */
	bool hollow;                    /* pages of it are only in a directory that builds upon it */
	bool ghosts_moved;              /* ids of deleted files are the directory's and IMAGE_GHOST_MOVED */
};

/* Deleted files and shared memory have one range of ids here, and two in CRIU's directories. */
#define IMAGE_GHOST_MOVED UINT32_C(0x80000000)

/* ---- directory-file.c */

void image_hash_bytes(const void *data, size_t size, struct image_hash *ret);
bool image_hash_equal(const struct image_hash *one, const struct image_hash *other);
bool image_hash_is_zero(const struct image_hash *hash);

/* error_set() with "DIRECTORY/NAME: " before it; returns code. */
int image_file_error(const struct image_directory *dir, const char *name, struct error *error, int code, const char *format,
		     ...) __attribute__((format(printf, 5, 6)));
/* The same with the text of the errno behind. */
int image_file_errno(const struct image_directory *dir, const char *name, struct error *error, int code, const char *what);

/* Opens a new file for writing and notes it. The file is known by its index, since the list may move. */
int image_file_create(struct image_directory *dir, const char *name, int *ret_fd, size_t *ret_index, struct error *error);
/* Writes a new file as a whole. */
int image_file_write(struct image_directory *dir, const char *name, const void *data, size_t size, struct error *error);
/* The hash of a file of `size` bytes. */
int image_file_hash(const struct image_directory *dir, const char *name, uint64_t size, struct image_hash *ret,
		    struct error *error);
/* Opens a regular file for reading; `ret_size` is its size. -ENOENT without such a file. */
int image_file_open(const struct image_directory *dir, const char *name, int *ret_fd, uint64_t *ret_size,
		    struct error *error);
/* Appends the whole file to `buffer`. -ENOENT; -EFBIG. */
int image_file_read(const struct image_directory *dir, const char *name, struct buffer *buffer, struct error *error);
/* The file in the list; NULL. The list must be sorted (image_files_sort()). */
struct image_file *image_file_find(const struct image_directory *dir, const char *name);
void image_files_sort(struct image_directory *dir);
bool image_file_is_image(const char *name);
bool image_file_is_pages(const char *name);

/* ---- directory-seal.c */

int image_seal_write(struct image_directory *dir, struct error *error);
/* Reads the seal into dir->files. */
int image_seal_read(struct image_directory *dir, const struct buffer *text, struct error *error);
/* Compares what is in the directory with the list. Pages files only by their size. */
int image_seal_check(struct image_directory *dir, struct error *error);

/* ---- directory-state.c */

int image_state_pack(const struct image_set *set, struct buffer *ret, struct error *error);
int image_state_unpack(const struct image_directory *dir, const struct buffer *data, struct image_set *set,
		       struct error *error);

/* ---- directory-pagemap.c */

/* A run of a page map as it stands in its file. */
struct image_pagemap_run {
	uint64_t address;
	uint64_t pages;
	bool in_parent;
};

struct image_pagemap {
	uint32_t pages_id;
	ARRAY(struct image_pagemap_run) runs;
};

void image_pagemap_name(char name[IMAGE_NAME_MAX], enum image_pages_kind kind, uint32_t id);
void image_pages_name(char name[IMAGE_NAME_MAX], uint32_t pages_id);
int image_pagemap_begin(struct buffer *file, uint32_t pages_id);
int image_pagemap_append(struct buffer *file, const struct image_pagemap_run *run);
/* Reads and checks a page map. */
int image_pagemap_read(const struct image_directory *dir, const char *name, struct image_pagemap *ret, struct error *error);

/* ---- directory-pages-read.c */

/* An object of one directory: where its pages are. */
struct image_pages_level {
	struct image_directory *dir; /* borrowed */
	char name[IMAGE_NAME_MAX];   /* of the file with the pages */
	int fd;                      /* owned; -1: none */
	uint64_t size;               /* of that file */
	const struct image_file *file; /* its hashes; NULL: none are known */
	uint8_t *checked;            /* a bit for each chunk that was checked; owned */
	bool sparse;                 /* has holes */
};

struct image_pages_piece {
	uint64_t address, pages, offset, size;
	uint32_t level;
};

struct image_pages_reader {
	ARRAY(struct image_pages_level) levels;
	ARRAY(struct image_pages_piece) pieces; /* by address */
	size_t next;                            /* piece that image_pages_next() gives */
	uint8_t *chunk;                         /* room for one; owned */
};

/* ---- directory-ghost.c */

/* ghost-file-ID.img of a record, from the pages that were written for it. */
int image_ghost_write(struct image_directory *dir, const struct image_record *record, struct error *error);
/* Adds the pieces of the content in ghost-file-ID.img, which becomes the file of `level`. -ENOENT. */
int image_ghost_read(struct image_directory *dir, uint32_t id, struct image_pages_level *level,
		     struct image_pages_reader *reader, struct error *error);

/* ---- directory-criu.c: the images of CRIU */

/* What follows an entry in its file. */
enum image_extra {
	IMAGE_EXTRA_NONE,
	IMAGE_EXTRA_PIPE,   /* as many bytes as PipeData says */
	IMAGE_EXTRA_PACKET, /* as many as SocketPacket says */
	IMAGE_EXTRA_STREAM, /* as many as both queues of TcpStream */
	IMAGE_EXTRA_GHOST,  /* content of a deleted file, to the end of the file */
};

struct image_criu_kind {
	enum image_type type;                         /* 0: no type of its own (locks) */
	const char *name;                             /* before "-ID.img" or ".img" */
	bool has_id;
	bool hex;                                     /* the id is in hexadecimal */
	uint32_t magic;
	const ProtobufCMessageDescriptor *descriptor;
	enum image_extra extra;
};

#define IMAGE_MAGIC_COMMON  UINT32_C(0x54564319)
#define IMAGE_MAGIC_PAGEMAP UINT32_C(0x56084025)

extern const struct image_criu_kind image_criu_kinds[];
extern const size_t image_criu_kind_count;

const struct image_criu_kind *image_criu_kind_of(enum image_type type);
/* Which kind a file name is of; NULL. */
const struct image_criu_kind *image_criu_kind_named(const char *name, uint32_t *ret_id);
void image_criu_name(char name[IMAGE_NAME_MAX], const struct image_criu_kind *kind, uint32_t id);
/* Begins a file: its magic numbers. */
int image_criu_begin(struct buffer *file, const struct image_criu_kind *kind);

/* The entries of a file read as a whole. */
struct image_criu_reader {
	const struct image_directory *dir; /* for errors */
	const char *name;
	const struct image_criu_kind *kind;
	const uint8_t *data;
	size_t size, at;
	size_t number; /* entries so far */
};

struct image_criu_entry {
	const uint8_t *payload;
	size_t size;        /* of the message */
	const uint8_t *extra;
	size_t extra_size;
};

int image_criu_reader_init(struct image_criu_reader *reader, const struct image_directory *dir, const char *name,
			   const struct image_criu_kind *kind, const struct buffer *file, struct error *error);
/* 1: an entry; 0: the end. */
int image_criu_next(struct image_criu_reader *reader, struct image_criu_entry *ret, struct error *error);

/* ---- directory-message.c: messages by reflection */

/* Memory for messages that are changed and then forgotten all at once. */
struct image_arena {
	ARRAY(void *) blocks;
	bool failed; /* there was no memory */
};
void image_arena_deinit(struct image_arena *arena);
void *image_arena_take(struct image_arena *arena, size_t size);
ProtobufCMessage *image_arena_unpack(struct image_arena *arena, const ProtobufCMessageDescriptor *descriptor,
				     const void *data, size_t size);
#define _cleanup_image_arena_ __attribute__((cleanup(image_arena_deinit)))

/* Takes out what is ours (fields from 1000 on) or newer than crit 3.17.1, at every depth. */
void image_message_strip(ProtobufCMessage *message);
/* Gives `to` the fields from 1000 on that `from` has, at every depth. What it points to afterwards belongs to `from`. */
void image_message_adopt(ProtobufCMessage *to, const ProtobufCMessage *from);

/* ---- directory-xsave.c */

/* Vector state beyond what `xsave` has, from ours. -ENOMEM. Memory is the arena's. */
int image_xsave_export(struct image_arena *arena, ThreadExtra *extra, X86Xsave *xsave);
/* Puts the registers of an image into ours, over what is there. -ENOMEM; -EPROTO when they are incomplete. */
int image_xsave_import(struct image_arena *arena, const X86Fpu *fpu, ThreadExtra *extra);

/* ---- directory-export.c: our records as CRIU's entries */

struct image_export_entry {
	size_t offset, size;  /* in the file's data: message and extra, without the length */
	size_t first, count;  /* in image_export.records: those that it is made of; none: there is no record like it */
	bool used;            /* found in the directory */
};

struct image_export_file {
	char name[IMAGE_NAME_MAX];
	const struct image_criu_kind *kind;
	uint32_t id;                              /* in its name; 0: none */
	struct buffer data;                       /* the whole file */
	ARRAY(struct image_export_entry) entries;
};

struct image_export {
	ARRAY(struct image_export_file) files;
	ARRAY(const struct image_record *) records;
	struct image_arena arena;
};

int image_export_make(const struct image_set *set, struct image_export *ret, struct error *error);
void image_export_deinit(struct image_export *export);
struct image_export_file *image_export_find(const struct image_export *export, const char *name);

/* ---- directory-import.c: the other way */

/* The records of a directory whose images may not be ours. `native`: what our own file holds, or NULL. */
int image_import(struct image_directory *dir, const struct image_set *native, struct image_set *set, struct error *error);
/* What CRIU does not record: directory-derive.c. Adds what is missing in `set`. */
int image_derive(struct image_directory *dir, struct image_set *set, struct error *error);
