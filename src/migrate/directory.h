/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A checkpoint directory as the destination of a tree (destination.h). */
#pragma once

#include <stdbool.h>

#include "util/error.h"

struct directory;
struct source;

/*
 * Will write to `path`. `parent`: an earlier checkpoint of the same process, whose pages are not written again where they
 * are still the same; NULL: none. `rounds`: what is sent while the tree runs goes into directories below `path`, one a
 * round; otherwise the first round is all there is, and goes into `path`. Nothing is made yet. The strings are borrowed.
 * -EINVAL: `parent` is of another process.
 */
int directory_new(const char *path, const char *parent, bool rounds, struct directory **ret, struct error *error);
/* What is not complete is removed. NULL is fine. */
void directory_free(struct directory *directory);

/* The records of source->images, then the seal. Blocks until all is on the disk. */
int directory_complete(struct source *source, struct error *error);
