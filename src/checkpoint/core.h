/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes of a checkpoint directory as ELF cores, for debuggers: elf(5), core(5), <sys/procfs.h>.
 *
 * In it are the registers of all threads, and all memory that the checkpoint has; what it leaves in files is left there, as
 * the kernel does it, and the debugger finds the files by NT_FILE. Zeros are holes. Vector registers are at Intel's places,
 * whatever processor this is and the source was; AMX tiles, which no debugger knows, are left out.
 */
#pragma once

#include <stdint.h>

#include "image/directory.h"
#include "util/error.h"

struct checkpoint_core_summary {
	uint32_t threads;
	uint64_t size;  /* of the file, holes counted */
	uint64_t pages; /* with content, zeros counted */
};

/*
 * Writes the core of a process to `path`, which is replaced when all of it has been written. Blocks on the file system.
 * -ESRCH: there is no such process in the checkpoint; -ENODATA: it has no memory.
 */
int checkpoint_core_write(struct image_directory *dir, uint32_t pid, const char *path, struct checkpoint_core_summary *ret,
			  struct error *error);
