/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * inotify: watches on two directories and a file, with a gap in their numbers and masks of their
 * own. One event waits at the move: it is there afterwards, or that it was lost is told. Then each
 * watch reports what happens under its old number, and new ones can be added.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/inotify.h>

struct state {
	int fd;
	int first, file, second; /* watch descriptors; the one between first and file was removed */
};

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	MUST(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

/* Reads one event and compares; text is the name expected, or NULL. */
static bool take(struct victim *v, struct state *s, int watch, uint32_t mask, const char *name)
{
	/* Room for one event only: the kernel gives no part of a second one. */
	union {
		struct inotify_event event;
		char room[sizeof(struct inotify_event) + 32];
	} got;
	ssize_t size = read(s->fd, &got, sizeof(got));

	CHECK(v, size >= (ssize_t)sizeof(struct inotify_event),
	      "watch %d, event %x: nothing to read (%m)", watch, mask);
	CHECK(v, got.event.wd == watch && (got.event.mask & mask) == mask,
	      "watch %d event %x, not watch %d event %x", got.event.wd, got.event.mask, watch,
	      mask);
	CHECK(v, name == NULL || (got.event.len > 0 && strcmp(got.event.name, name) == 0),
	      "watch %d: name '%s', not '%s'", watch, got.event.len > 0 ? got.event.name : "",
	      name == NULL ? "" : name);
	return true;
}

static bool silent(struct victim *v, struct state *s)
{
	char room[512];

	CHECK(v, read(s->fd, room, sizeof(room)) < 0 && errno == EAGAIN,
	      "watch %d reports event %x that nobody made",
	      ((struct inotify_event *)(void *)room)->wd,
	      ((struct inotify_event *)(void *)room)->mask);
	return true;
}

/* What was made at the end of the check before: the event itself, or word of its loss. */
static bool left_over(struct victim *v, struct state *s)
{
	struct inotify_event event;

	if (v->number == 1)
		return true;
	CHECK(v, read(s->fd, &event, sizeof(event)) == sizeof(event), "nobody tells of the event that was lost: %m");
	CHECK(v, (event.wd == s->file && event.mask == IN_CLOSE_WRITE) || (event.wd == -1 && event.mask == IN_Q_OVERFLOW),
	      "watch %d event %x at first", event.wd, event.mask);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	int watch;

	if (!left_over(v, s) || !silent(v, s))
		return false;
	touch(victim_path(v, "one/a-long-name-of-24-bytes"));
	if (!take(v, s, s->first, IN_CREATE, "a-long-name-of-24-bytes"))
		return false;
	MUST(unlink(victim_path(v, "one/a-long-name-of-24-bytes")) == 0);
	if (!take(v, s, s->first, IN_DELETE, "a-long-name-of-24-bytes") || !silent(v, s))
		return false;
	touch(victim_path(v, "file"));
	if (!take(v, s, s->file, IN_CLOSE_WRITE, NULL) || !silent(v, s))
		return false;
	touch(victim_path(v, "two/b"));
	if (!take(v, s, s->second, IN_MODIFY, "b") || !silent(v, s))
		return false;
	MUST(unlink(victim_path(v, "two/b")) == 0);
	watch = inotify_add_watch(s->fd, victim_path(v, "three"), IN_CREATE);
	CHECK(v, watch > s->second, "a new watch got number %d", watch);
	touch(victim_path(v, "three/c"));
	if (!take(v, s, watch, IN_CREATE, "c"))
		return false;
	MUST(unlink(victim_path(v, "three/c")) == 0);
	CHECK(v, inotify_rm_watch(s->fd, watch) == 0, "removing watch %d: %m", watch);
	if (!take(v, s, watch, IN_IGNORED, NULL) || !silent(v, s))
		return false;
	touch(victim_path(v, "file"));
	return true;
}

int main(int argc, char **argv)
{
	struct state s;
	struct victim v;
	char room[512];
	int removed;

	victim_start(&v, argc, argv);
	MUST(mkdir(victim_path(&v, "one"), 0755) == 0 && mkdir(victim_path(&v, "two"), 0755) == 0 &&
	     mkdir(victim_path(&v, "three"), 0755) == 0);
	touch(victim_path(&v, "file"));
	s.fd = inotify_init1(IN_NONBLOCK);
	MUST(s.fd >= 0);
	s.first = inotify_add_watch(s.fd, victim_path(&v, "one"), IN_CREATE | IN_DELETE);
	removed = inotify_add_watch(s.fd, victim_path(&v, "three"), IN_ALL_EVENTS);
	s.file = inotify_add_watch(s.fd, victim_path(&v, "file"), IN_CLOSE_WRITE);
	s.second = inotify_add_watch(s.fd, victim_path(&v, "two"), IN_MODIFY | IN_ONLYDIR);
	MUST(s.first > 0 && removed > 0 && s.file > removed && s.second > s.file);
	MUST(inotify_rm_watch(s.fd, removed) == 0);
	while (read(s.fd, room, sizeof(room)) > 0)
		;
	victim_run(&v, verify, &s);
}
