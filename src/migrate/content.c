/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE IMAGE_PAGE_SIZE
#define COPY_PAGES 256u

int content_open(const char *path, int *ret_fd, struct error *error)
{
	int fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_set_errno(error, -errno, "%s: cannot keep the content of a deleted file", path);
	*ret_fd = fd;
	return 0;
}

int content_keep(int fd, const struct wire_pages_header *header, const void *data, struct error *error)
{
	size_t size = (size_t)header->pages * PAGE;
	int r = 0;

	if (header->kind == WIRE_PAGES_DATA)
		r = fdio_pwrite(fd, data, size, header->address);
	else if (header->kind == WIRE_PAGES_ZERO &&
		 fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)header->address, (off_t)size) < 0)
		r = -errno;
	return r < 0 ? error_set_errno(error, r, "cannot keep the content of a deleted file") : 0;
}

int content_copy(int fd, struct image_directory *directory, uint32_t id, struct error *error)
{
	struct image_pages_writer *writer = NULL;
	_cleanup_free_ uint8_t *data = malloc(COPY_PAGES * PAGE);
	off_t at = 0, end;
	int r = data ? image_pages_begin(directory, IMAGE_PAGES_GHOST, id, &writer, error) :
		       error_set(error, -ENOMEM, "out of memory");
	int ended;

	while (r == 0 && (at = lseek(fd, at, SEEK_DATA)) >= 0) {
		end = lseek(fd, at, SEEK_HOLE);
		while (r == 0 && at < end) {
			uint64_t n = (uint64_t)(end - at) / PAGE < COPY_PAGES ? (uint64_t)(end - at) / PAGE : COPY_PAGES;

			if (fdio_pread(fd, data, n * PAGE, (uint64_t)at) != (ssize_t)(n * PAGE))
				r = error_set_errno(error, -EIO, "cannot read back the content of a deleted file");
			else
				r = image_pages_add(writer, (uint64_t)at, n, data, error);
			at += (off_t)(n * PAGE);
		}
	}
	ended = image_pages_end(writer, r < 0 ? NULL : error);
	return r < 0 ? r : ended;
}
