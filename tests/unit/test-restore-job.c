/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/*
 * Shell jobs, moved from one pseudo-terminal to another, and whose child a restored process is. Needs root.
 *
 * A session here is what a user has: a terminal, a shell that controls jobs (`leader_main()`), and one job. On the source
 * the job is what is moved, on the target it is this program, which restores it and waits for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <termios.h>

#include "move-common.h"

#define TIMEOUT_MS 20000
#define TRIES 100 /* a shell loop cannot be moved while a program in it begins or ends */
#define TEXT_MAX 8192
#define EXIT_FAILED 200

/* What the leader says of its job. */
struct event {
	pid_t job;
	int status; /* as of waitpid(2); 0x7f00: it has begun */
	pid_t foreground; /* of the terminal, before the leader does anything about it */
	bool echo;  /* the terminal's, at that time */
};

struct session {
	int master;
	int events;   /* from the leader */
	int commands; /* to it: a byte continues the job */
	pid_t leader;
	pid_t job;
	char text[TEXT_MAX]; /* what came out of the terminal so far */
	size_t size;
};

/* ---- a terminal with a shell */

static bool echoes(int fd)
{
	struct termios termios;

	return tcgetattr(fd, &termios) == 0 && termios.c_lflag & ECHO;
}

static void set_echo(int fd, bool on)
{
	struct termios termios;

	assert_int_equal(tcgetattr(fd, &termios), 0);
	termios.c_lflag = on ? termios.c_lflag | ECHO : termios.c_lflag & ~(tcflag_t)ECHO;
	assert_int_equal(tcsetattr(fd, TCSANOW, &termios), 0);
}

static void report(int fd, pid_t job, int status)
{
	struct event event = { .job = job, .status = status, .foreground = tcgetpgrp(0), .echo = echoes(0) };

	(void)!write(fd, &event, sizeof(event));
}

__attribute__((noreturn)) static void leader_main(const char *name, int events, int commands, bool foreground,
						  void (*job_main)(void *), void *argument)
{
	int slave, status;
	char go;
	pid_t job;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	slave = open(name, O_RDWR);
	ioctl(slave, TIOCSCTTY, 0);
	for (int fd = 0; fd < 3; fd++)
		dup2(slave, fd);
	close(slave);
	signal(SIGTTOU, SIG_IGN);
	job = fork();
	if (job == 0) {
		setpgid(0, 0);
		if (foreground)
			tcsetpgrp(0, getpid());
		signal(SIGTTOU, SIG_DFL);
		job_main(argument);
		_exit(EXIT_FAILED);
	}
	setpgid(job, job);
	if (foreground)
		tcsetpgrp(0, job);
	report(events, job, 0x7f00);
	while (waitpid(job, &status, WUNTRACED) == job) {
		report(events, job, status);
		if (!WIFSTOPPED(status))
			break;
		tcsetpgrp(0, getpgrp());
		if (read(commands, &go, 1) != 1)
			break;
		tcsetpgrp(0, job);
		kill(-job, SIGCONT);
	}
	for (;;)
		pause();
}

static struct event next_event(struct session *session)
{
	struct pollfd wait = { .fd = session->events, .events = POLLIN };
	struct event event;

	if (poll(&wait, 1, TIMEOUT_MS) != 1)
		fail_msg("no news from the shell; the terminal has: %s", session->text);
	assert_int_equal(read(session->events, &event, sizeof(event)), sizeof(event));
	return event;
}

static void session_start(struct session *session, bool foreground, void (*job_main)(void *), void *argument)
{
	const struct winsize size = { .ws_row = 24, .ws_col = 80 };
	int events[2], commands[2];
	char name[64];

	memset(session, 0, sizeof(*session));
	session->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(session->master >= 0 && grantpt(session->master) == 0 && unlockpt(session->master) == 0);
	assert_int_equal(ptsname_r(session->master, name, sizeof(name)), 0);
	assert_int_equal(ioctl(session->master, TIOCSWINSZ, &size), 0);
	assert_int_equal(pipe2(events, O_CLOEXEC), 0);
	assert_int_equal(pipe2(commands, O_CLOEXEC), 0);
	session->leader = fork();
	assert_true(session->leader >= 0);
	if (session->leader == 0) {
		close(commands[1]);
		leader_main(name, events[1], commands[0], foreground, job_main, argument);
	}
	close(events[1]);
	close(commands[0]);
	session->events = events[0];
	session->commands = commands[1];
	session->job = next_event(session).job;
}

/* Waits until the terminal has said `words`, and returns what follows them there. */
static const char *session_expect(struct session *session, const char *words)
{
	struct pollfd wait = { .fd = session->master, .events = POLLIN };
	char *found;

	while (!(found = strstr(session->text, words))) {
		ssize_t got;

		if (session->size + 256 > TEXT_MAX || poll(&wait, 1, TIMEOUT_MS) != 1)
			fail_msg("'%s' does not come; the terminal has: %s", words, session->text);
		got = read(session->master, session->text + session->size, 255);
		if (got <= 0)
			fail_msg("the terminal has ended after: %s", session->text);
		session->size += (size_t)got;
		session->text[session->size] = '\0';
	}
	return found + strlen(words);
}

/* What is in the terminal now belongs to the past. */
static void session_drain(struct session *session)
{
	struct pollfd wait = { .fd = session->master, .events = POLLIN };

	while (session->size + 256 < TEXT_MAX && poll(&wait, 1, 0) == 1 && wait.revents & POLLIN) {
		ssize_t got = read(session->master, session->text + session->size, 255);

		if (got <= 0)
			break;
		session->size += (size_t)got;
		session->text[session->size] = '\0';
	}
}

static void session_type(const struct session *session, const char *text)
{
	assert_int_equal(write(session->master, text, strlen(text)), (ssize_t)strlen(text));
}

static void session_end(struct session *session)
{
	kill(session->leader, SIGKILL);
	waitpid(session->leader, NULL, 0);
	close(session->master);
	close(session->events);
	close(session->commands);
}

static void assert_ok(int r, const struct error *error)
{
	if (r < 0)
		fail_msg("%s", error_text(error, r));
}

/* ---- jobs to be moved */

static void sh_main(void *script)
{
	syscall(SYS_close_range, 3u, ~0u, 0);
	execl("/bin/sh", "sh", "-c", (const char *)script, (char *)NULL);
}

#define LOOP "n=0; while :; do n=$((n+1)); echo tick $n.; sleep 0.02; done"
#define READER "echo ready; while read line; do echo \"<$line>\"; [ $line = end ] && exit 7; done"

/* The last number that the loop has printed. */
static int last_tick(const struct session *session)
{
	const char *at = session->text;
	int last = 0;

	while ((at = strstr(at, "tick "))) {
		at += strlen("tick ");
		if (strchr(at, '.'))
			last = atoi(at);
	}
	return last;
}

static void collect(struct move *move, pid_t pid, bool shell_job)
{
	struct dump_options *options = calloc(1, sizeof(*options));
	struct error error = ERROR_INIT;
	int r = -EBUSY;

	options->shell_job = shell_job;
	for (int i = 0; i < TRIES && r < 0; i++) {
		if (i > 0)
			move_deinit(move);
		memset(move, 0, sizeof(*move));
		error_clear(&error);
		r = move_take(move, pid, options, &error);
	}
	assert_ok(r, &error);
	/* What it leaves behind is ours to wait for: init may take its time. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	assert_ok(move_end_source(move, &error), &error);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	move->dump->options = NULL;
	free(options);
}

/* ---- what restores them */

struct restorer {
	struct move *move;
	struct restore_options options;
	pid_t root;
};

static void restorer_main(void *argument)
{
	struct restorer *restorer = argument;
	struct restore_terminal terminal;
	struct error error = ERROR_INIT;
	int status = 0, r;

	/* Until the PIDs are free. */
	array_for_each(process, &restorer->move->dump->processes)
		for (int i = 0; i < 10000 && kill((*process)->pid, 0) == 0; i++)
			usleep(1000);
	r = restore_terminal_save(0, &terminal, &error);
	if (r == 0)
		r = move_give(restorer->move, &restorer->options, &error);
	if (r < 0) {
		dprintf(1, "failed: %s\n", error_text(&error, r));
		move_deinit(restorer->move);
		_exit(EXIT_FAILED);
	}
	dprintf(1, "restored.\n");
	if (restorer->options.parentage == RESTORE_CHILD)
		r = restore_job_wait(restorer->root, &terminal, &status, &error);
	_exit(r < 0 ? EXIT_FAILED : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static struct restorer restorer_of(struct move *move, pid_t root)
{
	return (struct restorer){
		.move = move,
		.root = root,
		.options = { .shell_job = true, .terminal_fd = 0, .parentage = RESTORE_CHILD },
	};
}

static pid_t parent_of(pid_t pid)
{
	struct procfs_stat stat;

	return procfs_read_stat(pid, &stat, NULL) == 0 ? stat.ppid : -1;
}

static void wait_for_foreground(int fd, pid_t group)
{
	for (int i = 0; i < TIMEOUT_MS && tcgetpgrp(fd) != group; i++)
		usleep(1000);
	assert_int_equal(tcgetpgrp(fd), group);
}

/* ---- tests */

static void test_loop(void **state)
{
	struct session here, there;
	struct restorer restorer;
	struct event event;
	struct move move;
	char next[32];

	session_start(&here, true, sh_main, LOOP);
	session_expect(&here, "tick 3.");
	collect(&move, here.job, true);
	session_drain(&here);
	restorer = restorer_of(&move, here.job);
	session_start(&there, true, restorer_main, &restorer);
	snprintf(next, sizeof(next), "tick %d.", last_tick(&here) + 1);
	session_expect(&there, next);
	if (last_tick(&there) < last_tick(&here) + 1 || strstr(there.text, "tick 1."))
		fail_msg("the loop has not gone on: %s", there.text);
	assert_int_equal(getsid(here.job), there.leader);
	assert_int_equal(getpgid(here.job), here.job);
	assert_int_equal(parent_of(here.job), there.job);
	wait_for_foreground(there.master, here.job);
	session_type(&there, "\003");
	event = next_event(&there);
	assert_true(WIFEXITED(event.status));
	assert_int_equal(WEXITSTATUS(event.status), 128 + SIGINT);
	assert_int_equal(event.foreground, there.job);
	session_end(&here);
	session_end(&there);
	move_deinit(&move);
}

/* Reads what is typed, exits by itself; settings and foreground are there and back. */
static void test_input_and_settings(void **state)
{
	struct session here, there;
	struct restorer restorer;
	struct event event;
	struct move move;

	session_start(&here, true, sh_main, READER);
	session_expect(&here, "ready");
	session_type(&here, "one\n");
	session_expect(&here, "<one>");
	set_echo(here.master, false);
	collect(&move, here.job, true);
	restorer = restorer_of(&move, here.job);
	session_start(&there, true, restorer_main, &restorer);
	session_expect(&there, "restored.");
	wait_for_foreground(there.master, here.job);
	assert_false(echoes(there.master));
	session_type(&there, "two\n");
	session_expect(&there, "<two>");
	if (strstr(there.text, "two\r\n<two>"))
		fail_msg("it was echoed: %s", there.text);
	session_type(&there, "end\n");
	event = next_event(&there);
	assert_true(WIFEXITED(event.status));
	assert_int_equal(WEXITSTATUS(event.status), 7);
	assert_int_equal(event.foreground, there.job);
	assert_true(event.echo);
	session_end(&here);
	session_end(&there);
	move_deinit(&move);
}

/* ^Z stops the restorer too, and `fg` continues both. */
static void test_job_control(void **state)
{
	struct session here, there;
	struct restorer restorer;
	struct event event;
	struct move move;

	session_start(&here, true, sh_main, READER);
	session_expect(&here, "ready");
	set_echo(here.master, false);
	collect(&move, here.job, true);
	restorer = restorer_of(&move, here.job);
	session_start(&there, true, restorer_main, &restorer);
	session_expect(&there, "restored.");
	wait_for_foreground(there.master, here.job);
	for (int round = 0; round < 2; round++) {
		session_type(&there, "\032");
		event = next_event(&there);
		assert_true(WIFSTOPPED(event.status));
		assert_int_equal(event.foreground, there.job);
		assert_true(event.echo);
		assert_int_equal(write(there.commands, "c", 1), 1);
		wait_for_foreground(there.master, here.job);
		assert_false(echoes(there.master));
		session_type(&there, round ? "end\n" : "on\n");
		session_expect(&there, round ? "<end>" : "<on>");
	}
	event = next_event(&there);
	assert_true(WIFEXITED(event.status) && WEXITSTATUS(event.status) == 7);
	session_end(&here);
	session_end(&there);
	move_deinit(&move);
}

/* In the background nothing of the terminal is touched. */
static void test_background(void **state)
{
	struct session here, there;
	struct restorer restorer;
	struct move move;
	char next[32];

	session_start(&here, true, sh_main, LOOP);
	session_expect(&here, "tick 2.");
	set_echo(here.master, false);
	collect(&move, here.job, true);
	session_drain(&here);
	restorer = restorer_of(&move, here.job);
	session_start(&there, false, restorer_main, &restorer);
	snprintf(next, sizeof(next), "tick %d.", last_tick(&here) + 2);
	session_expect(&there, next);
	assert_int_equal(tcgetpgrp(there.master), there.leader);
	assert_true(echoes(there.master));
	kill(here.job, SIGTERM);
	assert_int_equal(WEXITSTATUS(next_event(&there).status), 128 + SIGTERM);
	session_end(&here);
	session_end(&there);
	move_deinit(&move);
}

/* Nobody would take the terminal back from a job that was let go. */
static void test_detached(void **state)
{
	struct session here, there;
	struct restorer restorer;
	struct event event;
	struct move move;
	char next[32];

	session_start(&here, true, sh_main, LOOP);
	session_expect(&here, "tick 2.");
	collect(&move, here.job, true);
	session_drain(&here);
	restorer = restorer_of(&move, here.job);
	restorer.options.parentage = RESTORE_DETACHED;
	session_start(&there, true, restorer_main, &restorer);
	event = next_event(&there);
	assert_int_equal(WEXITSTATUS(event.status), 0);
	assert_int_equal(event.foreground, there.job);
	snprintf(next, sizeof(next), "tick %d.", last_tick(&here) + 2);
	session_expect(&there, next);
	assert_int_equal(getsid(here.job), there.leader);
	assert_int_not_equal(parent_of(here.job), there.job);
	kill(-here.job, SIGKILL);
	session_end(&here);
	session_end(&there);
	move_deinit(&move);
}

static void resized(int number)
{
	(void)!write(1, "resized.\n", 9);
}

/* The leader of a session, whose shell's place it has; it has its terminal open in several ways. */
static void leading_job(const char *name)
{
	struct sigaction action = { .sa_handler = resized };
	int slave;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsid();
	syscall(SYS_close_range, 0u, ~0u, 0);
	slave = open(name, O_RDWR);
	ioctl(slave, TIOCSCTTY, 0);
	dup(slave);
	open("/dev/tty", O_WRONLY | O_APPEND);
	open(name, O_RDONLY | O_NONBLOCK);
	sigaction(SIGWINCH, &action, NULL);
	for (int n = 1;; n++) {
		dprintf(n % 2 ? 1 : 2, "tick %d.\n", n);
		usleep(10000);
	}
}

static int flags_of(pid_t pid, int number)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	close(fd);
	close(pidfd);
	return flags;
}

static bool same_file(pid_t pid, int one, int other)
{
	return syscall(SYS_kcmp, pid, pid, 0 /* KCMP_FILE */, one, other) == 0;
}

static void test_session_leader(void **state)
{
	const struct winsize size = { .ws_row = 50, .ws_col = 132 };
	struct session here = { .leader = -1 }, there;
	struct restorer restorer;
	struct move move;
	char name[64], next[32];
	pid_t job;
	int flags;

	here.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(here.master >= 0 && grantpt(here.master) == 0 && unlockpt(here.master) == 0);
	assert_int_equal(ptsname_r(here.master, name, sizeof(name)), 0);
	job = fork();
	if (job == 0)
		leading_job(name);
	session_expect(&here, "tick 5.");
	assert_int_equal(getsid(job), job);
	assert_int_equal(ioctl(here.master, TIOCSWINSZ, &size), 0);
	session_expect(&here, "resized.");
	flags = flags_of(job, 2);
	assert_true(same_file(job, 0, 1) && !same_file(job, 0, 3) && (flags & O_APPEND));
	collect(&move, job, true);
	session_drain(&here);
	restorer = restorer_of(&move, job);
	session_start(&there, true, restorer_main, &restorer);
	snprintf(next, sizeof(next), "tick %d.", last_tick(&here) + 1);
	session_expect(&there, next);
	session_expect(&there, "resized.");
	assert_int_equal(getsid(job), there.leader);
	assert_true(same_file(job, 0, 1) && !same_file(job, 0, 3));
	assert_int_equal(flags_of(job, 2), flags);
	assert_int_equal(flags_of(job, 3) & (O_ACCMODE | O_NONBLOCK), O_RDONLY | O_NONBLOCK);
	assert_int_equal(flags_of(job, 0) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
	kill(job, SIGKILL);
	assert_int_equal(WEXITSTATUS(next_event(&there).status), 128 + SIGKILL);
	close(here.master);
	session_end(&there);
	move_deinit(&move);
}

/* ---- refusals */

static const struct image_blocker *find_blocker(const struct dump_context *dump, const char *object, const char *cause)
{
	array_for_each(blocker, &dump->blockers.list)
		if (strstr(blocker->object, object) && strstr(blocker->cause, cause))
			return blocker;
	return NULL;
}

static struct dump_context *look(pid_t pid, const struct dump_options *options, struct image_set **ret_images)
{
	struct error error = ERROR_INIT;
	struct dump_context *dump = NULL;

	assert_int_equal(image_set_new(ret_images), 0);
	assert_ok(dump_context_new(pid, options, NULL, &dump, &error), &error);
	assert_ok(dump_preflight(dump, *ret_images, &error), &error);
	return dump;
}

/* A pair of its own, which moves, and a slave whose master is somebody else's. */
static void other_terminals(void *argument)
{
	int master;

	syscall(SYS_close_range, 3u, ~0u, 0);
	master = posix_openpt(O_RDWR | O_NOCTTY);
	unlockpt(master);
	open(ptsname(master), O_RDWR | O_NOCTTY);
	open(argument, O_RDWR | O_NOCTTY);
	dprintf(1, "ready\n");
	for (;;)
		pause();
}

static void test_blockers(void **state)
{
	static const struct dump_options job = { .shell_job = true }, no_job = { .shell_job = false };
	const struct image_blocker *blocker;
	struct dump_context *dump;
	struct image_set *images;
	struct session here;
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char name[64];

	assert_int_equal(unlockpt(master), 0);
	assert_int_equal(ptsname_r(master, name, sizeof(name)), 0);
	session_start(&here, true, other_terminals, name);
	session_expect(&here, "ready");
	dump = look(here.job, &no_job, &images);
	assert_int_equal(dump->blockers.list.count, 3);
	blocker = find_blocker(dump, "/dev/pts/", "the program was started from");
	assert_true(blocker && strstr(blocker->remedy, "--shell-job"));
	blocker = find_blocker(dump, "fd 0 -> /dev/pts/", "the program was started from");
	assert_true(blocker && strstr(blocker->remedy, "--shell-job"));
	dump_context_free(dump);
	image_set_free(images);
	dump = look(here.job, &job, &images);
	assert_int_equal(dump->blockers.list.count, 1);
	blocker = find_blocker(dump, "fd 5 -> /dev/pts/", "its master is held by");
	assert_true(blocker && !strstr(blocker->remedy, "--shell-job"));
	dump_context_free(dump);
	image_set_free(images);
	kill(here.job, SIGKILL);
	session_end(&here);
	close(master);
}

static void expect_refusal(struct move *move, const struct restore_options *options, const char *words)
{
	struct error error = ERROR_INIT;

	assert_true(move_give(move, options, &error) < 0);
	if (!strstr(error.message, words))
		fail_msg("'%s' does not say '%s'", error.message, words);
	restore_tree_free(move->tree);
	move->tree = NULL;
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), 0); /* only the leader */
}

static void test_no_terminal(void **state)
{
	struct restore_options options = { 0 };
	struct session here;
	struct move move;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	session_start(&here, true, sh_main, READER);
	session_expect(&here, "ready");
	collect(&move, here.job, true);
	expect_refusal(&move, &options, "--shell-job");
	options.shell_job = true;
	options.terminal_fd = null;
	expect_refusal(&move, &options, "none here");
	options.terminal_fd = -1;
	expect_refusal(&move, &options, "none here");
	options.terminal_fd = here.master;
	expect_refusal(&move, &options, "master");
	assert_int_equal(kill(here.job, 0), -1);
	close(null);
	session_end(&here);
	move_deinit(&move);
}

/* ---- whose child it is */

static volatile sig_atomic_t ended;

static void end(int number)
{
	ended = 1;
}

/* A process without a terminal, that exits with 42 at SIGTERM; the caller waits for it. */
static pid_t plain_start(void)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		setsid();
		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		signal(SIGTERM, end);
		syscall(SYS_close_range, 3u, ~0u, 0);
		while (!ended)
			usleep(1000);
		_exit(42);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 0); /* it has closed its end */
	close(ready[0]);
	return pid;
}

static void expect_end(pid_t pid, int code)
{
	siginfo_t info = { 0 };

	assert_int_equal(parent_of(pid), getpid());
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG), 0);
	assert_int_equal(info.si_pid, 0);
	kill(pid, SIGTERM);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(info.si_code, CLD_EXITED);
	assert_int_equal(info.si_status, code);
}

static void test_child(void **state)
{
	static const struct restore_options options = { .parentage = RESTORE_CHILD };
	pid_t pid = plain_start();
	struct error error = ERROR_INIT;
	struct move move;
	int status = 0;

	collect(&move, pid, false);
	assert_ok(move_give(&move, &options, &error), &error);
	assert_int_equal(getsid(pid), pid);
	expect_end(pid, 42);
	assert_ok(restore_job_wait(pid, NULL, &status, &error), &error);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	assert_int_equal(restore_job_wait(pid, NULL, &status, &error), -ECHILD);
	move_deinit(&move);
}

static void test_sibling(void **state)
{
	static const struct restore_options options = { .parentage = RESTORE_SIBLING };
	pid_t pid = plain_start(), restorer;
	struct move move;
	int status;

	collect(&move, pid, false);
	restorer = fork();
	if (restorer == 0) {
		struct error error = ERROR_INIT;
		int r = move_give(&move, &options, &error);

		if (r < 0)
			fprintf(stderr, "%s\n", error_text(&error, r));
		_exit(r < 0 ? EXIT_FAILED : 0);
	}
	assert_int_equal(waitpid(restorer, &status, 0), restorer);
	assert_int_equal(status, 0);
	expect_end(pid, 42);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	move_deinit(&move);
}

static void test_init(void **state)
{
	static const struct restore_options options = { .parentage = RESTORE_DETACHED };
	pid_t pid = plain_start(), parent;
	struct error error = ERROR_INIT;
	struct move move;

	collect(&move, pid, false);
	assert_ok(move_give(&move, &options, &error), &error);
	parent = parent_of(pid);
	assert_true(parent > 0 && parent != getpid() && parent != getppid());
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), -1);
	move_deinit(&move);
}

/* A restore that does not come to its end leaves nothing to wait for, be the tree kept already or not. */
static void test_child_given_up(void **state)
{
	static const struct restore_options options = { .parentage = RESTORE_CHILD };

	for (int keep = 0; keep < 2; keep++) {
		pid_t pid = plain_start();
		struct error error = ERROR_INIT;
		struct move move;

		collect(&move, pid, false);
		assert_ok(restore_tree_new(&options, NULL, &move.tree, &error), &error);
		move.tree->deadline = clock_deadline(MOVE_TIMEOUT);
		assert_ok(restore_tree_layout(move.tree, move.images, &error), &error);
		assert_int_equal(parent_of(pid), getpid());
		if (keep) {
			assert_ok(move_put_pages(&move, &error), &error);
			assert_ok(restore_tree_finish(move.tree, move.images, &error), &error);
			assert_ok(restore_tree_keep(move.tree, &error), &error);
		}
		restore_tree_free(move.tree);
		move.tree = NULL;
		assert_int_equal(waitpid(pid, NULL, __WALL | WNOHANG), -1);
		assert_int_equal(kill(pid, 0), -1);
		move_deinit(&move);
	}
}

static void test_pid_taken(void **state)
{
	static const struct restore_options options = { .parentage = RESTORE_CHILD };
	pid_t pid = plain_start();
	struct error error = ERROR_INIT;
	struct move move;
	char words[64];

	collect(&move, pid, false);
	assert_ok(move_give(&move, &options, &error), &error);
	snprintf(words, sizeof(words), "PID %d is in use on the restoring host (by test-restore-jo", pid);
	move.tree = NULL;
	assert_int_equal(move_give(&move, &options, &error), -EEXIST);
	if (!strstr(error.message, words))
		fail_msg("'%s' does not say who has it", error.message);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	move_deinit(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_child),
		cmocka_unit_test(test_sibling),
		cmocka_unit_test(test_init),
		cmocka_unit_test(test_child_given_up),
		cmocka_unit_test(test_pid_taken),
		cmocka_unit_test(test_blockers),
		cmocka_unit_test(test_no_terminal),
		cmocka_unit_test(test_loop),
		cmocka_unit_test(test_input_and_settings),
		cmocka_unit_test(test_job_control),
		cmocka_unit_test(test_background),
		cmocka_unit_test(test_detached),
		cmocka_unit_test(test_session_leader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
