/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kinds of mapping in mm.proto: bits of `Mapping.status`, with the values that CRIU's tools know.
 */
#pragma once

enum {
	MAPPING_REGULAR = 1 << 0, /* has to be made by the restore (all but vsyscall) */
	MAPPING_STACK = 1 << 1,
	MAPPING_VSYSCALL = 1 << 2,
	MAPPING_VDSO = 1 << 3,
	MAPPING_HEAP = 1 << 5,
	MAPPING_FILE_PRIVATE = 1 << 6,
	MAPPING_FILE_SHARED = 1 << 7,
	MAPPING_ANON_SHARED = 1 << 8, /* shared memory object, memfds included */
	MAPPING_ANON_PRIVATE = 1 << 9,
	MAPPING_SYSV = 1 << 10,      /* with ANON_SHARED: the object is a segment of System V shared memory */
	MAPPING_SOCKET = 1 << 11,    /* only in what CRIU wrote, as those behind VVAR: ring of a packet socket */
	MAPPING_VVAR = 1 << 12,
	MAPPING_AIO = 1 << 13,       /* ring of io_setup(2) */
	MAPPING_MEMFD = 1 << 14, /* with FILE_PRIVATE or ANON_SHARED: shmid is a shared memory object, not a file */
	MAPPING_SHADOW_STACK = 1 << 15,
	MAPPING_GUARD = 1 << 16,     /* no mapping: where MADV_GUARD_INSTALL was used; behind all mappings */
	MAPPING_UPROBES = 1 << 17,
	MAPPING_IO_URING = 1 << 24,  /* ours: shmid is the inode number of the ring, by which IoUring is found */
};

/* Has pages that travel as pages of the process: private memory, of any backing. */
#define MAPPING_HAS_PAGES (MAPPING_FILE_PRIVATE | MAPPING_ANON_PRIVATE)
