/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The build-id of an ELF file (note NT_GNU_BUILD_ID), by which two hosts tell whether they have the
 * same program.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define IMAGE_BUILD_ID_MAX 64

/*
 * Bytes of the build-id of the file open for reading as `fd`, copied to `id`; 0 when it is no
 * 64-bit ELF file or has none, a negative errno when it cannot be read. Does not move the file
 * offset.
 */
int image_build_id_read(int fd, uint8_t id[IMAGE_BUILD_ID_MAX]);
