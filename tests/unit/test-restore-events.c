/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/* eventfd, timerfd, signalfd, inotify, memfd and epoll, moved from one child process to another. */
#include "files-common.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

static void join(char *path, size_t size, const char *directory, const char *name)
{
	snprintf(path, size, "%s/%s", directory, name);
}

/* ---- small kinds */

static void setup_small(const char *directory)
{
	struct itimerspec periodic = { .it_value = { 0, 1000000 }, .it_interval = { 0, 20000000 } };
	struct itimerspec far = { .it_value = { 1000, 0 } };
	struct itimerspec wall = { 0 };
	uint64_t large = UINT64_C(0x123456789abc);
	char path[128];
	sigset_t mask;

	CHILD_CHECK(eventfd(7, EFD_SEMAPHORE | EFD_NONBLOCK) == 0);
	CHILD_CHECK(eventfd(0, EFD_CLOEXEC) == 1);
	CHILD_CHECK(write(1, &large, 8) == 8);
	CHILD_CHECK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK) == 2);
	CHILD_CHECK(timerfd_settime(2, 0, &periodic, NULL) == 0);
	CHILD_CHECK(timerfd_create(CLOCK_BOOTTIME, 0) == 3);
	CHILD_CHECK(timerfd_settime(3, 0, &far, NULL) == 0);
	CHILD_CHECK(timerfd_create(CLOCK_REALTIME, 0) == 4);
	clock_gettime(CLOCK_REALTIME, &wall.it_value);
	wall.it_value.tv_sec += 500;
	CHILD_CHECK(timerfd_settime(4, TFD_TIMER_ABSTIME, &wall, NULL) == 0);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 3);
	CHILD_CHECK(signalfd(-1, &mask, SFD_NONBLOCK) == 5);
	CHILD_CHECK(inotify_init1(IN_NONBLOCK) == 6);
	join(path, sizeof(path), directory, "watched");
	CHILD_CHECK(mkdir(path, 0700) == 0);
	CHILD_CHECK(inotify_add_watch(6, path, IN_CREATE) == 1);
	CHILD_CHECK(inotify_rm_watch(6, 1) == 0);
	CHILD_CHECK(inotify_add_watch(6, path, IN_CREATE | IN_DELETE) == 2);
	CHILD_CHECK(inotify_add_watch(6, directory, IN_MODIFY | IN_CREATE) == 3);
	CHILD_CHECK(memfd_create("shared thing", 0) == 7);
	CHILD_CHECK(write(7, "abc", 3) == 3);
	usleep(30000);
}

static void check_timers(const struct move *move)
{
	struct itimerspec setting;
	uint64_t ticks = 0;
	int fd = move_fd(move, 2);

	assert_int_equal(read(fd, &ticks, 8), 8);
	assert_in_range(ticks, 2, 1000);
	assert_int_equal(timerfd_gettime(fd, &setting), 0);
	assert_int_equal(setting.it_interval.tv_nsec, 20000000);
	assert_true(setting.it_value.tv_nsec <= 20000000);
	close(fd);
	fd = move_fd(move, 3);
	assert_int_equal(timerfd_gettime(fd, &setting), 0);
	assert_in_range(setting.it_value.tv_sec, 990, 1000);
	close(fd);
	fd = move_fd(move, 4);
	assert_int_equal(timerfd_gettime(fd, &setting), 0);
	assert_in_range(setting.it_value.tv_sec, 490, 500);
	close(fd);
}

static void check_inotify(const struct move *move)
{
	union {
		struct inotify_event event;
		char bytes[1024];
	} data;
	char path[128];
	int fd = move_fd(move, 6), file;

	/* An event waited in it. */
	assert_int_equal(read(fd, &data, sizeof(data)), sizeof(data.event));
	assert_int_equal(data.event.mask, IN_Q_OVERFLOW);
	assert_int_equal(read(fd, &data, sizeof(data)), -1);
	assert_int_equal(errno, EAGAIN);
	join(path, sizeof(path), move->directory, "watched/new");
	file = open(path, O_WRONLY | O_CREAT, 0600);
	close(file);
	assert_true(read(fd, &data, sizeof(data)) > 0);
	assert_int_equal(data.event.wd, 2);
	assert_int_equal(data.event.mask, IN_CREATE);
	join(path, sizeof(path), move->directory, "other");
	file = open(path, O_WRONLY | O_CREAT, 0600);
	close(file);
	assert_true(read(fd, &data, sizeof(data)) > 0);
	assert_int_equal(data.event.wd, 3);
	close(fd);
}

static void test_small(void **state)
{
	struct move move;
	uint64_t value = 0;
	int fd;

	move_all(&move, setup_small);
	fd = move_fd(&move, 0);
	assert_int_equal(read(fd, &value, 8), 8);
	assert_int_equal(value, 1);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	assert_true(move_cloexec(&move, 1));
	fd = move_fd(&move, 1);
	assert_int_equal(read(fd, &value, 8), 8);
	assert_int_equal(value, UINT64_C(0x123456789abc));
	close(fd);
	check_timers(&move);
	check_inotify(&move);
	fd = move_fd(&move, 7);
	assert_int_equal(lseek(fd, 0, SEEK_CUR), 3);
	assert_int_equal(lseek(fd, 0, SEEK_END), 3);
	close(fd);
	move_end(&move);
}

/* ---- epoll */

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	CHILD_CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

static void setup_epoll(const char *directory)
{
	struct epoll_event event;
	int ends[2];

	CHILD_CHECK(epoll_create1(EPOLL_CLOEXEC) == 0);
	CHILD_CHECK(eventfd(0, EFD_NONBLOCK) == 1);
	CHILD_CHECK(eventfd(1, EFD_NONBLOCK) == 2);
	add(0, 1, EPOLLIN | EPOLLET, 0x1111111122222222);
	CHILD_CHECK(pipe(ends) == 0); /* 3, 4 */
	add(0, 3, EPOLLIN | EPOLLRDHUP, 33);
	/* Disarmed by an event that was taken. */
	add(0, 2, EPOLLIN | EPOLLONESHOT, 22);
	CHILD_CHECK(epoll_wait(0, &event, 1, 0) == 1 && event.data.u64 == 22);
	/*
	 * Added under a number that stands for nothing, and under one that stands for something
	 * else by now.
	 */
	CHILD_CHECK(eventfd(0, EFD_NONBLOCK) == 5);
	CHILD_CHECK(dup2(5, 50) == 50);
	add(0, 50, EPOLLIN, 50);
	CHILD_CHECK(close(50) == 0);
	CHILD_CHECK(eventfd(0, EFD_NONBLOCK) == 6);
	CHILD_CHECK(dup2(6, 7) == 7);
	add(0, 7, EPOLLIN, 77);
	CHILD_CHECK(dup2(1, 7) == 7);
	/* Nested. */
	CHILD_CHECK(epoll_create1(0) == 8);
	add(8, 0, EPOLLIN, 88);
}

static uint64_t next_event(int epoll, uint32_t *ret_events)
{
	struct epoll_event event;

	if (epoll_wait(epoll, &event, 1, 0) != 1)
		return 0;
	*ret_events = event.events;
	return event.data.u64;
}

static void test_epoll(void **state)
{
	const uint64_t one = 1;
	struct move move;
	uint32_t events = 0;
	uint64_t value;
	int epoll, outer, fd;

	move_all(&move, setup_epoll);
	epoll = move_fd(&move, 0);
	outer = move_fd(&move, 8);
	assert_int_equal(next_event(epoll, &events), 0);
	assert_int_equal(next_event(outer, &events), 0);
	fd = move_fd(&move, 1);
	assert_int_equal(write(fd, &one, 8), 8);
	assert_int_equal(next_event(outer, &events), 88);
	assert_int_equal(next_event(epoll, &events), 0x1111111122222222);
	assert_int_equal(next_event(epoll, &events), 0); /* edge-triggered */
	close(fd);
	fd = move_fd(&move, 5);
	assert_int_equal(write(fd, &one, 8), 8);
	assert_int_equal(next_event(epoll, &events), 50);
	assert_int_equal(read(fd, &value, 8), 8);
	close(fd);
	fd = move_fd(&move, 6);
	assert_int_equal(write(fd, &one, 8), 8);
	assert_int_equal(next_event(epoll, &events), 77);
	assert_int_equal(read(fd, &value, 8), 8);
	close(fd);
	fd = move_fd(&move, 4);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(next_event(epoll, &events), 33);
	close(fd);
	assert_int_equal(move_fd(&move, 50), -1);
	assert_true(move_cloexec(&move, 0));
	close(epoll);
	close(outer);
	move_end(&move);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_epoll),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
