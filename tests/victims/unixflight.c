/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * unixflight DIR [PLACE]: with PLACE, paths are there and not in DIR.
 *
 * What is on its way through UNIX sockets: descriptors that nobody has open (a pipe with data, a file, a socket whose own queue
 * has another socket, which is in its own queue), connections that wait to be accepted, one of them a child's, an urgent byte.
 * Then SO_PEERCRED of a pair and of an accepted connection, datagram clients of a socket that was bound relative to a
 * directory which is not the working directory any more.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { RIGHTS_MAX = 4, LATE = 2 };
enum { ASK_CONNECT = 1, ASK_TALK, ASK_PEER };

struct state {
	int carrier[2];	   /* a stream: descriptors among data */
	int nested[2];	   /* packets: a socket with sockets in its queue */
	int urgent[2];
	int listener;
	int late[LATE];	   /* the second is the child's */
	int pair[2];	   /* [1] is used by the child */
	int accepted;	   /* from the child */
	int server;	   /* datagrams */
	int clients[2];
	struct sockaddr_un name; /* of the listener */
	socklen_t name_size;
	char path[VICTIM_PATH_MAX + 16]; /* of a file that is on its way */
	unsigned round;
	struct victim_peer child;
	/* The child's. */
	int child_late, child_connected;
};

static bool give(int fd, const char *text, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
	} control = {0};
	struct iovec part = {(char *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = CMSG_SPACE(count * sizeof(int))};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

/* The text, with so many descriptors. */
static bool get(struct victim *v, int fd, const char *text, int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
	} control = {0};
	char data[64] = "";
	struct iovec part = {data, strlen(text)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
	size_t came = 0;

	CHECK(v, got == (ssize_t)strlen(text) && memcmp(data, text, strlen(text)) == 0, "'%s' came for '%s' (%zd)", data,
	      text, got);
	if (message.msg_controllen >= sizeof(control.header) && control.header.cmsg_type == SCM_RIGHTS)
		came = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	CHECK(v, came == count, "%s: %zu descriptors, not %zu", text, came, count);
	memcpy(fds, CMSG_DATA(&control.header), count * sizeof(int));
	return true;
}

/* ---- the child */

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	struct ucred cred = {0};
	socklen_t length = sizeof(cred);
	char data[8] = "";

	if (request == ASK_CONNECT) {
		if (s->child_connected < 0)
			s->child_connected = s->child_late;
		else
			close(s->child_late);
		s->child_late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(s->child_late, (struct sockaddr *)&s->name, s->name_size) < 0)
			snprintf(text, size, "child: connect: %s", strerror(errno));
	} else if (request == ASK_TALK) {
		if (recv(s->child_late, data, 4, 0) != 4 || strcmp(data, "late") != 0 || write(s->child_late, "child", 5) != 5)
			snprintf(text, size, "child: '%s' came over the late connection", data);
	} else if (request == ASK_PEER) {
		if (getsockopt(s->pair[1], SOL_SOCKET, SO_PEERCRED, &cred, &length) < 0 || cred.pid != getppid())
			snprintf(text, size, "child: the pair was made by %d", (int)cred.pid);
		else if (getsockopt(s->child_connected, SOL_SOCKET, SO_PEERCRED, &cred, &length) < 0 ||
			 cred.pid != getppid())
			snprintf(text, size, "child: it has connected to %d", (int)cred.pid);
	}
}

/* ---- what is on its way */

static void send_rights(struct victim *v, struct state *s)
{
	int ends[2], fds[3], spare[2];

	MUST(pipe(fds) == 0 && write(fds[1], "piped", 5) == 5);
	fds[2] = open(s->path, O_RDWR | O_CREAT, 0600);
	MUST(fds[2] >= 0 && ftruncate(fds[2], 0) == 0 && write(fds[2], "filed", 5) == 5);
	MUST(write(s->carrier[0], "head", 4) == 4 && give(s->carrier[0], "with", fds, 3) &&
	     write(s->carrier[0], "tail", 4) == 4);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, spare) == 0);
	MUST(give(spare[0], "self", &spare[1], 1) && give(ends[0], "deep", &spare[1], 1));
	MUST(give(s->nested[0], "nest", ends, 2));
	for (int i = 0; i < 2; i++) {
		close(ends[i]);
		close(spare[i]);
	}
	MUST(write(s->urgent[0], "calm", 4) == 4 && send(s->urgent[0], "!", 1, MSG_OOB) == 1 &&
	     write(s->urgent[0], "rest", 4) == 4);
	MUST(write(s->clients[0], "one", 3) == 3 && write(s->clients[1], "two", 3) == 3);
}

static bool take_rights(struct victim *v, struct state *s)
{
	int fds[RIGHTS_MAX], inner[RIGHTS_MAX], self[RIGHTS_MAX];
	char data[8] = "";

	if (!get(v, s->carrier[1], "head", fds, 0) || !get(v, s->carrier[1], "with", fds, 3) ||
	    !get(v, s->carrier[1], "tail", inner, 0))
		return false;
	CHECK(v, read(fds[0], data, sizeof(data)) == 5 && memcmp(data, "piped", 5) == 0, "the pipe: '%.5s'", data);
	CHECK(v, write(fds[1], "again", 5) == 5 && read(fds[0], data, 5) == 5, "the pipe: its ends do not meet");
	CHECK(v, lseek(fds[2], 0, SEEK_CUR) == 5 && pread(fds[2], data, 5, 0) == 5 && memcmp(data, "filed", 5) == 0,
	      "the file: '%.5s'", data);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	if (!get(v, s->nested[1], "nest", fds, 2) || !get(v, fds[1], "deep", inner, 1) ||
	    !get(v, inner[0], "self", self, 1))
		return false;
	CHECK(v, recv(self[0], data, 1, MSG_DONTWAIT) == 0, "the socket in its own queue: not at its end");
	CHECK(v, write(fds[1], "x", 1) == 1 && recv(fds[0], data, 1, MSG_DONTWAIT) == 1, "the inner pair is torn");
	close(fds[0]);
	close(fds[1]);
	close(inner[0]);
	close(self[0]);
	return true;
}

static bool take_urgent(struct victim *v, struct state *s)
{
	int none[RIGHTS_MAX], mark = 0;
	char byte = 0;

	if (!get(v, s->urgent[1], "calm", none, 0))
		return false;
	CHECK(v, ioctl(s->urgent[1], SIOCATMARK, &mark) == 0 && mark, "no mark behind what is not urgent");
	CHECK(v, recv(s->urgent[1], &byte, 1, MSG_OOB | MSG_DONTWAIT) == 1 && byte == '!', "urgent byte %d", byte);
	return get(v, s->urgent[1], "rest", none, 0);
}

/* ---- connections */

static void connect_late(struct victim *v, struct state *s)
{
	s->late[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(connect(s->late[0], (struct sockaddr *)&s->name, s->name_size) == 0);
	MUST(victim_peer_ask(v, &s->child, ASK_CONNECT));
}

static bool accept_late(struct victim *v, struct state *s)
{
	char data[8] = "";
	int first = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK), second = accept4(s->listener, NULL, NULL, 0);
	struct ucred cred = {0};
	socklen_t size = sizeof(cred);

	CHECK(v, first >= 0 && second >= 0, "connections that waited: %d, %d", first, second);
	CHECK(v, write(s->late[0], "first", 5) == 5 && read(first, data, 5) == 5 && strcmp(data, "first") == 0,
	      "the first connection that waited: '%s'", data);
	CHECK(v, getsockopt(second, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid == s->child.pid,
	      "the late connection is by %d", (int)cred.pid);
	CHECK(v, write(second, "late", 4) == 4 && victim_peer_ask(v, &s->child, ASK_TALK), "the late connection");
	CHECK(v, read(second, data, 5) == 5 && memcmp(data, "child", 5) == 0, "the child's answer: '%s'", data);
	close(first);
	close(second);
	close(s->late[0]);
	return true;
}

static bool peers_check(struct victim *v, struct state *s)
{
	int none[RIGHTS_MAX];
	struct ucred cred = {0};
	socklen_t size = sizeof(cred);

	CHECK(v, getsockopt(s->pair[0], SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid == getpid() && cred.uid == 7 &&
	      cred.gid == 9, "the pair was made by %d (%d, %d)", (int)cred.pid, (int)cred.uid, (int)cred.gid);
	CHECK(v, getsockopt(s->accepted, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.pid == s->child.pid,
	      "the connection is by %d", (int)cred.pid);
	if (!victim_peer_ask(v, &s->child, ASK_PEER))
		return false;
	if (!get(v, s->server, "one", none, 0) || !get(v, s->server, "two", none, 0))
		return false;
	CHECK(v, write(s->clients[1], "three", 5) == 5, "a datagram client: %m");
	return get(v, s->server, "three", none, 0);
}

/* ---- all of it */

static void setup_datagrams(struct victim *v, struct state *s)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "relative"};
	char before[VICTIM_PATH_MAX];

	MUST(getcwd(before, sizeof(before)) && chdir(v->argc > 0 ? v->argv[0] : v->dir) == 0);
	s->server = socket(AF_UNIX, SOCK_DGRAM, 0);
	MUST(bind(s->server, (struct sockaddr *)&name, sizeof(name)) == 0);
	for (int i = 0; i < 2; i++) {
		s->clients[i] = socket(AF_UNIX, SOCK_DGRAM, 0);
		MUST(connect(s->clients[i], (struct sockaddr *)&name, sizeof(name)) == 0);
	}
	MUST(chdir(before) == 0);
}

static void setup(struct victim *v, struct state *s)
{
	int length;

	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s->carrier) == 0);
	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s->nested) == 0);
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s->urgent) == 0);
	MUST(setegid(9) == 0 && seteuid(7) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s->pair) == 0);
	MUST(seteuid(0) == 0 && setegid(0) == 0);
	snprintf(s->path, sizeof(s->path), "%s/flight", v->dir);
	s->name.sun_family = AF_UNIX;
	length = snprintf(s->name.sun_path + 1, sizeof(s->name.sun_path) - 1, "victim %d flight", (int)getpid());
	s->name_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
	s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	MUST(bind(s->listener, (struct sockaddr *)&s->name, s->name_size) == 0 && listen(s->listener, 5) == 0);
	setup_datagrams(v, s);
	/* The child keeps its first connection for ever. */
	s->child_late = s->child_connected = -1;
	victim_peer_fork(&s->child, child_serve, s);
	MUST(victim_peer_ask(v, &s->child, ASK_CONNECT));
	s->accepted = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	MUST(s->accepted >= 0);
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;

	if (!take_rights(v, s) || !take_urgent(v, s) || !accept_late(v, s) || !peers_check(v, s))
		return false;
	send_rights(v, s);
	connect_late(v, s);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&v, &s);
	send_rights(&v, &s);
	connect_late(&v, &s);
	victim_run(&v, verify, &s);
}
