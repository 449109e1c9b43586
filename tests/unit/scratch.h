/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directories of a test program's own, below $TMPDIR. They go with all that is in them when the program exits, so also after
 * a test that failed; a test that wants to see that nothing was left in one removes it itself.
 */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SCRATCH_MAX	 64
#define SCRATCH_PATH_MAX 256

/* The program's directories; of this process only, not of the children that it forks. */
static struct {
	pid_t owner;
	size_t count;
	char paths[SCRATCH_MAX][SCRATCH_PATH_MAX];
} scratch_made;

static inline const char *scratch_parent(void)
{
	const char *parent = getenv("TMPDIR");

	return parent && *parent ? parent : "/tmp";
}

static int scratch_remove_entry(const char *path, const struct stat *info, int type, struct FTW *position)
{
	(void)info, (void)type, (void)position;
	(void)remove(path);
	return 0;
}

static void scratch_remove_all(void)
{
	while (scratch_made.owner == getpid() && scratch_made.count > 0)
		nftw(scratch_made.paths[--scratch_made.count], scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* Makes a directory and writes its path; returns `path`. The program ends where that fails. */
static inline char *scratch_directory(char *path, size_t size, const char *name)
{
	size_t slot = 0;

	if ((size_t)snprintf(path, size, "%s/%s-XXXXXX", scratch_parent(), name) >= size || !mkdtemp(path)) {
		perror("a directory for the test");
		abort();
	}
	if (scratch_made.owner != getpid()) {
		scratch_made.owner = getpid();
		scratch_made.count = 0;
		atexit(scratch_remove_all);
	}
	/* In the place of one that has been removed, if there is any. */
	while (slot < scratch_made.count && access(scratch_made.paths[slot], F_OK) == 0)
		slot++;
	if (slot == SCRATCH_MAX)
		abort();
	if (slot == scratch_made.count)
		scratch_made.count++;
	snprintf(scratch_made.paths[slot], SCRATCH_PATH_MAX, "%s", path);
	return path;
}
