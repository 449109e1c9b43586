/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: restore */
/* Shared memory objects on the target, from round to round. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "pagestream-core.pb-c.h"
#include "restore/parts.h"
#include "restore/restore.h"

#define PAGE 4096

static struct error error;

/* A layout with a memfd of that id and size; id 0: with none. */
static void lay_out(struct restore_tree *tree, uint32_t id, uint64_t size)
{
	SharedMemory message = SHARED_MEMORY__INIT;
	struct image_set *images;
	int r = 0;

	message.id = id;
	message.size = size;
	message.memfd = true;
	message.name = (char *)"test";
	message.mode = 0600;
	assert_int_equal(image_set_new(&images), 0);
	if (id)
		assert_int_equal(image_set_add(images, IMAGE_SHARED_MEMORY, 0, &message.base, &error), 0);
	restore_shared_begin(tree);
	r = restore_shared_prepare(tree, images, &error);
	restore_shared_prune(tree);
	image_set_free(images);
	if (r < 0)
		fail_msg("%s", error.message);
}

static int open_object(struct restore_tree *tree, uint32_t id)
{
	int fd = -1;

	assert_int_equal(restore_shared_open(tree, id, O_RDWR, &fd, &error), 0);
	return fd;
}

static void expect_size(int fd, off_t size, blkcnt_t pages)
{
	struct stat info;

	assert_int_equal(fstat(fd, &info), 0);
	assert_int_equal(info.st_size, size);
	assert_int_equal(info.st_blocks * 512 / PAGE, pages);
}

static void test_rounds(void **state)
{
	struct restore_tree tree = { 0 };
	char page[PAGE], found[PAGE];
	int fd;

	memset(page, 'a', sizeof(page));
	lay_out(&tree, 7, 100);
	assert_int_equal(restore_shared_write(&tree, 7, 0, page, PAGE, &error), 0);
	fd = open_object(&tree, 7);
	expect_size(fd, 100, 1); /* what is behind its end is not written */
	assert_int_equal(restore_shared_write(&tree, 7, PAGE, page, PAGE, &error), -EPROTO);
	assert_int_equal(restore_shared_write(&tree, 8, 0, page, PAGE, &error), -ENOENT);
	lay_out(&tree, 7, 3 * PAGE); /* grown: the content stays */
	assert_int_equal(restore_shared_write(&tree, 7, 2 * PAGE, page, PAGE, &error), 0);
	expect_size(fd, 3 * PAGE, 2);
	assert_int_equal(pread(fd, found, PAGE, 0), PAGE);
	assert_memory_equal(found, page, 100);
	assert_int_equal(found[100], 0);
	assert_int_equal(restore_shared_drop(&tree, 7, 2 * PAGE, PAGE, &error), 0);
	expect_size(fd, 3 * PAGE, 1);
	lay_out(&tree, 7, 0);
	expect_size(fd, 0, 0);
	lay_out(&tree, 0, 0);
	assert_int_equal(restore_shared_write(&tree, 7, 0, page, PAGE, &error), -ENOENT);
	close(fd);
	restore_shared_free(tree.shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
