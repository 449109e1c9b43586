/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a pageserver gets a keeper: it starts one, or takes over the one that a former server has left behind at a socket.
 *
 * Model. The keeper is this program anew, under a name of its own (keeper.c), with a socket at which it can be reached later
 * and one end of the link. Taking over is to ask it for all that it holds; it gives nothing away until all has come.
 *
 * Failure modes: no keeper can be started, or it ends at once: an error, and nothing has changed. Taking over fails: the
 * keeper still holds everything, and can be asked again.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "private.h"
#include "util/cleanup.h"

#define LINK_TIMEOUT_S 3

static int make_address(const char *path, struct sockaddr_un *ret, struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "%s: longer than a UNIX socket's name may be", path);
	strcpy(address.sun_path, path);
	*ret = address;
	return 0;
}

static void limit_waiting(int fd)
{
	struct timeval timeout = { .tv_sec = LINK_TIMEOUT_S };

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
}

static int listen_at(const char *path, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	int r = make_address(path, &address, error);

	if (r < 0)
		return r;
	if (fd < 0)
		return error_set_errno(error, -errno, "no socket to the keeper of missing pages");
	unlink(path);
	/* On Linux the mode of the unbound socket becomes that of its name: no moment in which others can connect. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
		return error_set_errno(error, -errno, "%s", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* The program anew; what it starts as ends at once, and leaves a child to init, whose PID comes over the link. */
static int spawn(int listen_fd, int link_fd, const char *path, struct error *error)
{
	char *const arguments[] = { (char *)(uintptr_t)LAZY_KEEPER_NAME, (char *)(uintptr_t)path, NULL };
	posix_spawn_file_actions_t actions;
	int status = 0, r;
	pid_t pid;

	r = posix_spawn_file_actions_init(&actions);
	if (r == 0) {
		r = posix_spawn_file_actions_adddup2(&actions, listen_fd, LAZY_KEEPER_LISTEN_FD);
		if (r == 0)
			r = posix_spawn_file_actions_adddup2(&actions, link_fd, LAZY_KEEPER_LINK_FD);
		if (r == 0)
			r = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, arguments, environ);
		posix_spawn_file_actions_destroy(&actions);
	}
	if (r > 0)
		return error_set_errno(error, -r, "cannot start the keeper of missing pages");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			break;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return error_set(error, -EAGAIN, "cannot start the keeper of missing pages");
	return 0;
}

/* Out of the way of the numbers that the keeper's sockets get. */
static int move_up(int *fd)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, LAZY_KEEPER_FD_END);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

int lazy_keeper_start(struct lazy *lazy, const char *socket_path, pid_t *ret_pid, struct error *error)
{
	_cleanup_fd_ int listen_fd = -1, theirs = -1, ours = -1;
	int pair[2], r;
	pid_t pid;

	r = listen_at(socket_path, &listen_fd, error);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set_errno(error, -errno, "cannot start the keeper of missing pages: no socket");
	ours = pair[0];
	theirs = pair[1];
	if (move_up(&listen_fd) < 0 || move_up(&theirs) < 0)
		return error_set_errno(error, -EMFILE, "cannot start the keeper of missing pages");
	r = spawn(listen_fd, theirs, socket_path, error);
	if (r < 0)
		return r;
	close(steal_fd(&theirs));
	limit_waiting(ours);
	if (recv(ours, &pid, sizeof(pid), 0) != sizeof(pid))
		return error_set(error, -EPIPE, "the keeper of missing pages has ended at once");
	if (ret_pid)
		*ret_pid = pid;
	lazy->keeper_fd = steal_fd(&ours);
	array_for_each(victim, &lazy->victims)
		lazy_link_pid(lazy, victim);
	array_for_each(space, &lazy->spaces)
		lazy_link_space(lazy, *space);
	if (lazy->keeper_fd < 0)
		return error_set(error, -EPIPE, "the keeper of missing pages takes nothing");
	lazy->keeper_wanted = true;
	return 0;
}

void lazy_keeper_on_loss(struct lazy *lazy, void (*lost)(void *context), void *context)
{
	lazy->keeper_lost = lost;
	lazy->keeper_context = context;
}

/* Whoever waits for an answer to a fault that the former server had read faults again. */
static void wake_all(struct lazy *lazy)
{
	const uint64_t start = UINT64_C(0x10000), end = UINT64_C(0x7ffffffff000);

	array_for_each(space, &lazy->spaces)
		lazy_userfault_wake((*space)->uffd, start, end - start);
}

int lazy_keeper_fetch(const struct log *log, const char *socket_path, struct lazy **ret, struct error *error)
{
	_cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;
	struct lazy *lazy;
	int r = make_address(socket_path, &address, error);

	if (r < 0)
		return r;
	if (fd < 0)
		return error_set_errno(error, -errno, "no socket to the keeper of missing pages");
	limit_waiting(fd);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set_errno(error, -errno, "%s", socket_path);
	r = lazy_new(log, &lazy, error);
	if (r < 0)
		return r;
	r = lazy_link_ask(fd);
	while (r >= 0 && r != LAZY_LINK_END) {
		r = lazy_link_receive(lazy, fd);
		if (r == 0)
			r = -ECONNRESET;
	}
	if (r < 0) {
		lazy_destroy(lazy); /* the keeper still holds everything */
		return error_set_errno(error, r, "%s: taking over from the keeper", socket_path);
	}
	lazy->keeper_fd = steal_fd(&fd);
	lazy->keeper_wanted = true;
	array_for_each(space, &lazy->spaces)
		if ((*space)->pid > 0)
			lazy_guards_watch(*space, (*space)->pid, true); /* it may have ended by now */
	r = lazy_events_replay(lazy, error);
	if (r < 0) {
		lazy_free(lazy);
		return r;
	}
	wake_all(lazy);
	*ret = lazy;
	return 0;
}
