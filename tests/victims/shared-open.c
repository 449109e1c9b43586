/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Open files that several descriptors of a process and its child stand for, by dup, fork and SCM_RIGHTS: one position each,
 * and one set of flags. A second open file of the same inode has a position of its own. And memfds with each kind of seal.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#define MFD_EXEC	16u
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#define MEMFDS 6

enum { ASK_POSITIONS = 1, ASK_MOVE = 2 };

static const struct {
	const char *name;
	unsigned flags;
	int add, seals; /* F_SEAL_*: added, and in force then */
	bool writable;
} kinds[MEMFDS] = {
	{ "plain", 0, 0, F_SEAL_SEAL, true },
	{ "open", MFD_ALLOW_SEALING, 0, 0, true },
	{ "constant", MFD_ALLOW_SEALING, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
	  F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, false },
	{ "future", MFD_ALLOW_SEALING, F_SEAL_FUTURE_WRITE, F_SEAL_FUTURE_WRITE, false },
	{ "noexec", MFD_NOEXEC_SEAL, 0, F_SEAL_EXEC, true },
	{ "exec", MFD_EXEC | MFD_ALLOW_SEALING, F_SEAL_GROW, F_SEAL_GROW, true },
};

struct state {
	int first, same, other;	    /* `same` is a dup of `first`; `other` was opened apart */
	int passed;		    /* by the child, which has it open, too */
	int memfd;		    /* in both */
	int seals[MEMFDS];	    /* one memfd of each kind */
	unsigned char *future_map;  /* writable, from before the seal */
	int64_t *wanted;	    /* shared: positions of first, other, passed, memfd */
	struct victim_peer child;
};

static const char *look(const struct state *s)
{
	if (lseek(s->first, 0, SEEK_CUR) != s->wanted[0] || lseek(s->same, 0, SEEK_CUR) != s->wanted[0])
		return "the file that is open twice by dup has another position";
	if (lseek(s->other, 0, SEEK_CUR) != s->wanted[1])
		return "the second open file of the same inode has another position";
	if (lseek(s->passed, 0, SEEK_CUR) != s->wanted[2])
		return "the file that was passed has another position";
	if (lseek(s->memfd, 0, SEEK_CUR) != s->wanted[3])
		return "the memfd has another position";
	return NULL;
}

static void move_all(const struct state *s, int64_t by)
{
	MUST(lseek(s->same, by, SEEK_CUR) >= 0 && lseek(s->other, 2 * by, SEEK_CUR) >= 0 &&
	     lseek(s->passed, 3 * by, SEEK_CUR) >= 0 && lseek(s->memfd, 4 * by, SEEK_CUR) >= 0);
	for (int i = 0; i < 4; i++)
		s->wanted[i] += (i + 1) * by;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	const struct state *s = context;
	const char *wrong = look(s);

	if (request == ASK_MOVE)
		move_all(s, 7);
	snprintf(text, size, "%s", wrong ? wrong : "");
}

/* The child's open file comes to the parent over a pair of sockets, which does not stay. */
static void pass(int from, int *to)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char byte = 0;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int pair[2];

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.head), &from, sizeof(from));
	MUST(sendmsg(pair[0], &message, 0) == 1 && recvmsg(pair[1], &message, 0) == 1);
	memcpy(to, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(*to));
	MUST(close(pair[0]) == 0 && close(pair[1]) == 0);
}

static void open_memfds(struct victim *v, struct state *s)
{
	unsigned char page[VICTIM_PAGE];

	for (int i = 0; i < MEMFDS; i++) {
		s->seals[i] = memfd_create(kinds[i].name, MFD_CLOEXEC | kinds[i].flags);
		if (s->seals[i] < 0 && errno == EINVAL)
			victim_skip(v, "memfd_create does not know flags %x", kinds[i].flags);
		victim_fill(page, sizeof(page), (uint64_t)i);
		MUST(s->seals[i] >= 0 && write(s->seals[i], page, sizeof(page)) == sizeof(page));
		if (strcmp(kinds[i].name, "future") == 0)
			s->future_map = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->seals[i], 0);
		MUST(s->future_map != MAP_FAILED && (!kinds[i].add || fcntl(s->seals[i], F_ADD_SEALS, kinds[i].add) == 0));
	}
}

static void setup(struct victim *v, struct state *s)
{
	const char *path = victim_path(v, "file");
	int apart;

	s->wanted = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s->first = open(path, O_RDWR | O_CREAT | O_APPEND, 0600);
	s->same = dup(s->first);
	s->other = open(path, O_RDONLY);
	apart = open(path, O_RDONLY);
	s->memfd = memfd_create("shared-open", MFD_CLOEXEC);
	MUST(s->wanted != MAP_FAILED && s->first >= 0 && s->same >= 0 && s->other >= 0 && apart >= 0 && s->memfd >= 0);
	MUST(ftruncate(s->first, 100000) == 0 && ftruncate(s->memfd, 100000) == 0);
	pass(apart, &s->passed);
	open_memfds(v, s);
	move_all(s, 11);
	victim_peer_fork(&s->child, child_serve, s);
	MUST(close(apart) == 0); /* the child still has it */
}

static bool check_memfd(struct victim *v, const struct state *s, int i)
{
	unsigned char page[VICTIM_PAGE];
	int fd = s->seals[i], seals = fcntl(fd, F_GET_SEALS);
	struct stat info;

	CHECK(v, seals == kinds[i].seals, "memfd %s has seals %x, not %x", kinds[i].name, (unsigned)seals,
	      (unsigned)kinds[i].seals);
	CHECK(v, fstat(fd, &info) == 0 && (info.st_mode & 0777) == (kinds[i].flags & MFD_NOEXEC_SEAL ? 0666 : 0777),
	      "memfd %s has mode %o", kinds[i].name, info.st_mode);
	CHECK(v, pread(fd, page, sizeof(page), 0) == sizeof(page) && victim_differs(page, sizeof(page), (uint64_t)i) < 0,
	      "memfd %s has wrong content", kinds[i].name);
	CHECK(v, (pwrite(fd, page, 1, 0) == 1) == kinds[i].writable, "memfd %s: write: %m", kinds[i].name);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	const char *wrong = look(s);

	if (wrong)
		return victim_fail(v, "parent: %s", wrong);
	if (!victim_peer_ask(v, &s->child, ASK_MOVE))
		return false;
	wrong = look(s);
	if (wrong)
		return victim_fail(v, "after the child has moved it: %s", wrong);
	move_all(s, 5);
	if (!victim_peer_ask(v, &s->child, ASK_POSITIONS))
		return false;
	CHECK(v, fcntl(s->same, F_SETFL, O_APPEND | O_NONBLOCK) == 0 && fcntl(s->first, F_GETFL) & O_NONBLOCK &&
	      !(fcntl(s->other, F_GETFL) & O_NONBLOCK) && fcntl(s->first, F_SETFL, O_APPEND) == 0,
	      "flags are not shared as they were");
	for (int i = 0; i < MEMFDS; i++)
		if (!check_memfd(v, s, i))
			return false;
	*(volatile unsigned char *)s->future_map = s->future_map[0]; /* still writable */
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
