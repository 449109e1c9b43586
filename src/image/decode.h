/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files of a checkpoint directory one by one, for people and for directories that are incomplete or damaged. Nothing is
 * compared with the seal. Blocks on the file system. Errors name directory and file.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image/image.h"
#include "util/error.h"

/* What is in a file, one after the other. Borrowed, for the time of the call. */
struct image_decoded {
	const char *kind;                /* as in the name of the image ("pstree"), and "pagemap" */
	enum image_type type;            /* 0: of none that a set has */
	uint32_t id;                     /* in the file's name or of the record */
	const ProtobufCMessage *message; /* NULL: plain bytes that belong to the message before */
	const uint8_t *extra;            /* those, or bytes behind the message; NULL: none */
	size_t extra_size;
};

/* Anything but 0 ends the walk and is returned by it. */
typedef int image_decode_fn(void *context, const struct image_decoded *entry);

/*
 * Calls `each` for every entry of an image, page map or state file. What comes before damage has been passed on when that
 * is found. -EPROTO, -EBADMSG: damaged; -EOPNOTSUPP: a file that has no entries, or is not known.
 */
int image_decode_file(const char *path, image_decode_fn *each, void *context, struct error *error);

/* Called for each file with what is wrong with it. */
typedef void image_decode_problem_fn(void *context, const char *problem);

/*
 * The records of a directory that image_directory_open() refuses, as far as they can be read: the state file if it is
 * whole, otherwise the images.
 */
int image_decode_directory(const char *path, image_decode_problem_fn *problem, void *context, struct image_set **ret,
			   struct error *error);
