/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of processes that share their memory (IMAGE_IDS), images have the pages of one. */
#pragma once

#include "image/image.h"

/* The first process of the tree that has the memory of `pid`: under its number are the pages. `pid` where nothing is said. */
uint32_t image_memory_owner(const struct image_set *set, uint32_t pid);
