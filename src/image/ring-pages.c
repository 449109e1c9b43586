/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ring-pages.h"

#include <errno.h>

#include "pagestream-files.pb-c.h"

#define PAGE UINT64_C(4096)

int image_ring_pages(const struct image_set *images, pid_t pid, struct pageset *pages, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_RING_BUFFERS, (uint32_t)pid, &cursor))) {
		_cleanup_message_ IoUringBuffers *message = NULL;
		int r = image_unpack(record, io_uring_buffers, &message, error);

		for (size_t i = 0; r == 0 && i < message->n_buffers; i++) {
			uint64_t start = message->buffers[i]->address, length = message->buffers[i]->length;

			if (length && pageset_add(pages, start / PAGE, (start + length - 1) / PAGE - start / PAGE + 1) < 0)
				r = error_set(error, -ENOMEM, "out of memory");
		}
		if (r < 0)
			return r;
	}
	return 0;
}
