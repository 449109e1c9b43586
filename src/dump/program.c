/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which program a process runs: whether it is one of ours, and whether it is one that can be moved at all. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"

const char *dump_program_own(const struct dump_options *options, pid_t pid)
{
	struct stat theirs, ours;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	if (!options->own_programs || stat(path, &theirs) < 0)
		return NULL;
	for (const char *const *program = options->own_programs; *program; program++)
		if (stat(*program, &ours) == 0 && ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino)
			return *program;
	return NULL;
}

/* A 64-bit program can jump into 32-bit code too; that only a stop shows (tracee/thread.c). */
static bool is_64_bit(const struct dump_process *process)
{
	_cleanup_fd_ int fd = openat(process->proc_fd, "exe", O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr header;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
		return true;
	return memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
	       (header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64);
}

void dump_program_check(struct dump_context *ctx, const struct dump_process *process)
{
	const char *own = dump_program_own(ctx->options, process->live);

	if (own)
		dump_refuse(ctx, process->pid, "process", IMAGE_KIND_PROGRAM_OWN, "%s", own);
	if (!is_64_bit(process))
		dump_refuse(ctx, process->pid, "process", IMAGE_KIND_PROGRAM_32BIT, "%s", process->stat.comm);
}
