/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: image */
/*
 * Feeds files, as they might lie in a checkpoint directory, to its readers. The input is a list of files: a byte that chooses
 * the name, two for the size, the bytes. Inputs without a state file are read as a directory of CRIU's; those with one and an
 * empty seal as edited ones. A seal or state file whose hash is wrong is refused at once, so their hashes are made right.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "image/directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ID 5

static const char *const names[] = {
	"inventory.img",    "pstree.img",	"core-5.img",	    "ids-5.img",      "mm-5.img",
	"fs-5.img",	    "fdinfo-5.img",	"files.img",	    "pipes-data.img", "sk-queues.img",
	"remap-fpath.img",  "ghost-file-5.img", "memfd.img",	    "filelocks.img",  "pagemap-5.img",
	"pagemap-shmem-5.img", "pages-1.img",	"pagestream.state", "pagestream.seal",
};
#define NAMES (sizeof(names) / sizeof(names[0]))
#define STATE (NAMES - 2)
#define SEAL  (NAMES - 1)

/* Magic numbers of those files, which the fuzzer need not find. */
static const uint32_t magics[] = {
	1479618838, 1344745520, 1426405447, 1413685296, 1464412192, 1363163410, 1445017394, 1445998904, 1447376649,
	1445347366, 1494432084, 1381512709, 1212495001, 1412576790, 1443381285, 1443381285,
};

static void put(int fd, const void *data, size_t size)
{
	if (size && write(fd, data, size) != (ssize_t)size)
		abort();
}

/* The last line of a seal and the last bytes of a state file are the hash of what is before. */
static void put_hash(int fd, size_t name, const uint8_t *data, size_t size)
{
	XXH128_canonical_t canonical;
	char line[64];

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, size));
	if (name == STATE) {
		put(fd, canonical.digest, sizeof(canonical.digest));
		return;
	}
	put(fd, "end ", 4);
	for (size_t i = 0; i < sizeof(canonical.digest); i++)
		snprintf(line + 2 * i, 3, "%02x", canonical.digest[i]);
	line[32] = '\n';
	put(fd, line, 33);
}

static void write_file(int dir, size_t name, const uint8_t *data, size_t size)
{
	static const uint32_t common = 1414939417;
	int fd = openat(dir, names[name], O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0)
		abort();
	if (name < sizeof(magics) / sizeof(magics[0])) {
		if (name > 0)
			put(fd, &common, sizeof(common));
		put(fd, &magics[name], sizeof(magics[name]));
	}
	put(fd, data, size);
	if (name >= STATE && size > 0)
		put_hash(fd, name, data, size);
	close(fd);
}

static void write_files(int dir, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		size_t length = data[1] | (size_t)data[2] << 8, name = data[0] % NAMES;

		data += 3;
		size -= 3;
		if (length > size)
			length = size;
		write_file(dir, name, data, length);
		data += length;
		size -= length;
	}
}

static void read_pages(struct image_directory *dir, enum image_pages_kind kind)
{
	static uint8_t buffer[64 * IMAGE_PAGE_SIZE];
	struct image_pages_reader *reader;
	struct image_pages_run run;

	if (image_pages_open(dir, kind, ID, &reader, NULL) < 0)
		return;
	while (image_pages_next(reader, &run, NULL) > 0)
		image_pages_read(reader, &run, 0, run.pages < 64 ? run.pages : 64, buffer, NULL);
	image_pages_close(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[] = "/dev/shm/fuzz-image-XXXXXX";
	struct image_directory *dir = NULL;
	int fd;

	if (!mkdtemp(path))
		abort();
	fd = open(path, O_RDONLY | O_DIRECTORY);
	write_file(fd, 0, (const uint8_t *)"\4\0\0\0\10\2\20\1", 8);
	write_files(fd, data, size);
	if (image_directory_open(path, &dir, NULL) == 0) {
		read_pages(dir, IMAGE_PAGES_PROCESS);
		read_pages(dir, IMAGE_PAGES_SHARED);
		read_pages(dir, IMAGE_PAGES_GHOST);
		image_directory_verify(dir, NULL);
	}
	image_directory_free(dir);
	for (size_t i = 0; i < NAMES; i++)
		unlinkat(fd, names[i], 0);
	close(fd);
	rmdir(path);
	return 0;
}
