/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads all the time into one of many buffers from a file that is open with O_DIRECT, each time other content than the
 * buffer had. Argument "late": opens it so only when DIR/direct comes up. Each buffer must hold what was last read into it.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

#define BUFFERS 1024u
#define SIZE (4 * VICTIM_PAGE)
#define CONTENTS 2u

struct state {
	unsigned char *buffers;
	unsigned char last[BUFFERS]; /* what was read into each */
	int fd;
	uint64_t random;
};

static void read_next(struct state *s)
{
	size_t i = victim_random(&s->random) % BUFFERS;

	s->last[i] = !s->last[i];
	MUST(pread(s->fd, s->buffers + i * SIZE, SIZE, (off_t)(s->last[i] * SIZE)) == (ssize_t)SIZE);
}

static bool verify(struct victim *v, const struct state *s)
{
	for (size_t i = 0; i < BUFFERS; i++) {
		ssize_t wrong = victim_differs(s->buffers + i * SIZE, SIZE, s->last[i] + 1u);

		CHECK(v, wrong < 0, "buffer %zu does not hold what was read last: byte %zd is another one", i, wrong);
	}
	return true;
}

static bool open_direct(struct victim *v, struct state *s)
{
	int fd = open(victim_path(v, "content"), O_RDONLY | O_DIRECT);

	if (fd < 0)
		return false;
	MUST(dup2(fd, s->fd) == s->fd && close(fd) == 0);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { .random = 1 };
	struct victim v;
	bool late;

	victim_start(&v, argc, argv);
	late = victim_arg_is(&v, "late");
	s.buffers = mmap(NULL, BUFFERS * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	s.fd = open(victim_path(&v, "content"), O_RDWR | O_CREAT | O_TRUNC, 0644);
	MUST(s.buffers != MAP_FAILED && s.fd >= 0);
	for (size_t i = 0; i < CONTENTS; i++) {
		victim_fill(s.buffers, SIZE, i + 1);
		MUST(pwrite(s.fd, s.buffers, SIZE, (off_t)(i * SIZE)) == (ssize_t)SIZE);
	}
	for (size_t i = 0; i < BUFFERS; i++)
		MUST(pread(s.fd, s.buffers + i * SIZE, SIZE, 0) == (ssize_t)SIZE);
	MUST(fsync(s.fd) == 0);
	if (!late && !open_direct(&v, &s))
		victim_skip(&v, "no O_DIRECT here: %m");
	victim_ready(&v);
	for (unsigned turn = 0;; turn++) {
		read_next(&s);
		if (turn % 16)
			continue;
		if (victim_asked(&v))
			victim_answer(&v, verify(&v, &s));
		if (late && access(victim_path(&v, "direct"), F_OK) == 0) {
			MUST(open_direct(&v, &s));
			late = false;
		}
	}
}
