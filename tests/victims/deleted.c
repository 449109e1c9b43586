/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * deleted DIR [map]: open files whose names are gone or mislead: a deleted one (opened twice), one
 * whose name is another file's by now, two that live on under a second name, one of them elsewhere, an empty one, and one
 * whose name really ends in " (deleted)", and one that never had a name (O_TMPFILE). With
 * "map", a deleted file is mapped shared as well.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

#define SIZE 50000

struct state {
	int gone, gone_own;  /* the deleted file, opened twice: offsets of their own */
	int replaced;	     /* deleted, and its name taken by another file */
	int linked;	     /* its first name deleted, its second kept */
	int moved;	     /* written as DIR/tmp/x, linked as DIR/final/y, its first name deleted */
	int empty;	     /* deleted, no content */
	int named;	     /* DIR/"x (deleted)", which exists */
	int unnamed;	     /* from O_TMPFILE; -1: the file system has none */
	unsigned char *map;  /* shared mapping of gone, or NULL */
	uint64_t generation; /* of gone's content */
};

static int file_make(const struct victim *v, const char *name, uint64_t seed)
{
	static unsigned char content[SIZE];
	int fd = open(victim_path(v, name), O_RDWR | O_CREAT | O_EXCL, 0640);

	MUST(fd >= 0);
	victim_fill(content, sizeof(content), seed);
	MUST(write(fd, content, sizeof(content)) == SIZE);
	return fd;
}

static bool content(struct victim *v, int fd, uint64_t seed, const char *what)
{
	static unsigned char found[SIZE + 1];
	ssize_t got = pread(fd, found, sizeof(found), 0), wrong;

	CHECK(v, got == SIZE, "%s: %zd bytes, not %d", what, got, SIZE);
	wrong = victim_differs(found, SIZE, seed);
	CHECK(v, wrong < 0, "%s: byte %zd is wrong", what, wrong);
	return true;
}

static void setup(struct victim *v, struct state *s)
{
	s->gone = file_make(v, "gone", 100);
	s->gone_own = open(victim_path(v, "gone"), O_RDONLY | O_CLOEXEC);
	MUST(s->gone_own >= 0 && lseek(s->gone_own, 777, SEEK_SET) == 777 &&
	     lseek(s->gone, 555, SEEK_SET) == 555);
	if (victim_arg_is(v, "map")) {
		s->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->gone, 0);
		MUST(s->map != MAP_FAILED);
	}
	MUST(unlink(victim_path(v, "gone")) == 0);
	s->replaced = file_make(v, "replaced", 200);
	MUST(unlink(victim_path(v, "replaced")) == 0 && close(file_make(v, "replaced", 201)) == 0);
	s->linked = file_make(v, "first", 300);
	MUST(link(victim_path(v, "first"), victim_path(v, "second")) == 0 &&
	     unlink(victim_path(v, "first")) == 0);
	MUST(mkdir(victim_path(v, "tmp"), 0755) == 0 && mkdir(victim_path(v, "final"), 0755) == 0);
	s->moved = file_make(v, "tmp/x", 500);
	MUST(link(victim_path(v, "tmp/x"), victim_path(v, "final/y")) == 0 && unlink(victim_path(v, "tmp/x")) == 0);
	s->empty = open(victim_path(v, "empty"), O_RDWR | O_CREAT | O_APPEND, 0600);
	MUST(s->empty >= 0 && unlink(victim_path(v, "empty")) == 0);
	s->named = file_make(v, "x (deleted)", 400);
	s->unnamed = open(v->dir, O_TMPFILE | O_RDWR, 0600);
	MUST(s->unnamed >= 0 || errno == EOPNOTSUPP);
	MUST(s->unnamed < 0 || write(s->unnamed, "unnamed", 7) == 7);
}

static bool gone_check(struct victim *v, struct state *s)
{
	static unsigned char fresh[SIZE];
	struct stat st, own;
	unsigned char byte;

	if (!content(v, s->gone, 100 + s->generation, "deleted file") ||
	    !content(v, s->gone_own, 100 + s->generation, "deleted file, second open"))
		return false;
	CHECK(v, fstat(s->gone, &st) == 0 && fstat(s->gone_own, &own) == 0 && st.st_nlink == 0,
	      "deleted file has %lu names", (unsigned long)st.st_nlink);
	CHECK(v, st.st_ino == own.st_ino && st.st_dev == own.st_dev,
	      "one deleted file has become two");
	CHECK(v, (st.st_mode & 0777) == 0640, "deleted file has mode %o", st.st_mode);
	CHECK(v, lseek(s->gone, 0, SEEK_CUR) == 555 && lseek(s->gone_own, 0, SEEK_CUR) == 777,
	      "deleted file's offsets: %lld %lld", (long long)lseek(s->gone, 0, SEEK_CUR),
	      (long long)lseek(s->gone_own, 0, SEEK_CUR));
	CHECK(v,
	      (fcntl(s->gone_own, F_GETFL) & O_ACCMODE) == O_RDONLY &&
		      (fcntl(s->gone, F_GETFL) & O_ACCMODE) == O_RDWR,
	      "deleted file's flags differ");
	s->generation++;
	victim_fill(fresh, sizeof(fresh), 100 + s->generation);
	CHECK(v, pwrite(s->gone, fresh, SIZE, 0) == SIZE, "write to the deleted file: %m");
	if (!content(v, s->gone_own, 100 + s->generation,
		     "deleted file, as the second open sees a write"))
		return false;
	if (s->map == NULL)
		return true;
	CHECK(v, victim_differs(s->map, SIZE, 100 + s->generation) < 0,
	      "the mapping does not see a write to the deleted file");
	s->map[5] ^= 0xff;
	CHECK(v, pread(s->gone, &byte, 1, 5) == 1 && byte == s->map[5],
	      "a write through the mapping is not in the file");
	s->map[5] ^= 0xff;
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct stat st, other;
	char byte, name[8];
	int fd;

	if (!gone_check(v, s) || !content(v, s->replaced, 200, "replaced file") ||
	    !content(v, s->linked, 300, "renamed file") ||
	    !content(v, s->moved, 500, "file with a name elsewhere") ||
	    !content(v, s->named, 400, "file named ' (deleted)'"))
		return false;
	fd = open(victim_path(v, "replaced"), O_RDONLY | O_CLOEXEC);
	if (fd < 0 || !content(v, fd, 201, "the file that took the name"))
		return victim_fail(v, "the file that took the name: %m");
	close(fd);
	CHECK(v,
	      access(victim_path(v, "gone"), F_OK) < 0 &&
		      access(victim_path(v, "first"), F_OK) < 0 &&
		      access(victim_path(v, "empty"), F_OK) < 0,
	      "a deleted name is there again");
	CHECK(v,
	      fstat(s->linked, &st) == 0 && stat(victim_path(v, "second"), &other) == 0 &&
		      st.st_ino == other.st_ino,
	      "the file with a second name is another one");
	CHECK(v,
	      fstat(s->moved, &st) == 0 && stat(victim_path(v, "final/y"), &other) == 0 &&
		      st.st_ino == other.st_ino,
	      "the file with a name elsewhere is another one");
	CHECK(v,
	      fstat(s->named, &st) == 0 && stat(victim_path(v, "x (deleted)"), &other) == 0 &&
		      st.st_ino == other.st_ino,
	      "the file named ' (deleted)' is another one");
	CHECK(v, write(s->empty, "e", 1) == 1 && pread(s->empty, &byte, 1, 0) == 1 && byte == 'e',
	      "the empty file: %m");
	CHECK(v, s->unnamed < 0 || (pread(s->unnamed, name, sizeof(name), 0) == 7 && memcmp(name, "unnamed", 7) == 0),
	      "the file that never had a name: %m");
	CHECK(v, fcntl(s->empty, F_GETFL) & O_APPEND, "the empty file has lost O_APPEND");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
