/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The beginning of a ring of Linux AIO in memory; struct io_event of linux/aio_abi.h follow. The kernel's fs/aio.c. */
#pragma once

#include <stdint.h>

#define IMAGE_AIO_MAGIC 0xa10a10a1

struct image_aio_head {
	uint32_t id;	   /* the kernel's number of the context */
	uint32_t nr;	   /* events that there is room for */
	uint32_t head;	   /* next event to fetch, modulo nr */
	uint32_t tail;	   /* next event to come */
	uint32_t magic;
	uint32_t features; /* 1 */
	uint32_t unknown;  /* features that one must know: 0 */
	uint32_t length;   /* of this head */
};
