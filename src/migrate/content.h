/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The content of a deleted file on its way into a checkpoint directory. The format has no parents for it, so what the rounds
 * bring is kept in a file without a name, by offset, and copied when all of it is there.
 */
#pragma once

#include "image/directory.h"
#include "transport/wire.h"
#include "util/error.h"

/* Makes the file, on the file system of `path`; the caller closes it. */
int content_open(const char *path, int *ret_fd, struct error *error);

/* Pages as they come (destination.h). */
int content_keep(int fd, const struct wire_pages_header *header, const void *data, struct error *error);

/* What was kept becomes the pages of deleted file `id`. */
int content_copy(int fd, struct image_directory *directory, uint32_t id, struct error *error);
