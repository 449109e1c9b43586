/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of the buffers that are registered with an io_uring. To register one takes all of its pages, so they have to be there
 * before that; and nothing tells when a request writes to them.
 */
#pragma once

#include <sys/types.h>

#include "image/image.h"
#include "util/error.h"
#include "util/pageset.h"

/* Adds those of the process. 0, -ENOMEM, or -EPROTO for a damaged record. */
int image_ring_pages(const struct image_set *images, pid_t pid, struct pageset *pages, struct error *error);
