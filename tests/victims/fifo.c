/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fifo DIR [PLACE]: named pipes, in PLACE or else in DIR. Two hosts that share DIR would share the
 * content of the pipes too, as no real ones do: PLACE is for a directory that they do not share.
 *
 * Named pipes with unread data: one opened read-write, one with an end in each of two descriptors,
 * one of whose ends the child has.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/ioctl.h>

enum { ASK_READ = 1 };

struct state {
	int both;	    /* DIR/both, O_RDWR */
	int reader, writer; /* DIR/ends */
	int own_writer;	    /* DIR/child: written here ... */
	int child_reader;   /* ... and read in the child (closed here) */
	uint64_t round;	    /* seed of what is in them */
	struct victim_peer child;
};

static bool put(int fd, size_t size, uint64_t seed)
{
	unsigned char data[8192];

	victim_fill(data, size, seed);
	return write(fd, data, size) == (ssize_t)size;
}

static bool take(int fd, size_t size, uint64_t seed, char *text, size_t text_size)
{
	unsigned char data[8192];
	int waiting = -1;
	ssize_t got;

	if (ioctl(fd, FIONREAD, &waiting) < 0 || waiting != (int)size) {
		snprintf(text, text_size, "%d bytes wait, not %zu", waiting, size);
		return false;
	}
	got = read(fd, data, size);
	if (got != (ssize_t)size || victim_differs(data, size, seed) >= 0) {
		snprintf(text, text_size, "content is wrong");
		return false;
	}
	return true;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;

	if (request == ASK_READ)
		take(s->child_reader, 300, ++s->round * 10 + 3, text, size);
}

static void fill(struct state *s)
{
	s->round++;
	MUST(put(s->both, 5000, s->round * 10 + 1) && put(s->writer, 700, s->round * 10 + 2) &&
	     put(s->own_writer, 300, s->round * 10 + 3));
}

static const char *place_path(const struct victim *v, const char *name)
{
	static char path[VICTIM_PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", v->argc > 0 ? v->argv[0] : v->dir, name);
	return path;
}

static int fifo_open(const struct victim *v, const char *name, int flags)
{
	const char *path = place_path(v, name);
	int fd;

	MUST(mkfifo(path, 0640) == 0 || errno == EEXIST);
	fd = open(path, flags);
	MUST(fd >= 0);
	return fd;
}

/* Without O_LARGEFILE, which libc calls 0 but the kernel shows. */
static int flags(int fd)
{
	return fcntl(fd, F_GETFL) & ~0100000;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char text[VICTIM_TEXT_MAX - 100] = "";
	struct stat st, named;

	CHECK(v,
	      fstat(s->both, &st) == 0 && stat(place_path(v, "both"), &named) == 0 &&
		      st.st_ino == named.st_ino,
	      "the FIFO is another one than its name says");
	CHECK(v,
	      flags(s->reader) == (O_RDONLY | O_NONBLOCK) && flags(s->writer) == O_WRONLY &&
		      flags(s->both) == O_RDWR,
	      "flags are %x %x %x", (unsigned int)flags(s->reader), (unsigned int)flags(s->writer),
	      (unsigned int)flags(s->both));
	CHECK(v, take(s->both, 5000, s->round * 10 + 1, text, sizeof(text)),
	      "FIFO opened for both: %s", text);
	CHECK(v, take(s->reader, 700, s->round * 10 + 2, text, sizeof(text)),
	      "FIFO with two ends: %s", text);
	CHECK(v, read(s->reader, text, 1) < 0 && errno == EAGAIN, "empty FIFO: %m");
	if (!victim_peer_ask(v, &s->child, ASK_READ))
		return false;
	fill(s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	s.both = fifo_open(&v, "both", O_RDWR);
	s.reader = fifo_open(&v, "ends", O_RDONLY | O_NONBLOCK);
	s.writer = fifo_open(&v, "ends", O_WRONLY);
	s.child_reader = fifo_open(&v, "child", O_RDONLY | O_NONBLOCK);
	s.own_writer = fifo_open(&v, "child", O_WRONLY);
	victim_peer_fork(&s.child, child_serve, &s);
	MUST(close(s.child_reader) == 0);
	fill(&s);
	victim_run(&v, verify, &s);
}
