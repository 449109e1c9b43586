/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V message queues: one with a key, another limit and messages of several types and sizes, none and the largest among
 * them; and one that a child waits on, for a type that nobody has sent yet.
 */
#include "victim.h"

#include <sys/msg.h>

#define MESSAGES 40
#define LARGEST  8192
#define LIMIT    15000

struct message {
	long type;
	unsigned char text[LARGEST];
};

struct state {
	key_t key;
	int queue, answers; /* ids */
	uint64_t generation;
	pid_t child;
};

static size_t size_of(int i)
{
	return i == 5 ? 0 : i == 7 ? LARGEST : (size_t)(i * 7);
}

static void fill(struct state *s)
{
	static struct message message;

	for (int i = 0; i < MESSAGES; i++) {
		message.type = i % 3 == 2 ? 0x100000000L + i : i % 3 + 1;
		victim_fill(message.text, size_of(i), s->generation * 100 + (uint64_t)i);
		MUST(msgsnd(s->queue, &message, size_of(i), IPC_NOWAIT) == 0);
	}
}

/* Type 2 is asked for, type 1 is the answer. */
static void answer(const struct state *s)
{
	static struct message message;

	for (;;) {
		ssize_t size = msgrcv(s->answers, &message, LARGEST, 2, 0);

		MUST(size >= 0);
		message.type = 1;
		MUST(msgsnd(s->answers, &message, (size_t)size, 0) == 0);
	}
}

static void setup(struct state *s)
{
	struct msqid_ds info;

	/* So that the ids are none that a host begins with. */
	for (int i = 0; i < 3; i++)
		MUST(msgctl(msgget(IPC_PRIVATE, 0600), IPC_RMID, NULL) == 0);
	s->key = 0x70630000 | (getpid() & 0xffff);
	s->queue = msgget(s->key, IPC_CREAT | IPC_EXCL | 0622);
	s->answers = msgget(IPC_PRIVATE, 0600);
	MUST(s->queue >= 0 && s->answers >= 0 && msgctl(s->queue, IPC_STAT, &info) == 0);
	info.msg_qbytes = LIMIT;
	info.msg_perm.gid = 4713;
	MUST(msgctl(s->queue, IPC_SET, &info) == 0);
	fill(s);
	s->child = fork();
	MUST(s->child >= 0);
	if (s->child == 0)
		answer(s);
}

static bool check_attributes(struct victim *v, const struct state *s)
{
	struct msqid_ds info;

	CHECK(v, msgget(s->key, 0) == s->queue, "the key leads to queue %d, not %d", msgget(s->key, 0), s->queue);
	CHECK(v, msgctl(s->queue, IPC_STAT, &info) == 0, "queue %d: %m", s->queue);
	CHECK(v, info.msg_qbytes == LIMIT && info.msg_qnum == MESSAGES && info.msg_perm.gid == 4713 &&
	      (info.msg_perm.mode & 0777) == 0622, "the queue: limit %lu, %lu messages, group %u, mode %o",
	      (unsigned long)info.msg_qbytes, (unsigned long)info.msg_qnum, info.msg_perm.gid, info.msg_perm.mode);
	CHECK(v, info.msg_lspid == getpid(), "the last sender is PID %d", info.msg_lspid);
	CHECK(v, info.msg_lrpid == (s->generation ? getpid() : 0), "the last receiver is PID %d", info.msg_lrpid);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	static struct message message;
	struct state *s = context;

	if (!check_attributes(v, s))
		return false;
	/* By type first, then in order. */
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < MESSAGES; i++) {
			ssize_t size;

			if ((i % 3 == 1) != (pass == 0))
				continue;
			size = msgrcv(s->queue, &message, LARGEST, pass == 0 ? 2 : 0, IPC_NOWAIT);
			CHECK(v, size == (ssize_t)size_of(i), "message %d has %zd bytes: %m", i, size);
			CHECK(v, message.type == (i % 3 == 2 ? 0x100000000L + i : i % 3 + 1), "message %d has type %ld", i,
			      message.type);
			CHECK(v, victim_differs(message.text, size_of(i), s->generation * 100 + (uint64_t)i) < 0,
			      "message %d has wrong content", i);
		}
	message.type = 2;
	victim_fill(message.text, 100, s->generation);
	CHECK(v, msgsnd(s->answers, &message, 100, IPC_NOWAIT) == 0, "asking: %m");
	CHECK(v, WAIT_FOR(msgrcv(s->answers, &message, LARGEST, 1, IPC_NOWAIT) == 100, 10000), "there is no answer");
	CHECK(v, victim_differs(message.text, 100, s->generation) < 0, "the answer has wrong content");
	s->generation++;
	fill(s);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
