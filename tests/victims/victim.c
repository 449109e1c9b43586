/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The protocol of victim.h, and the helpers that several victims need.
 *
 * Happy path: victim_start(), set-up, victim_run(). Failures while setting up end the program with
 * a line on stderr (the test's log); failures while verifying become the answer to the check.
 */
#include "victim.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <time.h>

static void file_replace(const struct victim *v, const char *name, const char *text)
{
	char temporary[VICTIM_PATH_MAX + 32], final[VICTIM_PATH_MAX + 32];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s/.%s.new", v->dir, name);
	snprintf(final, sizeof(final), "%s/%s", v->dir, name);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	MUST(fd >= 0);
	MUST(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	MUST(close(fd) == 0);
	MUST(rename(temporary, final) == 0);
}

void victim_start(struct victim *v, int argc, char **argv)
{
	memset(v, 0, sizeof(*v));
	if (argc < 2 || strlen(argv[1]) >= sizeof(v->dir)) {
		fprintf(stderr, "usage: %s DIR [args]\n", argv[0]);
		exit(2);
	}
	strcpy(v->dir, argv[1]);
	v->argc = argc - 2;
	v->argv = argv + 2;
}

long victim_arg(const struct victim *v, int i, long otherwise)
{
	return i < v->argc ? strtol(v->argv[i], NULL, 10) : otherwise;
}

bool victim_arg_is(const struct victim *v, const char *word)
{
	for (int i = 0; i < v->argc; i++)
		if (strcmp(v->argv[i], word) == 0)
			return true;
	return false;
}

const char *victim_path(const struct victim *v, const char *name)
{
	static char ring[4][VICTIM_PATH_MAX + 64];
	static unsigned int next;
	char *path = ring[next++ % 4];

	snprintf(path, sizeof(ring[0]), "%s/%s", v->dir, name);
	return path;
}

void victim_ready(struct victim *v)
{
	char text[32];

	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	file_replace(v, "ready", text);
}

bool victim_asked(struct victim *v)
{
	const char *path = victim_path(v, "check");
	struct stat st;
	char text[32];
	long number;

	if (stat(path, &st) < 0)
		return false;
	if (st.st_ino == v->seen_inode && st.st_mtim.tv_sec == v->seen_mtime.tv_sec &&
	    st.st_mtim.tv_nsec == v->seen_mtime.tv_nsec)
		return false;
	if (victim_slurp(path, text, sizeof(text)) <= 0)
		return false;
	v->seen_inode = st.st_ino;
	v->seen_mtime = st.st_mtim;
	number = strtol(text, NULL, 10);
	if (number == v->number)
		return false;
	v->number = number;
	v->reason[0] = '\0';
	v->note[0] = '\0';
	return true;
}

void victim_answer(struct victim *v, bool good)
{
	char text[2 * VICTIM_TEXT_MAX + 64];

	if (good && v->reason[0] == '\0')
		snprintf(text, sizeof(text), "%ld ok%s%s\n", v->number, v->note[0] ? " " : "",
			 v->note);
	else
		snprintf(text, sizeof(text), "%ld FAIL %s\n", v->number,
			 v->reason[0] ? v->reason : "without a reason");
	file_replace(v, "result", text);
}

void victim_run(struct victim *v, victim_verify_fn *verify, void *context)
{
	victim_ready(v);
	for (;;) {
		if (victim_asked(v))
			victim_answer(v, verify(v, context));
		victim_sleep_us(2000);
	}
}

bool victim_fail(struct victim *v, const char *format, ...)
{
	va_list list;

	if (v->reason[0] != '\0')
		return false;
	va_start(list, format);
	vsnprintf(v->reason, sizeof(v->reason), format, list);
	va_end(list);
	return false;
}

void victim_note(struct victim *v, const char *format, ...)
{
	size_t used = strlen(v->note);
	va_list list;

	if (used > 0 && used + 1 < sizeof(v->note))
		v->note[used++] = ' ';
	va_start(list, format);
	vsnprintf(v->note + used, sizeof(v->note) - used, format, list);
	va_end(list);
}

void victim_skip(struct victim *v, const char *format, ...)
{
	char text[VICTIM_TEXT_MAX];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	file_replace(v, "skip", text);
	exit(77);
}

void victim_die(const char *file, int line, const char *what)
{
	int saved = errno;

	dprintf(2, "%s:%d: does not hold: %s (%s)\n", file, line, what, strerror(saved));
	exit(1);
}

int64_t victim_now_ns(int clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void victim_sleep_us(int64_t us)
{
	struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	nanosleep(&pause, NULL);
}

uint64_t victim_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void victim_fill(void *to, size_t size, uint64_t seed)
{
	unsigned char *bytes = to;
	uint64_t state = seed * UINT64_C(0x2545f4914f6cdd1d), word = 0;

	for (size_t i = 0; i < size; i++) {
		if (i % 8 == 0)
			word = victim_random(&state);
		bytes[i] = (unsigned char)(word >> (i % 8 * 8));
	}
}

ssize_t victim_differs(const void *at, size_t size, uint64_t seed)
{
	const unsigned char *bytes = at;
	uint64_t state = seed * UINT64_C(0x2545f4914f6cdd1d), word = 0;

	for (size_t i = 0; i < size; i++) {
		if (i % 8 == 0)
			word = victim_random(&state);
		if (bytes[i] != (unsigned char)(word >> (i % 8 * 8)))
			return (ssize_t)i;
	}
	return -1;
}

ssize_t victim_slurp(const char *path, char *to, size_t size)
{
	size_t used = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while (used + 1 < size) {
		ssize_t got = read(fd, to + used, size - 1 - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	close(fd);
	to[used] = '\0';
	return (ssize_t)used;
}

bool victim_mapping(const void *at, char ret_perms[5], char *ret_flags, size_t flags_size)
{
	unsigned long start, end, address = (unsigned long)at;
	char line[512], perms[5], found[5] = "";
	FILE *smaps = fopen("/proc/self/smaps", "re");

	if (smaps == NULL)
		return false;
	while (fgets(line, sizeof(line), smaps) != NULL) {
		if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3) {
			if (found[0] != '\0')
				break;
			if (address >= start && address < end)
				strcpy(found, perms);
		} else if (found[0] != '\0' && strncmp(line, "VmFlags:", 8) == 0) {
			line[strcspn(line, "\n")] = '\0';
			if (ret_flags != NULL)
				snprintf(ret_flags, flags_size, "%s ", line + 8);
			break;
		}
	}
	fclose(smaps);
	if (found[0] != '\0')
		memcpy(ret_perms, found, 5);
	return found[0] != '\0';
}

bool victim_status_line(const char *path, const char *name, char *ret_value, size_t size)
{
	char text[8192], *line, *save = NULL;
	size_t length = strlen(name);

	if (victim_slurp(path, text, sizeof(text)) < 0)
		return false;
	for (line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, name, length) != 0 || line[length] != ':')
			continue;
		line += length + 1;
		snprintf(ret_value, size, "%s", line + strspn(line, " \t"));
		return true;
	}
	return false;
}

_Noreturn static void peer_serve(int requests, int answers, victim_peer_fn *serve, void *context)
{
	char text[VICTIM_TEXT_MAX];
	unsigned char request;
	ssize_t got;

	for (;;) {
		got = read(requests, &request, 1);
		if (got < 0 && errno == EINTR) {
			dprintf(2, "peer: read() was interrupted\n");
			continue;
		}
		if (got <= 0 || request == 0)
			_exit(0);
		memset(text, 0, sizeof(text));
		serve(context, request, text, sizeof(text));
		if (write(answers, text, sizeof(text)) != (ssize_t)sizeof(text))
			_exit(1);
	}
}

void victim_peer_fork(struct victim_peer *peer, victim_peer_fn *serve, void *context)
{
	int down[2], up[2];

	MUST(pipe(down) == 0 && pipe(up) == 0);
	peer->pid = fork();
	MUST(peer->pid >= 0);
	if (peer->pid == 0) {
		close(down[1]);
		close(up[0]);
		peer_serve(down[0], up[1], serve, context);
	}
	close(down[0]);
	close(up[1]);
	peer->to = down[1];
	peer->from = up[0];
}

bool victim_peer_ask(struct victim *v, struct victim_peer *peer, unsigned char request)
{
	struct pollfd pfd = {.fd = peer->from, .events = POLLIN};
	char text[VICTIM_TEXT_MAX];
	ssize_t got;

	CHECK(v, write(peer->to, &request, 1) == 1, "cannot ask child %d: %m", (int)peer->pid);
	CHECK(v, WAIT_FOR(poll(&pfd, 1, 0) == 1, 5000), "child %d does not answer", (int)peer->pid);
	got = read(peer->from, text, sizeof(text));
	CHECK(v, got == (ssize_t)sizeof(text), "child %d: answer of %zd bytes", (int)peer->pid,
	      got);
	CHECK(v, text[0] == '\0', "child %d: %.300s", (int)peer->pid, text);
	return true;
}
