/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump */
/*
 * What is shared with a process outside of the tree is found before the freeze. An outsider sets something up and forks the
 * tree, which inherits it.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "dump/dump.h"

#define SIZE 8192

static void share_anonymous(void)
{
	mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static int open_memfd(void)
{
	int fd = memfd_create("outside", MFD_ALLOW_SEALING);

	(void)!ftruncate(fd, SIZE);
	return fd;
}

static void share_memfd(void)
{
	open_memfd();
}

static void share_mapped_memfd(void)
{
	int fd = open_memfd();

	mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
}

static void share_sealed_memfd(void)
{
	fcntl(open_memfd(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
}

static int open_deleted(int flags)
{
	char path[] = "/tmp/outside-XXXXXX";
	int made = mkstemp(path), fd = open(path, flags);

	(void)!ftruncate(made, SIZE);
	unlink(path);
	close(made);
	return fd;
}

static void share_deleted(void)
{
	open_deleted(O_RDWR);
}

static void share_read_only(void)
{
	open_deleted(O_RDONLY);
}

static void share_library(void)
{
	int fd = open_deleted(O_RDONLY);

	mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
}

static pid_t outsider_start(void (*setup)(void), pid_t *ret_tree)
{
	int fds[2];
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		pid_t tree;

		close(fds[0]);
		setup();
		tree = fork();
		if (tree == 0)
			close(fds[1]);
		else
			(void)!write(fds[1], &tree, sizeof(tree));
		if (tree != 0)
			close(fds[1]);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], ret_tree, sizeof(*ret_tree)), sizeof(*ret_tree));
	close(fds[0]);
	return pid;
}

/* Number of blockers that name the outsider. */
static size_t count_blockers(void (*setup)(void))
{
	static const struct dump_options options = { 0 };
	struct error error = ERROR_INIT;
	struct dump_context *ctx;
	struct image_set *images;
	pid_t tree, outsider = outsider_start(setup, &tree);
	char words[64];
	size_t count = 0;

	snprintf(words, sizeof(words), "PID %d (", outsider);
	assert_int_equal(image_set_new(&images), 0);
	assert_int_equal(dump_context_new(tree, &options, NULL, &ctx, &error), 0);
	if (dump_preflight(ctx, images, &error) < 0)
		fail_msg("preflight: %s", error.message);
	array_for_each(blocker, &ctx->blockers.list)
		count += strstr(blocker->cause, words) && strstr(blocker->cause, "not in the tree");
	dump_context_free(ctx);
	image_set_free(images);
	kill(outsider, SIGKILL);
	waitpid(outsider, NULL, 0);
	kill(tree, SIGKILL);
	return count;
}

static void test_shared_with_an_outsider(void **state)
{
	assert_int_equal(count_blockers(share_anonymous), 1);
	assert_int_equal(count_blockers(share_memfd), 1);
	assert_int_equal(count_blockers(share_mapped_memfd), 1);
	assert_int_equal(count_blockers(share_deleted), 1);
}

static void test_what_never_changes(void **state)
{
	assert_int_equal(count_blockers(share_sealed_memfd), 0);
	assert_int_equal(count_blockers(share_read_only), 0);
	assert_int_equal(count_blockers(share_library), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shared_with_an_outsider),
		cmocka_unit_test(test_what_never_changes),
	};

	if (geteuid() != 0) {
		puts("skipped: looking into other processes needs root");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
