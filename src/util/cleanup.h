/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cleanup attributes: what a scope owns goes when the scope ends, on every way out. steal_fd() and steal_ptr() pass
 * ownership on, so that the attribute finds nothing to do.
 */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Closes it before its scope or owner ends. */
static inline void close_fd(int *fd)
{
	cleanup_fd(fd);
	*fd = -1;
}

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

static inline void cleanup_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline void cleanup_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _cleanup_fd_ _cleanup_(cleanup_fd)
#define _cleanup_free_ _cleanup_(cleanup_free)
#define _cleanup_file_ _cleanup_(cleanup_file)
#define _cleanup_dir_ _cleanup_(cleanup_dir)

static inline int steal_fd(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

static inline void *steal_pointer(void *pointer)
{
	void **place = pointer;
	void *stolen = *place;

	*place = NULL;
	return stolen;
}

#define steal_ptr(place) ((typeof(*(place)))steal_pointer(place))
