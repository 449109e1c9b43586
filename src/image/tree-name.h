/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A name for a tree that was dumped, for what of it is outside of its directory: its root, which was that of this boot. */
#pragma once

#include <stdbool.h>

#include "image/image.h"
#include "util/error.h"

#define IMAGE_TREE_NAME_SIZE 64

/* Letters and digits. -EPROTO without an inventory, or where nothing tells the root's PID. */
int image_tree_name(const struct image_set *images, char ret[IMAGE_TREE_NAME_SIZE], struct error *error);
