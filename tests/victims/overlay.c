/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * overlay DIR PLACE: files on an overlay file system at PLACE, made by the test: PLACE/lower is in the lower layer only; it is
 * open for reading, mapped private and changed there, and mapped for reading. PLACE/upper is in the lower layer, too, and was
 * copied up when it was opened for writing. Each is SIZE bytes.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

#define SIZE 20000

struct state {
	int lower, upper;
	unsigned char *private, *readonly;
	unsigned char content[SIZE]; /* of the lower file */
};

static int place_open(const struct victim *v, const char *name, int flags)
{
	char path[VICTIM_PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", v->argv[0], name);
	fd = open(path, flags | O_CLOEXEC);
	MUST(fd >= 0);
	return fd;
}

static bool verify(struct victim *v, void *context)
{
	static unsigned char content[SIZE];
	struct state *s = context;
	off_t at = 100 * v->number;

	CHECK(v, pread(s->lower, content, SIZE, 0) == SIZE && memcmp(content, s->content, SIZE) == 0,
	      "the lower file is wrong");
	CHECK(v, lseek(s->lower, 0, SEEK_CUR) == at, "position %lld, not %lld", (long long)lseek(s->lower, 0, SEEK_CUR),
	      (long long)at);
	MUST(lseek(s->lower, 100, SEEK_CUR) == at + 100);
	CHECK(v, memcmp(s->readonly, s->content, SIZE) == 0, "the mapping is wrong");
	memcpy(content, s->private, SIZE);
	CHECK(v, content[5000] == 'p', "the change of a private page is lost");
	content[5000] = s->readonly[5000];
	CHECK(v, memcmp(content, s->content, SIZE) == 0, "the private mapping is wrong");
	CHECK(v, pread(s->upper, content, SIZE, 0) == SIZE && content[0] == 'u', "the upper file is wrong");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	MUST(v.argc > 0);
	s.lower = place_open(&v, "lower", O_RDONLY);
	s.upper = place_open(&v, "upper", O_RDWR);
	MUST(pwrite(s.upper, "u", 1, 0) == 1 && lseek(s.lower, 100, SEEK_SET) == 100);
	MUST(pread(s.lower, s.content, SIZE, 0) == SIZE);
	s.private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, s.lower, 0);
	s.readonly = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, s.lower, 0);
	MUST(s.private != MAP_FAILED && s.readonly != MAP_FAILED);
	s.private[5000] = 'p';
	victim_run(&v, verify, &s);
}
