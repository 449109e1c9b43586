/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages between a pageserver and its keeper, over a SOCK_SEQPACKET pair or connection: one packet a message,
 * descriptors with SCM_RIGHTS. Both sides apply what they receive to a struct lazy, so a keeper is one that only holds,
 * and fetching is the same messages the other way round.
 *
 * The bits of what is missing are in memory that both map, so they need no message. Areas are sent after each change.
 *
 * Failure modes: a keeper that is gone (or takes nothing for some seconds): the link is closed, the work goes on
 * without it. A pageserver that is killed between the reading of an event and the message about it: events.c.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

#define LINK_AREAS 256
#define LINK_FDS LAZY_LOG_MESSAGES

struct message {
	uint32_t kind;  /* enum lazy_link_kind */
	uint32_t space; /* id */
	int32_t source_pid;
	int32_t pid;    /* LAZY_LINK_PID, and LAZY_LINK_SPACE: 0 if not known */
	int32_t slot;    /* LAZY_LINK_FORK, _SPACE: of the fork in the parent's log, else -1; _EVENTS: how many, or an error */
	uint32_t parent; /* LAZY_LINK_SPACE of a fork: id */
	uint64_t batch;  /* LAZY_LINK_SPACE of a fork, _AREAS: of the log */
	uint32_t fresh; /* LAZY_LINK_AREAS: the first */
	uint32_t last;  /* LAZY_LINK_AREAS: all have come */
	uint32_t count; /* areas that follow */
	struct lazy_area areas[LINK_AREAS];
};

#define MESSAGE_HEAD offsetof(struct message, areas)

static int send_message(int fd, const struct message *message, const int *fds, size_t fd_count)
{
	struct iovec iov = {
		.iov_base = (void *)(uintptr_t)message,
		.iov_len = MESSAGE_HEAD + message->count * sizeof(message->areas[0]),
	};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(LINK_FDS * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd_count > 0) {
		struct cmsghdr *cmsg = &control.align;

		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
	}
	while (sendmsg(fd, &header, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void tell(struct lazy *lazy, const struct message *message, const int *fds, size_t fd_count)
{
	int r;

	if (lazy->keeper_fd < 0)
		return;
	r = send_message(lazy->keeper_fd, message, fds, fd_count);
	if (r == 0)
		return;
	log_debug(lazy->log, "post-copy: the keeper is gone (%s): going on without it", strerror(-r));
	close(lazy->keeper_fd);
	lazy->keeper_fd = -1;
}

void lazy_link_areas(struct lazy *lazy, const struct lazy_space *space)
{
	struct message message = {
		.kind = LAZY_LINK_AREAS,
		.space = space->id,
		.fresh = 1,
		.batch = space->log->batch,
	};
	size_t sent = 0;

	do {
		size_t left = space->areas.count - sent;

		message.count = (uint32_t)(left < LINK_AREAS ? left : LINK_AREAS);
		if (message.count > 0)
			memcpy(message.areas, space->areas.items + sent, message.count * sizeof(message.areas[0]));
		sent += message.count;
		message.last = sent == space->areas.count;
		tell(lazy, &message, NULL, 0);
		message.fresh = 0;
	} while (sent < space->areas.count);
}

static void tell_space(struct lazy *lazy, const struct lazy_space *space, const struct lazy_space *parent, int slot)
{
	struct message message = {
		.kind = LAZY_LINK_SPACE,
		.space = space->id,
		.source_pid = space->source_pid,
		.pid = space->pid,
		.slot = slot,
		.parent = parent ? parent->id : 0,
		.batch = parent ? parent->log->batch : 0,
	};
	int fds[] = { space->uffd, space->map_fd };

	tell(lazy, &message, fds, 2);
	lazy_link_areas(lazy, space);
}

void lazy_link_space(struct lazy *lazy, const struct lazy_space *space)
{
	tell_space(lazy, space, NULL, -1);
}

void lazy_link_child(struct lazy *lazy, const struct lazy_space *child, const struct lazy_space *parent, unsigned slot)
{
	tell_space(lazy, child, parent, (int)slot);
}

void lazy_link_fork(struct lazy *lazy, const struct lazy_space *parent, unsigned slot, int uffd)
{
	struct message message = { .kind = LAZY_LINK_FORK, .space = parent->id, .slot = (int)slot };

	tell(lazy, &message, &uffd, 1);
}

void lazy_link_gone(struct lazy *lazy, const struct lazy_space *space)
{
	struct message message = { .kind = LAZY_LINK_GONE, .space = space->id };

	tell(lazy, &message, NULL, 0);
}

void lazy_link_pid(struct lazy *lazy, const struct lazy_victim *victim)
{
	struct message message = { .kind = LAZY_LINK_PID, .pid = victim->pid };

	tell(lazy, &message, &victim->pidfd, 1);
}

void lazy_link_done(struct lazy *lazy)
{
	struct message message = { .kind = LAZY_LINK_DONE };
	char byte;

	lazy->keeper_wanted = false;
	tell(lazy, &message, NULL, 0);
	if (lazy->keeper_fd < 0)
		return;
	while (recv(lazy->keeper_fd, &byte, 1, 0) < 0 && errno == EINTR)
		;
	close(lazy->keeper_fd);
	lazy->keeper_fd = -1;
}

void lazy_link_everything(struct lazy *lazy)
{
	struct message message = { .kind = LAZY_LINK_END };

	array_for_each(victim, &lazy->victims)
		lazy_link_pid(lazy, victim);
	array_for_each(space, &lazy->spaces) {
		lazy_link_space(lazy, *space);
		array_for_each(orphan, &(*space)->orphans)
			lazy_link_fork(lazy, *space, orphan->slot, orphan->uffd);
	}
	tell(lazy, &message, NULL, 0);
}

/* ---- receiving */

static ssize_t receive_message(int fd, struct message *message, int fds[LINK_FDS])
{
	struct iovec iov = { .iov_base = message, .iov_len = sizeof(*message) };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(LINK_FDS * sizeof(int))];
	} control;
	struct msghdr header = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	const struct cmsghdr *cmsg;
	ssize_t n;

	do {
		n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&header);
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	if (n > 0 && ((size_t)n < MESSAGE_HEAD || message->count > LINK_AREAS ||
		      (size_t)n != MESSAGE_HEAD + message->count * sizeof(message->areas[0])))
		return -EBADMSG;
	return n;
}

static void drop_orphan(struct lazy_space *space, int slot)
{
	for (size_t i = 0; i < space->orphans.count; i++) {
		if ((int)space->orphans.items[i].slot != slot)
			continue;
		close(space->orphans.items[i].uffd);
		space->orphans.items[i] = space->orphans.items[--space->orphans.count];
		return;
	}
}

static int take_orphan(struct lazy *lazy, const struct message *message, int fds[LINK_FDS])
{
	struct lazy_space *space = lazy_find_space(lazy, message->space);
	struct lazy_orphan orphan = { .slot = (unsigned)message->slot, .uffd = fds[0] };

	if (!space || fds[0] < 0 || orphan.slot >= LAZY_LOG_MESSAGES)
		return -EBADMSG;
	drop_orphan(space, message->slot);
	if (array_append(&space->orphans, orphan) < 0)
		return -ENOMEM;
	fds[0] = -1;
	return 0;
}

/* A fork's child is in the tables: its event is done, which the server may not have come to write down. */
static void note_child(struct lazy *lazy, const struct message *message)
{
	struct lazy_space *parent = lazy_find_space(lazy, message->parent);

	if (!parent || message->slot < 0 || message->slot >= LAZY_LOG_MESSAGES)
		return;
	drop_orphan(parent, message->slot);
	if (parent->fork_batch != message->batch)
		parent->fork_slots = 0;
	parent->fork_batch = message->batch;
	parent->fork_slots |= UINT32_C(1) << message->slot;
}

static int take_space(struct lazy *lazy, const struct message *message, int fds[LINK_FDS])
{
	struct lazy_space *space;
	int r;

	if (fds[0] < 0 || fds[1] < 0)
		return -EBADMSG;
	r = lazy_space_open(message->source_pid, message->pid, fds[0], fds[1], &space);
	if (r < 0)
		return r;
	fds[0] = fds[1] = -1;
	lazy->next_id = message->space;
	r = lazy_insert_space(lazy, space);
	if (r < 0)
		lazy_space_free(space);
	else
		note_child(lazy, message);
	return r;
}

/* Half a list is worth nothing: what was there before stays until the last of it has come. */
static int take_areas(struct lazy *lazy, const struct message *message)
{
	struct lazy_space *space = lazy_find_space(lazy, message->space);

	if (!space)
		return 0;
	if (message->fresh)
		array_clear(&space->staged);
	for (uint32_t i = 0; i < message->count; i++)
		if (array_append(&space->staged, message->areas[i]) < 0)
			return -ENOMEM;
	if (!message->last)
		return 0;
	array_clear(&space->areas);
	array_for_each(area, &space->staged)
		if (array_append(&space->areas, *area) < 0)
			return -ENOMEM;
	space->areas_batch = message->batch;
	return 0;
}

bool lazy_link_settle(struct lazy *lazy)
{
	bool whole = true;

	array_for_each(place, &lazy->spaces) {
		struct lazy_space *space = *place;
		struct lazy_log *log = space->log;

		for (unsigned slot = 0; slot < LAZY_LOG_MESSAGES; slot++) {
			bool kept = false;

			if (log->batch == space->areas_batch ||
			    (log->batch == space->fork_batch && space->fork_slots >> slot & 1))
				log->messages[slot].event = 0;
			array_for_each(orphan, &space->orphans)
				kept |= orphan->slot == slot;
			if (log->messages[slot].event == UFFD_EVENT_FORK)
				whole &= kept;
			else if (kept)
				drop_orphan(space, (int)slot);
		}
	}
	return whole;
}

/* Reads a userfaultfd for the server. Forks become orphans, which are held until their spaces come. */
static int answer_read(struct lazy *lazy, const struct message *message, int link_fd)
{
	struct message answer = { .kind = LAZY_LINK_EVENTS, .space = message->space, .slot = -EAGAIN };
	struct lazy_space *space = lazy_find_space(lazy, message->space);
	int fds[LINK_FDS];
	size_t forks = 0;
	ssize_t n;

	if (!space)
		return -EBADMSG;
	do {
		n = read(space->uffd, space->log->messages, sizeof(space->log->messages));
	} while (n < 0 && errno == EINTR);
	answer.slot = n < 0 ? -errno : (int)((size_t)n / sizeof(struct uffd_msg));
	for (int slot = 0; slot < answer.slot; slot++) {
		const struct uffd_msg *msg = &space->log->messages[slot];
		struct lazy_orphan orphan = { .slot = (unsigned)slot, .uffd = (int)msg->arg.fork.ufd };

		if (msg->event != UFFD_EVENT_FORK)
			continue;
		if (array_append(&space->orphans, orphan) < 0)
			return -ENOMEM;
		fds[forks++] = orphan.uffd;
	}
	/* A server that is gone meanwhile shows at the next read of the link. */
	send_message(link_fd, &answer, fds, forks);
	return 0;
}

int lazy_link_read(struct lazy *lazy, struct lazy_space *space)
{
	struct message message = { .kind = LAZY_LINK_READ, .space = space->id };
	int fds[LINK_FDS];
	size_t next = 0;
	ssize_t n = -1;

	tell(lazy, &message, NULL, 0);
	if (lazy->keeper_fd < 0)
		return -ENOTCONN;
	for (size_t i = 0; i < LINK_FDS; i++)
		fds[i] = -1;
	n = receive_message(lazy->keeper_fd, &message, fds);
	if (n <= 0 || message.kind != LAZY_LINK_EVENTS) {
		/* Nobody knows what it has read. */
		close(lazy->keeper_fd);
		lazy->keeper_fd = -1;
		return space->log->messages[0].event ? -ENOTRECOVERABLE : -ENOTCONN;
	}
	for (int slot = 0; slot < message.slot && slot < LAZY_LOG_MESSAGES; slot++)
		if (space->log->messages[slot].event == UFFD_EVENT_FORK && next < LINK_FDS)
			space->log->messages[slot].arg.fork.ufd = (uint32_t)fds[next++];
	return message.slot;
}

static int apply(struct lazy *lazy, const struct message *message, int fds[LINK_FDS], int link_fd)
{
	struct lazy_space *space;
	int r = 0;

	switch (message->kind) {
	case LAZY_LINK_SPACE:
		return take_space(lazy, message, fds);
	case LAZY_LINK_AREAS:
		return take_areas(lazy, message);
	case LAZY_LINK_GONE:
		space = lazy_find_space(lazy, message->space);
		if (!space)
			return 0;
		for (size_t i = 0, kept = 0; i < lazy->spaces.count; i++)
			if (lazy->spaces.items[i] != space)
				lazy->spaces.items[kept++] = lazy->spaces.items[i];
		lazy->spaces.count--;
		lazy_space_free(space);
		return 0;
	case LAZY_LINK_PID:
		if (fds[0] < 0)
			return -EBADMSG;
		r = lazy_victim_add(lazy, message->pid, fds[0]);
		if (r == 0)
			fds[0] = -1;
		return r;
	case LAZY_LINK_FORK:
		return take_orphan(lazy, message, fds);
	case LAZY_LINK_READ:
		return answer_read(lazy, message, link_fd);
	case LAZY_LINK_DONE:
	case LAZY_LINK_FETCH:
	case LAZY_LINK_END:
		return 0;
	default:
		return -EBADMSG;
	}
}

int lazy_link_ask(int fd)
{
	const struct message ask = { .kind = LAZY_LINK_FETCH };

	return send_message(fd, &ask, NULL, 0);
}

int lazy_link_receive(struct lazy *lazy, int fd)
{
	struct message message;
	int fds[LINK_FDS], r;
	ssize_t n;

	for (size_t i = 0; i < LINK_FDS; i++)
		fds[i] = -1;
	n = receive_message(fd, &message, fds);
	r = (int)n;
	if (n > 0) {
		r = apply(lazy, &message, fds, fd);
		if (r == 0)
			r = (int)message.kind;
	}
	for (size_t i = 0; i < LINK_FDS; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return r;
}
