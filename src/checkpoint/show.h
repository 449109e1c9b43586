/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a checkpoint, as JSON. Whole numbers of 64 bits that JSON's library cannot hold (from 2^63 on) are strings.
 * Blocks on the file system. The caller frees with json_decref().
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "util/error.h"

/*
 * A directory: its tree, memory, descriptors, chain. What is wrong with it is in the list "problems", and what can be read in
 * spite of that is there. `verify`: pages are read and compared with their hashes, too. An error: there is no directory.
 */
int checkpoint_show_directory(const char *path, bool verify, json_t **ret, struct error *error);

/* A file: its entries. What is wrong is in "problems". An error: there is no such file. */
int checkpoint_show_file(const char *path, json_t **ret, struct error *error);
