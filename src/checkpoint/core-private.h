/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of core*.c share: one process on its way into a core. */
#pragma once

#include "core.h"
#include "core.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "pstree.pb-c.h"
#include "util/array.h"
#include "util/buffer.h"

struct core_thread {
	uint32_t tid;
	Core *core;         /* owned */
	ThreadExtra *extra; /* owned */
};

/* A file that may be mapped. */
struct core_file {
	uint32_t id;
	uint32_t ghost; /* id of the object with its content; 0: it has a path */
	char *name;     /* owned */
};

/* What has pages: the process, shared memory, a deleted file. */
struct core_object {
	enum image_pages_kind kind;
	uint32_t id;
	struct image_pages_reader *reader;   /* owned; NULL: it has no pages */
	ARRAY(struct image_pages_run) runs;  /* by address */
};

/* Pages of the address space with content. */
struct core_piece {
	uint64_t address, pages;
	size_t object;       /* its index; SIZE_MAX: the vDSO of this machine */
	size_t run;          /* index in its runs */
	uint64_t first;      /* page of the run */
};

/* A program header. */
struct core_segment {
	uint64_t start, size;
	bool content;        /* in the file; otherwise it takes no room there */
	uint64_t offset;     /* in the file */
	uint32_t prot;       /* PROT_* */
};

struct core_process {
	const struct image_set *set;   /* borrowed, as the directory */
	struct image_directory *dir;
	TreeProcess *tree;             /* owned, as all that follow */
	AddressSpace *mm;
	ProcessExtra *extra;           /* NULL: there is none */
	ARRAY(struct core_thread) threads; /* the leader first */
	ARRAY(struct core_file) files;     /* by id */
	ARRAY(struct core_object) objects; /* the process first */
	ARRAY(struct core_piece) pieces;   /* by address */
	ARRAY(struct core_segment) segments;
	uint64_t xcr0;                 /* register state that the source had; 0: not known */
	const uint8_t *vdso;           /* of this process, if that of the checkpoint is the same; NULL otherwise */
	uint64_t vdso_size;
};

/* core-memory.c: fills objects, pieces and segments. */
int core_memory_collect(struct core_process *process, struct error *error);
/* Content of a piece, from its page `first` on. */
int core_memory_read(struct core_process *process, const struct core_piece *piece, uint64_t first, uint64_t pages,
		     uint8_t *buffer, struct error *error);
/* True if there is nothing but zeros in it. */
bool core_memory_is_zero(const struct core_process *process, const struct core_piece *piece);
/* The piece with an address; NULL. */
const struct core_piece *core_memory_find(const struct core_process *process, uint64_t address);
/* The file that a mapping is of; NULL. */
const struct core_file *core_memory_file(const struct core_process *process, const Mapping *mapping);

/* core-notes.c: all notes of the process. */
int core_notes_make(struct core_process *process, struct buffer *ret, struct error *error);
