/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues: one with a name and messages of several priorities and sizes, open for both, for reading and for
 * writing only; one without a name that is full; and an empty one that a child waits on, for an answer through another.
 * With "notify": the process wants a signal for the next message of the empty one, which cannot be moved.
 */
#include "victim.h"

#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>

#define MESSAGES 8
#define LARGEST  3000

struct state {
	char name[64], asking_name[64], answer_name[64];
	mqd_t both, reader, writer; /* of the queue with messages */
	mqd_t full;		    /* without a name */
	mqd_t asking, answer;
	uint64_t generation;
};

static unsigned priority_of(int i)
{
	return i % 4 == 3 ? 32767 : (unsigned)(i % 3);
}

static size_t size_of(int i)
{
	return i == 2 ? 0 : i == 5 ? LARGEST : (size_t)(i * 13 + 1);
}

static uint64_t seed_of(const struct state *s, int i)
{
	return s->generation * 100 + (uint64_t)i;
}

static void fill(const struct state *s)
{
	unsigned char text[LARGEST];

	for (int i = 0; i < MESSAGES; i++) {
		victim_fill(text, size_of(i), seed_of(s, i));
		MUST(mq_send(s->writer, (char *)text, size_of(i), priority_of(i)) == 0);
	}
	for (int i = 0; i < 2; i++) {
		victim_fill(text, 16, seed_of(s, 50 + i));
		MUST(mq_send(s->full, (char *)text, 16, 7) == 0);
	}
}

static void answer(const struct state *s)
{
	char text[64];
	unsigned priority;

	for (;;) {
		ssize_t size = mq_receive(s->asking, text, sizeof(text), &priority);

		MUST(size >= 0 && mq_send(s->answer, text, (size_t)size, priority) == 0);
	}
}

static mqd_t make(const char *name, int flags, long count, long size)
{
	struct mq_attr attributes = { .mq_maxmsg = count, .mq_msgsize = size };
	mqd_t queue = mq_open(name, flags | O_CREAT | O_EXCL, 0622, &attributes);

	MUST(queue >= 0);
	return queue;
}

static void setup(struct victim *v, struct state *s)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT, .sigev_value.sival_int = 77 };
	char spare[64];

	snprintf(s->name, sizeof(s->name), "/victim-%d", getpid());
	snprintf(s->asking_name, sizeof(s->asking_name), "/victim-asking-%d", getpid());
	snprintf(s->answer_name, sizeof(s->answer_name), "/victim-answer-%d", getpid());
	snprintf(spare, sizeof(spare), "/victim-spare-%d", getpid());
	s->both = make(s->name, O_RDWR | O_NONBLOCK, MESSAGES, LARGEST);
	s->reader = mq_open(s->name, O_RDONLY);
	s->writer = mq_open(s->name, O_WRONLY);
	MUST(s->reader >= 0 && s->writer >= 0 && fchown(s->both, 4711, 4712) == 0);
	s->full = make(spare, O_RDWR | O_NONBLOCK, 2, 16);
	MUST(mq_unlink(spare) == 0);
	s->asking = make(s->asking_name, O_RDWR, 1, 64);
	s->answer = make(s->answer_name, O_RDWR, 1, 64);
	fill(s);
	if (victim_arg_is(v, "notify")) {
		MUST(mq_notify(s->asking, &event) == 0);
	} else {
		pid_t child = fork();

		MUST(child >= 0);
		if (child == 0)
			answer(s);
	}
}

static bool check_attributes(struct victim *v, const struct state *s)
{
	struct mq_attr attributes;
	struct stat info;
	mqd_t again;

	CHECK(v, mq_getattr(s->both, &attributes) == 0, "mq_getattr: %m");
	CHECK(v, attributes.mq_flags == O_NONBLOCK && attributes.mq_maxmsg == MESSAGES && attributes.mq_msgsize == LARGEST &&
	      attributes.mq_curmsgs == MESSAGES,
	      "the queue: flags %lo, %ld of %ld messages of %ld bytes", attributes.mq_flags, attributes.mq_curmsgs,
	      attributes.mq_maxmsg, attributes.mq_msgsize);
	CHECK(v, mq_getattr(s->reader, &attributes) == 0 && attributes.mq_flags == 0 && attributes.mq_curmsgs == MESSAGES,
	      "the reader: flags %lo, %ld messages", attributes.mq_flags, attributes.mq_curmsgs);
	CHECK(v, fstat(s->writer, &info) == 0 && info.st_uid == 4711 && info.st_gid == 4712 && (info.st_mode & 0777) == 0622,
	      "the queue has owner %u:%u, mode %o", info.st_uid, info.st_gid, info.st_mode);
	again = mq_open(s->name, O_RDONLY);
	CHECK(v, again >= 0 && mq_getattr(again, &attributes) == 0 && attributes.mq_curmsgs == MESSAGES && mq_close(again) == 0,
	      "under its name is another queue: %m");
	CHECK(v, mq_send(s->reader, "", 0, 0) < 0 && errno == EBADF, "what is open for reading can be written");
	CHECK(v, fstat(s->full, &info) == 0 && info.st_nlink == 0, "the queue without a name has one");
	return true;
}

/* By priority, then in order. */
static bool receive_all(struct victim *v, const struct state *s)
{
	static const unsigned priorities[] = { 32767, 2, 1, 0 };
	char text[LARGEST];
	unsigned priority;

	for (size_t pass = 0; pass < 4; pass++)
		for (int i = 0; i < MESSAGES; i++) {
			ssize_t size;

			if (priority_of(i) != priorities[pass])
				continue;
			size = mq_receive(s->reader, text, sizeof(text), &priority);
			CHECK(v, size == (ssize_t)size_of(i) && priority == priorities[pass],
			      "message %d: %zd bytes, priority %u: %m", i, size, priority);
			CHECK(v, victim_differs(text, size_of(i), seed_of(s, i)) < 0, "message %d has wrong content", i);
		}
	CHECK(v, mq_receive(s->both, text, sizeof(text), NULL) < 0 && errno == EAGAIN, "there are more messages");
	CHECK(v, mq_send(s->full, "", 0, 0) < 0 && errno == EAGAIN, "the full queue is not full");
	for (int i = 0; i < 2; i++)
		CHECK(v, mq_receive(s->full, text, sizeof(text), &priority) == 16 && priority == 7 &&
		      victim_differs(text, 16, seed_of(s, 50 + i)) < 0, "message %d of the queue without a name is wrong", i);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct timespec limit;
	struct state *s = context;
	char text[64];

	if (victim_arg_is(v, "notify"))
		return true;
	if (!check_attributes(v, s) || !receive_all(v, s))
		return false;
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 10;
	CHECK(v, mq_timedsend(s->asking, "question", 8, 3, &limit) == 0, "asking: %m");
	CHECK(v, mq_timedreceive(s->answer, text, sizeof(text), NULL, &limit) == 8 && memcmp(text, "question", 8) == 0,
	      "there is no answer: %m");
	s->generation++;
	fill(s);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;

	victim_start(&v, argc, argv);
	umask(0);
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
