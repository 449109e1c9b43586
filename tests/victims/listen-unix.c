/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * listen-unix DIR [PLACE]: with PLACE, the paths are there and not in DIR, for hosts that share DIR
 * but not a socket.
 *
 * UNIX sockets with names: listening ones with a path and with an abstract name, stream and
 * seqpacket, and a bound datagram socket. A check connects to each from within and talks.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { PATH, ABSTRACT, SEQPACKET, DATAGRAM, SOCKETS };

struct state {
	int fds[SOCKETS];
	struct sockaddr_un names[SOCKETS];
	socklen_t sizes[SOCKETS];
};

static const char *const what[SOCKETS] = {"path", "abstract", "seqpacket", "datagram"};
static const int types[SOCKETS] = {SOCK_STREAM, SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};

static void name_make(const struct victim *v, struct state *s, int i)
{
	struct sockaddr_un *name = &s->names[i];
	int length;

	name->sun_family = AF_UNIX;
	if (i == ABSTRACT)
		length = snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1,
				  "victim %d \n abstract", (int)getpid());
	else
		length = snprintf(name->sun_path, sizeof(name->sun_path), "%s/%s sock",
				  v->argc > 0 ? v->argv[0] : v->dir, what[i]);
	MUST(length > 0 && (size_t)length < sizeof(name->sun_path) - 1);
	/* An abstract name ends where its length says; a path counts its NUL. */
	s->sizes[i] = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
}

static void setup(const struct victim *v, struct state *s)
{
	int one = 1;

	for (int i = 0; i < SOCKETS; i++) {
		name_make(v, s, i);
		s->fds[i] = socket(
			AF_UNIX, types[i] | (i == ABSTRACT ? SOCK_CLOEXEC | SOCK_NONBLOCK : 0), 0);
		MUST(s->fds[i] >= 0 &&
		     bind(s->fds[i], (struct sockaddr *)&s->names[i], s->sizes[i]) == 0);
		MUST(i == DATAGRAM || listen(s->fds[i], 9) == 0);
	}
	MUST(setsockopt(s->fds[PATH], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) == 0);
	MUST(chmod(s->names[PATH].sun_path, 0660) == 0);
}

static bool talk(struct victim *v, struct state *s, int i, int client)
{
	char text[8] = "";
	int server = -1;

	CHECK(v, connect(client, (struct sockaddr *)&s->names[i], s->sizes[i]) == 0,
	      "%s: connect: %m", what[i]);
	CHECK(v, send(client, "hello", 5, 0) == 5, "%s: send: %m", what[i]);
	if (i == DATAGRAM) {
		CHECK(v,
		      recv(s->fds[i], text, sizeof(text), MSG_DONTWAIT) == 5 &&
			      memcmp(text, "hello", 5) == 0,
		      "%s: received '%.5s'", what[i], text);
		return true;
	}
	server = accept4(s->fds[i], NULL, NULL, SOCK_CLOEXEC);
	CHECK(v, server >= 0, "%s: accept: %m", what[i]);
	if (recv(server, text, 5, 0) != 5 || strcmp(text, "hello") != 0)
		victim_fail(v, "%s: received '%s'", what[i], text);
	else if (send(server, "world", 5, 0) != 5 || recv(client, text, 5, 0) != 5 ||
		 strcmp(text, "world") != 0)
		victim_fail(v, "%s: answered '%s'", what[i], text);
	close(server);
	return v->reason[0] == '\0';
}

static bool one_check(struct victim *v, struct state *s, int i)
{
	struct sockaddr_un name = {0};
	socklen_t size = sizeof(name);
	int value = -1, client;
	bool good;

	CHECK(v,
	      getsockname(s->fds[i], (struct sockaddr *)&name, &size) == 0 && size == s->sizes[i] &&
		      memcmp(&name, &s->names[i], size) == 0,
	      "%s: another name, '%.100s'", what[i],
	      name.sun_path[0] ? name.sun_path : name.sun_path + 1);
	size = sizeof(value);
	CHECK(v,
	      getsockopt(s->fds[i], SOL_SOCKET, SO_PASSCRED, &value, &size) == 0 &&
		      value == (i == PATH),
	      "%s: SO_PASSCRED is %d", what[i], value);
	size = sizeof(value);
	CHECK(v,
	      getsockopt(s->fds[i], SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 &&
		      value == (i != DATAGRAM),
	      "%s: listening is %d", what[i], value);
	CHECK(v,
	      fcntl(s->fds[i], F_GETFD) == (i == ABSTRACT ? FD_CLOEXEC : 0) &&
		      !!(fcntl(s->fds[i], F_GETFL) & O_NONBLOCK) == (i == ABSTRACT),
	      "%s: flags differ", what[i]);
	client = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0);
	CHECK(v, client >= 0, "socket: %m");
	good = talk(v, s, i, client);
	close(client);
	return good;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	struct stat st;

	for (int i = 0; i < SOCKETS; i++)
		if (!one_check(v, s, i))
			return false;
	CHECK(v,
	      stat(s->names[PATH].sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
		      (st.st_mode & 0777) == 0660,
	      "the path has mode %o", st.st_mode);
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
