/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fanotify DIR [PLACE]: a group that tells of files by descriptors, with marks on a file, on a directory and on a mount, the
 * last with a mask of what to ignore; and one that tells of them by handles, with a mark on a file system. Mounts are those of
 * PLACE, or else of DIR. A check makes events and reads them.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/fanotify.h>

struct state {
	char place[VICTIM_PATH_MAX];
	int group, handles;
	char lines[2][1024]; /* marks as fdinfo had them, sorted, without what names inodes */
};

static const char *path_of(const struct state *s, const char *name)
{
	static char path[VICTIM_PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", s->place, name);
	return path;
}

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	MUST(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static int line_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "flags:.. event-flags:.." and "mflags:.. mask:.. ignored_mask:.." of each mark. */
static void marks_read(int fd, char *to, size_t size)
{
	char path[64], text[4096], *lines[32], *line, *save = NULL, *part;
	size_t count = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	MUST(victim_slurp(path, text, sizeof(text)) > 0);
	for (line = strtok_r(text, "\n", &save); line != NULL && count < 32; line = strtok_r(NULL, "\n", &save)) {
		part = strstr(line, "fhandle-bytes");
		if (part != NULL)
			*part = '\0';
		part = strstr(line, strstr(line, "event-flags") ? "flags:" : "mflags:");
		if (strncmp(line, "fanotify", 8) == 0 && part != NULL)
			lines[count++] = part;
	}
	qsort(lines, count, sizeof(lines[0]), line_compare);
	to[0] = '\0';
	for (size_t i = 0; i < count; i++) {
		strncat(to, lines[i], size - strlen(to) - 1);
		strncat(to, "\n", size - strlen(to) - 1);
	}
}

/* Reads all events; bits of all their masks. */
static uint64_t drain(int fd)
{
	char room[8192] __attribute__((aligned(8)));
	uint64_t seen = 0;
	ssize_t got;

	while ((got = read(fd, room, sizeof(room))) > 0) {
		struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)(void *)room;

		for (; FAN_EVENT_OK(event, got); event = FAN_EVENT_NEXT(event, got)) {
			if (event->pid == getpid())
				seen |= event->mask;
			if (event->fd >= 0)
				close(event->fd);
		}
	}
	return seen;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	char lines[1024];
	uint64_t seen;

	for (int i = 0; i < 2; i++) {
		marks_read(i ? s->handles : s->group, lines, sizeof(lines));
		CHECK(v, strcmp(lines, s->lines[i]) == 0, "marks are '%.150s', were '%.150s'", lines, s->lines[i]);
	}
	drain(s->group);
	drain(s->handles);
	touch(path_of(s, "file"));
	seen = drain(s->group);
	CHECK(v, seen & FAN_MODIFY, "the mark on a file tells of %llx", (unsigned long long)seen);
	CHECK(v, seen & FAN_CLOSE_WRITE, "the mark on the mount tells of %llx", (unsigned long long)seen);
	touch(path_of(s, "d/inside"));
	seen = drain(s->group);
	CHECK(v, seen & FAN_OPEN, "the mark on a directory tells of %llx", (unsigned long long)seen);
	seen = drain(s->handles);
	CHECK(v, seen & FAN_CREATE, "the mark on a file system tells of %llx", (unsigned long long)seen);
	MUST(unlink(path_of(s, "d/inside")) == 0);
	drain(s->group);
	drain(s->handles);
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	snprintf(s.place, sizeof(s.place), "%s", v.argc > 0 ? v.argv[0] : v.dir);
	s.group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_UNLIMITED_MARKS, O_RDONLY | O_LARGEFILE);
	s.handles = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | FAN_REPORT_DFID_NAME, O_RDONLY);
	if (s.group < 0 || s.handles < 0)
		victim_skip(&v, "no fanotify: %m");
	touch(path_of(&s, "file"));
	MUST(mkdir(path_of(&s, "d"), 0755) == 0 || errno == EEXIST);
	MUST(fanotify_mark(s.group, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, path_of(&s, "file")) == 0);
	MUST(fanotify_mark(s.group, FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD,
			   path_of(&s, "d")) == 0);
	MUST(fanotify_mark(s.group, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, s.place) == 0);
	MUST(fanotify_mark(s.group, FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
			   FAN_ACCESS, AT_FDCWD, s.place) == 0);
	if (fanotify_mark(s.handles, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CREATE, AT_FDCWD, s.place) < 0)
		victim_skip(&v, "no handles on this file system: %m");
	drain(s.group);
	marks_read(s.group, s.lines[0], sizeof(s.lines[0]));
	marks_read(s.handles, s.lines[1], sizeof(s.lines[1]));
	victim_run(&v, verify, &s);
}
