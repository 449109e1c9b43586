/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mapped files: a private one of which every other page has been copied by a write, a private one
 * with an offset and an end in mid-page, a read-only one, and a shared one whose writes must be
 * seen in the file and the other way round. The mapped files' descriptors are closed but for the
 * shared file's.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

#define PAGES 64u
#define SIZE (PAGES * VICTIM_PAGE)
#define TAIL 1000u /* bytes in the last page of the short file */

struct state {
	unsigned char *private_map; /* all of DIR/private */
	unsigned char *offset_map;  /* DIR/short from its third page on */
	unsigned char *read_map;    /* DIR/private, read-only and private */
	unsigned char *shared_map;  /* DIR/shared */
	int shared_fd;		    /* the same file, for read(2) and write(2) */
	uint64_t generation;	    /* of the copied and the shared pages */
};

static int file_make(const struct victim *v, const char *name, size_t size, uint64_t seed)
{
	int fd = open(victim_path(v, name), O_RDWR | O_CREAT | O_TRUNC, 0644);
	unsigned char *content = malloc(SIZE);

	MUST(fd >= 0 && content != NULL);
	for (size_t page = 0; page < PAGES; page++)
		victim_fill(content + page * VICTIM_PAGE, VICTIM_PAGE, seed + page);
	MUST(write(fd, content, size) == (ssize_t)size);
	free(content);
	return fd;
}

static unsigned char *file_map(int fd, size_t size, int protection, int flags, off_t offset,
			       bool keep)
{
	unsigned char *at = mmap(NULL, size, protection, flags, fd, offset);

	MUST(at != MAP_FAILED);
	if (!keep)
		MUST(close(fd) == 0);
	return at;
}

static void copy_pages(struct state *s)
{
	for (size_t page = 0; page < PAGES; page += 2)
		victim_fill(s->private_map + page * VICTIM_PAGE, VICTIM_PAGE,
			    10000 + s->generation * 100 + page);
	for (size_t page = 1; page < PAGES; page += 5)
		victim_fill(s->shared_map + page * VICTIM_PAGE, VICTIM_PAGE,
			    20000 + s->generation * 100 + page);
}

static void setup(const struct victim *v, struct state *s)
{
	int fd = file_make(v, "private", SIZE, 1000);

	s->read_map = file_map(fd, SIZE, PROT_READ, MAP_PRIVATE, 0, true);
	s->private_map = file_map(fd, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, false);
	fd = file_make(v, "short", 4 * VICTIM_PAGE + TAIL, 2000);
	s->offset_map = file_map(fd, 3 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE,
				 2 * VICTIM_PAGE, false);
	s->offset_map[2 * VICTIM_PAGE + TAIL + 5] = 0x77;
	s->shared_fd = file_make(v, "shared", SIZE, 3000);
	s->shared_map = file_map(s->shared_fd, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0, true);
	copy_pages(s);
}

static bool page_is(struct victim *v, const void *at, size_t size, uint64_t seed, const char *what,
		    size_t page)
{
	ssize_t wrong = victim_differs(at, size, seed);

	CHECK(v, wrong < 0, "%s, page %zu: byte %zd is %02x", what, page, wrong,
	      ((const unsigned char *)at)[wrong]);
	return true;
}

static bool privates(struct victim *v, struct state *s)
{
	unsigned char from_file[VICTIM_PAGE];
	int fd = open(victim_path(v, "private"), O_RDONLY | O_CLOEXEC);
	bool good = fd >= 0;

	for (size_t page = 0; good && page < PAGES; page++) {
		size_t at = page * VICTIM_PAGE;
		bool copied = page % 2 == 0;

		good = page_is(v, s->private_map + at, VICTIM_PAGE,
			       copied ? 10000 + s->generation * 100 + page : 1000 + page,
			       copied ? "copied" : "uncopied", page) &&
		       page_is(v, s->read_map + at, VICTIM_PAGE, 1000 + page, "read-only", page);
		if (good && pread(fd, from_file, sizeof(from_file), (off_t)at) != sizeof(from_file))
			good = victim_fail(v, "private file: cannot read page %zu", page);
		good = good && page_is(v, from_file, VICTIM_PAGE, 1000 + page,
				       "file under private map", page);
	}
	if (fd < 0)
		return victim_fail(v, "private file: %m");
	close(fd);
	for (size_t page = 0; good && page < 2; page++)
		good = page_is(v, s->offset_map + page * VICTIM_PAGE, VICTIM_PAGE, 2002 + page,
			       "offset map", page);
	good = good &&
	       page_is(v, s->offset_map + 2 * VICTIM_PAGE, TAIL, 2004, "short file's end", 2);
	if (good && s->offset_map[2 * VICTIM_PAGE + TAIL + 5] != 0x77)
		good = victim_fail(v, "write behind the end of the short file is lost");
	return good;
}

static bool shared(struct victim *v, struct state *s)
{
	unsigned char buffer[VICTIM_PAGE], again[VICTIM_PAGE];
	char perms[5] = "";

	CHECK(v, victim_mapping(s->shared_map, perms, NULL, 0) && strcmp(perms, "rw-s") == 0,
	      "shared map: permissions '%s'", perms);
	for (size_t page = 0; page < PAGES; page++) {
		uint64_t seed = page % 5 == 1 ? 20000 + s->generation * 100 + page : 3000 + page;
		off_t at = (off_t)(page * VICTIM_PAGE);

		if (page % 5 == 2 && s->generation > 0)
			seed = 30000 + s->generation * 100 + page;
		if (!page_is(v, s->shared_map + at, VICTIM_PAGE, seed, "shared map", page))
			return false;
		CHECK(v, pread(s->shared_fd, buffer, sizeof(buffer), at) == sizeof(buffer),
		      "shared: pread: %m");
		if (!page_is(v, buffer, VICTIM_PAGE, seed, "shared file", page))
			return false;
		if (page % 5 != 2)
			continue;
		victim_fill(again, sizeof(again), 30000 + (s->generation + 1) * 100 + page);
		CHECK(v, pwrite(s->shared_fd, again, sizeof(again), at) == sizeof(again),
		      "shared: pwrite: %m");
		CHECK(v, memcmp(s->shared_map + at, again, sizeof(again)) == 0,
		      "page %zu written through the descriptor is not seen in the mapping", page);
	}
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!privates(v, s) || !shared(v, s))
		return false;
	s->generation++;
	copy_pages(s);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = {0};
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
