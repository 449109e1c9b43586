/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regular files with their flags and offsets, a directory in the middle of being listed, device
 * nodes, O_PATH, close-on-exec, dup()ed descriptors and those shared with a child, which stay one
 * open file, and a high number.
 */
#include "victim.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/sysmacros.h>

#define FILE_SIZE 100000
#define ENTRIES 300
#define HIGH 600

enum { ASK_READ = 1 };

struct state {
	int reading, reading_dup,
		reading_own;	  /* one open file, its dup, and another open of the same file */
	int high;		  /* a dup of reading, with number HIGH and close-on-exec */
	int appending;		  /* O_APPEND, write-only */
	int nonblocking;	  /* O_NONBLOCK | O_NOATIME, read-write */
	int child_shared;	  /* open file that the child reads from, too */
	int directory;		  /* DIR/list, partly listed */
	int path, path_directory; /* O_PATH */
	int null, zero, urandom, full;
	off_t offset, child_offset; /* where reading and child_shared must be */
	off_t appended;		    /* size of the appended file */
	bool seen[ENTRIES];	    /* names that the running listing has given */
	struct victim_peer child;
};

static bool read_some(int fd, off_t at, size_t size)
{
	static unsigned char expected[FILE_SIZE], got[FILE_SIZE];

	victim_fill(expected, sizeof(expected), 1);
	return read(fd, got, size) == (ssize_t)size && memcmp(got, expected + at, size) == 0;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	off_t at = lseek(s->child_shared, 0, SEEK_CUR);

	if (request == ASK_READ && !read_some(s->child_shared, at, 77))
		snprintf(text, size, "cannot read the shared file at %lld", (long long)at);
}

/* Lists up to so many entries' worth of bytes; false when a name comes twice or is none of ours. */
static bool list_some(struct state *s, size_t bytes, bool *ret_end)
{
	char buffer[4096];
	ssize_t got = getdents64(s->directory, buffer, bytes);

	if (got < 0)
		return false;
	*ret_end = got == 0;
	for (ssize_t at = 0; at < got;) {
		struct dirent64 *entry = (struct dirent64 *)(buffer + at);
		unsigned int number;

		at += entry->d_reclen;
		if (entry->d_name[0] == '.')
			continue;
		if (sscanf(entry->d_name, "entry-%u", &number) != 1 || number >= ENTRIES ||
		    s->seen[number])
			return false;
		s->seen[number] = true;
	}
	return true;
}

static int file_open(const struct victim *v, const char *name, int flags)
{
	int fd = open(victim_path(v, name), flags, 0644);

	MUST(fd >= 0);
	return fd;
}

static void setup(struct victim *v, struct state *s)
{
	static unsigned char content[FILE_SIZE];
	char name[64];
	bool end;

	victim_fill(content, sizeof(content), 1);
	s->reading = file_open(v, "data", O_RDWR | O_CREAT);
	MUST(write(s->reading, content, sizeof(content)) == FILE_SIZE && close(s->reading) == 0);
	s->reading = file_open(v, "data", O_RDONLY);
	s->reading_dup = dup(s->reading);
	s->high = fcntl(s->reading, F_DUPFD_CLOEXEC, HIGH);
	s->reading_own = file_open(v, "data", O_RDONLY | O_CLOEXEC);
	s->child_shared = file_open(v, "data", O_RDONLY);
	MUST(s->reading_dup >= 0 && s->high == HIGH);
	s->offset = lseek(s->reading, 1234, SEEK_SET);
	MUST(lseek(s->reading_own, 4321, SEEK_SET) == 4321);
	s->appending = file_open(v, "log file", O_WRONLY | O_APPEND | O_CREAT);
	s->nonblocking = file_open(v, "data", O_RDWR | O_NONBLOCK | O_NOATIME);
	s->path = file_open(v, "data", O_PATH | O_CLOEXEC);
	MUST(mkdir(victim_path(v, "list"), 0755) == 0);
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof(name), "list/entry-%d", i);
		close(file_open(v, name, O_WRONLY | O_CREAT));
	}
	s->directory = file_open(v, "list", O_RDONLY | O_DIRECTORY);
	s->path_directory = file_open(v, "list", O_PATH | O_DIRECTORY);
	MUST(list_some(s, 1000, &end) && !end);
	s->null = open("/dev/null", O_RDWR);
	s->zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	s->urandom = open("/dev/urandom", O_RDONLY);
	s->full = open("/dev/full", O_WRONLY);
	MUST(s->null >= 0 && s->zero >= 0 && s->urandom >= 0 && s->full >= 0);
	victim_peer_fork(&s->child, child_serve, s);
}

static bool flags_check(struct victim *v, const struct state *s)
{
	const struct {
		const char *what;
		int fd, flags, descriptor;
	} all[] = {
		{"the file read", s->reading, O_RDONLY, 0},
		{"its dup", s->reading_dup, O_RDONLY, 0},
		{"its high dup", s->high, O_RDONLY, FD_CLOEXEC},
		{"another open of it", s->reading_own, O_RDONLY, FD_CLOEXEC},
		{"the appended file", s->appending, O_WRONLY | O_APPEND, 0},
		{"the O_NONBLOCK file", s->nonblocking, O_RDWR | O_NONBLOCK | O_NOATIME, 0},
		{"O_PATH", s->path, O_PATH, FD_CLOEXEC},
		{"O_PATH of a directory", s->path_directory, O_PATH | O_DIRECTORY, 0},
		{"the directory", s->directory, O_RDONLY | O_DIRECTORY, 0},
		{"/dev/null", s->null, O_RDWR, 0},
		{"/dev/zero", s->zero, O_RDONLY, FD_CLOEXEC},
		{"/dev/full", s->full, O_WRONLY, 0},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		int flags = fcntl(all[i].fd, F_GETFL), descriptor = fcntl(all[i].fd, F_GETFD);

		/* O_LARGEFILE comes and goes with the way a file was opened; libc calls it 0 here.
		 */
		CHECK(v, flags >= 0 && (flags & ~0100000) == all[i].flags, "%s: flags %o, not %o",
		      all[i].what, (unsigned int)flags, (unsigned int)all[i].flags);
		CHECK(v, descriptor == all[i].descriptor, "%s: close-on-exec is %d", all[i].what,
		      descriptor);
	}
	return true;
}

static bool offsets_check(struct victim *v, struct state *s)
{
	off_t own = lseek(s->reading_own, 0, SEEK_CUR);

	CHECK(v, lseek(s->reading, 0, SEEK_CUR) == s->offset, "offset is %lld, not %lld",
	      (long long)lseek(s->reading, 0, SEEK_CUR), (long long)s->offset);
	CHECK(v, own == 4321, "the other open's offset is %lld", (long long)own);
	CHECK(v, read_some(s->reading, s->offset, 100), "wrong content at %lld",
	      (long long)s->offset);
	CHECK(v, read_some(s->reading_dup, s->offset + 100, 100),
	      "a dup does not go on where the other was");
	CHECK(v, read_some(s->high, s->offset + 200, 100),
	      "the high dup does not go on where the other was");
	CHECK(v, lseek(s->reading_own, 0, SEEK_CUR) == 4321,
	      "another open of the file moved with it");
	s->offset += 300;
	if (s->offset > FILE_SIZE - 1000)
		s->offset = lseek(s->reading, 0, SEEK_SET);
	CHECK(v, read_some(s->child_shared, s->child_offset, 33),
	      "the child's file: wrong content");
	if (!victim_peer_ask(v, &s->child, ASK_READ))
		return false;
	s->child_offset += 33 + 77;
	CHECK(v, lseek(s->child_shared, 0, SEEK_CUR) == s->child_offset,
	      "what the child read did not move the shared offset");
	if (s->child_offset > FILE_SIZE - 1000)
		s->child_offset = lseek(s->child_shared, 0, SEEK_SET);
	return true;
}

static bool append_check(struct victim *v, struct state *s)
{
	struct stat st;

	CHECK(v, write(s->appending, "0123456789", 10) == 10, "append: %m");
	s->appended += 10;
	CHECK(v, stat(victim_path(v, "log file"), &st) == 0 && st.st_size == s->appended,
	      "appended file: %lld bytes, not %lld", (long long)st.st_size, (long long)s->appended);
	CHECK(v, lseek(s->appending, 0, SEEK_SET) == 0 && write(s->appending, "x", 1) == 1,
	      "append: %m");
	s->appended++;
	CHECK(v, fstat(s->appending, &st) == 0 && st.st_size == s->appended,
	      "O_APPEND has no effect");
	return true;
}

static bool list_check(struct victim *v, struct state *s)
{
	bool end = false;

	CHECK(v, list_some(s, 1000, &end), "the listing gave a name twice, or a wrong one: %m");
	if (v->number % 2 == 1 && !end)
		return true;
	while (!end)
		CHECK(v, list_some(s, 2000, &end),
		      "the listing gave a name twice, or a wrong one: %m");
	for (int i = 0; i < ENTRIES; i++)
		CHECK(v, s->seen[i], "the listing left out entry-%d", i);
	memset(s->seen, 0, sizeof(s->seen));
	CHECK(v, lseek(s->directory, 0, SEEK_SET) == 0 && list_some(s, 1000, &end) && !end,
	      "listing again: %m");
	return true;
}

static bool special_check(struct victim *v, struct state *s)
{
	unsigned char bytes[64], other[64];
	struct stat st;
	int fd;

	CHECK(v, read(s->path, bytes, 1) < 0 && errno == EBADF, "O_PATH can be read");
	CHECK(v, fstat(s->path, &st) == 0 && st.st_size == FILE_SIZE, "O_PATH leads elsewhere");
	fd = openat(s->path_directory, "entry-7", O_RDONLY | O_CLOEXEC);
	CHECK(v, fd >= 0 && close(fd) == 0, "O_PATH of a directory: %m");
	CHECK(v, write(s->null, "abc", 3) == 3 && read(s->null, bytes, 1) == 0,
	      "/dev/null is something else");
	memset(bytes, 1, sizeof(bytes));
	CHECK(v, read(s->zero, bytes, 64) == 64 && bytes[0] == 0 && bytes[63] == 0,
	      "/dev/zero is something else");
	CHECK(v,
	      read(s->urandom, bytes, 64) == 64 && read(s->urandom, other, 64) == 64 &&
		      memcmp(bytes, other, 64) != 0,
	      "/dev/urandom is something else");
	CHECK(v, write(s->full, "x", 1) < 0 && errno == ENOSPC, "/dev/full is something else");
	CHECK(v, fstat(s->null, &st) == 0 && st.st_rdev == makedev(1, 3),
	      "/dev/null has another number");
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	return flags_check(v, s) && offsets_check(v, s) && append_check(v, s) && list_check(v, s) &&
	       special_check(v, s);
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
