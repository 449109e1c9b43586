/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process that holds connections which nobody has accepted, from the moment they are taken out of their queues.
 *
 * Model. Whoever takes them has to be able to put them back (net/queue.h), also when this program is killed: so that is a
 * process of its own. It is started while the tree runs, with what putting back needs, and told by a socket which listening
 * sockets to empty. The end of file on that socket means that we have died: it puts all back and ends, which the guardian waits
 * for before the lock goes. After the commit that is done likewise: the tree is frozen, and whoever ends it, with the lock
 * there, ends its queues too.
 *
 * Failure modes: it cannot put one back: that peer will be reset. If it is killed itself, peers of what it holds are.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/accept-queue.h"
#include "dump/tcp.h"
#include "image/tcp-repair.h"
#include "net/queue.h"
#include "net/waiting.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define ANSWER_NS (10 * CLOCK_S)

enum order { TAKE = 1, PUT_BACK, FORGET };

struct answer {
	int result; /* 1: a connection comes along; 0: done; or a negative errno */
	char text[256];
};

struct taken {
	int listener, fd; /* the former borrowed */
};

/* What the process has. */
struct holder {
	struct net_queue *queue;
	int fd; /* to our parent */
	ARRAY(int) listeners;
	ARRAY(struct taken) taken;
};

/* ---- messages, of which each may carry a descriptor */

static int send_message(int socket, const void *data, size_t size, int fd)
{
	struct iovec part = { (void *)data, size };
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	struct cmsghdr *header;

	if (fd >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* 0 at the end of file. */
static ssize_t receive_message(int socket, void *data, size_t size, int *ret_fd)
{
	struct iovec part = { data, size };
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header;
	ssize_t got;

	do
		got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	*ret_fd = -1;
	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(header), sizeof(*ret_fd));
	return got < 0 ? -errno : got;
}

static int answer(const struct holder *holder, int result, int fd, const struct error *error)
{
	struct answer answer = { .result = result };

	if (result < 0)
		snprintf(answer.text, sizeof(answer.text), "%s", error_text(error, result));
	return send_message(holder->fd, &answer, sizeof(answer), fd);
}

/* ---- both sides */

int dump_holder_read(int fd, TcpStream *message, struct buffer *data, uint32_t *ret_state, struct error *error)
{
	struct image_socket_options options;
	struct dump_inet_facts facts;
	struct tcp_info info;
	int r = dump_inet_read_names(fd, &facts);

	if (r == 0)
		r = dump_inet_read_state(fd, &facts, &info);
	if (r < 0)
		return error_set_errno(error, r, "looking at a connection that waits");
	r = image_socket_options_read(fd, facts.domain, facts.type, facts.protocol, NULL, &options, error);
	if (r < 0)
		return r;
	r = dump_tcp_read(NULL, 0, -1, fd, &info, &options, message, data, error);
	image_socket_options_deinit(&options);
	if (r == 0)
		*ret_state = info.tcpi_state;
	return r;
}

/* ---- the process */

static int take(struct holder *holder, int listener, struct error *error)
{
	struct pollfd look = { .fd = listener, .events = POLLIN };

	if (array_append(&holder->listeners, listener) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	while (poll(&look, 1, 0) > 0 && look.revents & POLLIN) {
		struct taken taken = { listener, accept4(listener, NULL, NULL, SOCK_CLOEXEC) };
		int r;

		if (taken.fd < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (taken.fd < 0)
			return error_set_errno(error, -errno, "taking a connection out of its queue");
		r = array_append(&holder->taken, taken);
		if (r == 0)
			r = answer(holder, 1, taken.fd, NULL);
		if (r < 0)
			return error_set_errno(error, r, "taking a connection out of its queue");
	}
	return 0;
}

/* The old one goes without a word, and whoever else may have it open: the new one has its place. */
static int clear_place(int fd)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	int r = image_tcp_set(fd, IMAGE_TCP_REPAIR);

	return r == 0 && connect(fd, &none, sizeof(none)) < 0 ? -errno : r;
}

static int put_one(struct holder *holder, const struct taken *taken, struct error *error)
{
	_cleanup_buffer_ struct buffer data = BUFFER_INIT;
	TcpStream stream = TCP_STREAM__INIT;
	struct net_waiting waiting = { 0 };
	struct net_tuples tuples = { 0 };
	uint32_t state;
	int r = dump_holder_read(taken->fd, &stream, &data, &state, error);

	if (r < 0)
		return r;
	r = net_tuples_add_socket(&tuples, taken->fd);
	if (r < 0)
		return error_set_errno(error, r, "looking at a connection that waits");
	waiting.tuple = tuples.list.items[0];
	net_tuples_deinit(&tuples);
	r = net_waiting_read(&stream, state, waiting.tuple.family, data.data, &waiting, error);
	if (r == 0 && (r = clear_place(taken->fd)) < 0)
		error_set_errno(error, r, "clearing the place of a connection that waits");
	return r < 0 ? r : net_queue_put(holder->queue, taken->listener, &waiting, error);
}

static int put_back(struct holder *holder, struct error *error)
{
	size_t failed = 0;

	array_for_each (taken, &holder->taken) {
		struct error why = ERROR_INIT;

		if (put_one(holder, taken, &why) < 0 && failed++ == 0)
			*error = why;
	}
	return failed ? error_wrap(error, -EIO, "%zu connections were not put back", failed) : 0;
}

/* Closed in repair mode, a socket is just gone. */
static int forget(struct holder *holder, struct error *error)
{
	int r = 0;

	array_for_each (taken, &holder->taken) {
		int hushed = image_tcp_set(taken->fd, IMAGE_TCP_REPAIR);

		r = hushed < 0 && image_tcp_is_connection(taken->fd) ? hushed : r;
		close(taken->fd);
	}
	return r < 0 ? error_set_errno(error, r, "silencing a connection that waits") : 0;
}

static void run(struct holder *holder)
{
	struct error error = ERROR_INIT;
	int r = net_queue_new(&holder->queue, &error), order = 0, fd;

	answer(holder, r, -1, &error);
	while (r == 0) {
		if (receive_message(holder->fd, &order, sizeof(order), &fd) != sizeof(order))
			order = PUT_BACK;
		error_clear(&error);
		if (order != TAKE)
			break;
		answer(holder, take(holder, fd, &error), -1, &error);
	}
	if (r < 0)
		return;
	r = order == FORGET ? forget(holder, &error) : put_back(holder, &error);
	answer(holder, r, -1, &error);
}

/* ---- our side */

static int receive_answer(struct dump_holder *holder, struct answer *ret, int *ret_fd, struct error *error)
{
	struct pollfd look = { .fd = holder->fd, .events = POLLIN };
	ssize_t got = poll(&look, 1, clock_poll_ms(clock_deadline(ANSWER_NS))) > 0 ?
			      receive_message(holder->fd, ret, sizeof(*ret), ret_fd) : -ETIMEDOUT;

	if (got < 0)
		return error_set_errno(error, (int)got, "the process that holds connections which wait");
	if (got != sizeof(*ret))
		return error_set(error, -EPIPE, "the process that holds connections which wait has ended");
	return ret->result < 0 ? error_set(error, ret->result, "%s", ret->text) : 0;
}

static _Noreturn void become_holder(int fd)
{
	struct holder holder = { .fd = fd };

	if (fd > 0)
		close_range(0, (unsigned)fd - 1, 0);
	close_range((unsigned)fd + 1, ~0u, 0);
	setsid();
	prctl(PR_SET_NAME, "migrate-queue");
	run(&holder);
	_exit(0);
}

int dump_holder_start(struct dump_holder *ret, struct error *error)
{
	struct dump_holder holder;
	struct answer ready;
	int pair[2], fd, r;
	sigset_t all, old;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set_errno(error, -errno, "cannot start the process that holds connections which wait: no socket");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	holder = (struct dump_holder){ .pid = fork(), .fd = pair[0] };
	if (holder.pid == 0)
		become_holder(pair[1]);
	r = -errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(pair[1]);
	if (holder.pid < 0) {
		close(pair[0]);
		return error_set_errno(error, r, "cannot start the process that holds connections which wait");
	}
	r = receive_answer(&holder, &ready, &fd, error);
	if (r < 0) {
		close(holder.fd);
		waitpid(holder.pid, NULL, 0);
		return r;
	}
	*ret = holder;
	return 0;
}

int dump_holder_take(struct dump_holder *holder, int listener, int (*each)(void *context, int fd, struct error *error),
		     void *context, struct error *error)
{
	const int order = TAKE;
	struct answer answer = { .result = 1 };
	int r = send_message(holder->fd, &order, sizeof(order), listener);

	if (r < 0)
		return error_set_errno(error, r, "the process that holds connections which wait");
	while (answer.result > 0) {
		_cleanup_fd_ int fd = -1;
		int got = receive_answer(holder, &answer, &fd, r == 0 ? error : NULL);

		if (got < 0)
			return r < 0 ? r : got;
		if (fd >= 0 && r == 0)
			r = each(context, fd, error);
	}
	return r;
}

int dump_holder_end(struct dump_holder *holder, bool forget, struct error *error)
{
	const int order = forget ? FORGET : PUT_BACK;
	struct answer answer;
	int r = send_message(holder->fd, &order, sizeof(order), -1), fd = -1;

	if (r < 0)
		error_set_errno(error, r, "the process that holds connections which wait");
	else
		r = receive_answer(holder, &answer, &fd, error);
	close(holder->fd);
	waitpid(holder->pid, NULL, 0);
	return r;
}
