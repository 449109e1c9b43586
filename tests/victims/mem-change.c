/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that becomes something else while it is being moved. At the start all pages are the process's own; when DIR/change
 * comes up, what the argument says happens once, and DIR/changed says so:
 *
 *	dropped		copied pages of a private file mapping go by MADV_DONTNEED, and those of the file are read instead
 *	cut		the same, by cutting the file to nothing and letting it grow again
 *	file		an anonymous mapping is replaced by a private one of a file, of which every other page is written
 *	anonymous	the other way round
 *	offset		a private file mapping is replaced by one from another offset
 *	locked		half of an anonymous mapping is locked into memory (from the start), nothing happens
 *	poisoned	the first page of an anonymous mapping has no content any more: SIGBUS for whoever reads it
 */
#include "victim.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGES 64u
#define SIZE (PAGES * VICTIM_PAGE)
#define SHIFT 3u /* pages between the two offsets */

#define SEED_FILE 1000u
#define SEED_FIRST 2000u
#define SEED_SECOND 3000u

struct state {
	const char *kind;
	unsigned char *map;
	int fd; /* of DIR/file */
	bool changed;
};

static bool is(const struct state *s, const char *kind)
{
	return strcmp(s->kind, kind) == 0;
}

static void file_fill(int fd)
{
	unsigned char page[VICTIM_PAGE];

	for (size_t i = 0; i < PAGES + SHIFT; i++) {
		victim_fill(page, sizeof(page), SEED_FILE + i);
		MUST(pwrite(fd, page, sizeof(page), (off_t)(i * VICTIM_PAGE)) == sizeof(page));
	}
}

static void map_pages(struct state *s, bool file, size_t first, size_t step, unsigned seed)
{
	unsigned char *at = mmap(s->map, SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | (s->map ? MAP_FIXED : 0) | (file ? 0 : MAP_ANONYMOUS), file ? s->fd : -1,
				 file ? (off_t)(first * VICTIM_PAGE) : 0);

	MUST(at != MAP_FAILED);
	s->map = at;
	for (size_t i = 0; i < PAGES; i += step)
		victim_fill(at + i * VICTIM_PAGE, VICTIM_PAGE, seed + (unsigned)i);
}

/* Kernels before 6.6 do not know how. */
static bool poison(struct state *s)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API, .features = 1 << 14 /* UFFD_FEATURE_POISON */ };
	struct uffdio_register area = { .range = { (uintptr_t)s->map, VICTIM_PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct {
		struct uffdio_range range; /* struct uffdio_poison */
		uint64_t mode;
		int64_t updated;
	} page = { .range = area.range };
	bool good = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &area) == 0 &&
		    madvise(s->map, VICTIM_PAGE, MADV_DONTNEED) == 0 &&
		    ioctl(fd, _IOWR(UFFDIO, 0x08, page) /* UFFDIO_POISON */, &page) == 0;

	if (fd >= 0)
		close(fd);
	return good;
}

static void change(struct state *s)
{
	volatile unsigned char sum = 0;

	if (is(s, "dropped"))
		MUST(madvise(s->map, SIZE, MADV_DONTNEED) == 0);
	if (is(s, "cut")) {
		MUST(ftruncate(s->fd, 0) == 0);
		file_fill(s->fd);
	}
	if (is(s, "file"))
		map_pages(s, true, 0, 2, SEED_SECOND);
	if (is(s, "anonymous"))
		map_pages(s, false, 0, 2, SEED_SECOND);
	if (is(s, "offset"))
		map_pages(s, true, SHIFT, 2, SEED_SECOND);
	for (size_t i = is(s, "poisoned"); i < PAGES; i++)
		sum ^= s->map[i * VICTIM_PAGE];
	s->changed = true;
}

static bool verify(struct victim *v, void *context)
{
	const struct state *s = context;
	bool all_file = s->changed && (is(s, "dropped") || is(s, "cut"));

	for (size_t i = 0; i < PAGES; i++) {
		size_t shift = is(s, "offset") ? SHIFT : 0;
		uint64_t seed = all_file || i % 2 ? SEED_FILE + shift + i : SEED_SECOND + i;
		ssize_t wrong;

		if (!s->changed || is(s, "poisoned"))
			seed = SEED_FIRST + i;
		if (is(s, "poisoned") && i == 0)
			continue;
		if (s->changed && is(s, "anonymous") && i % 2) {
			CHECK(v, s->map[i * VICTIM_PAGE] == 0, "page %zu is not zero", i);
			continue;
		}
		wrong = victim_differs(s->map + i * VICTIM_PAGE, VICTIM_PAGE, seed);
		CHECK(v, wrong < 0, "page %zu, %s: byte %zd is %02x", i, s->changed ? "changed" : "not changed", wrong,
		      s->map[i * VICTIM_PAGE + (size_t)wrong]);
	}
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;
	int fd;

	victim_start(&v, argc, argv);
	MUST(v.argc > 0);
	s.kind = v.argv[0];
	s.fd = open(victim_path(&v, "file"), O_RDWR | O_CREAT | O_TRUNC, 0644);
	MUST(s.fd >= 0);
	file_fill(s.fd);
	map_pages(&s, is(&s, "dropped") || is(&s, "cut") || is(&s, "anonymous") || is(&s, "offset"), 0, 1, SEED_FIRST);
	MUST(!is(&s, "locked") || mlock(s.map + SIZE / 2, SIZE / 2) == 0);
	if (is(&s, "poisoned") && !poison(&s))
		victim_skip(&v, "no UFFDIO_POISON here: %m");
	victim_ready(&v);
	for (;;) {
		if (victim_asked(&v))
			victim_answer(&v, verify(&v, &s));
		if (!s.changed && access(victim_path(&v, "change"), F_OK) == 0) {
			change(&s);
			fd = open(victim_path(&v, "changed"), O_WRONLY | O_CREAT, 0644);
			MUST(fd >= 0 && close(fd) == 0);
		}
		victim_sleep_us(2000);
	}
}
