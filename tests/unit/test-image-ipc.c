/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <mqueue.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/ipc.h"
#include "pagestream-core.pb-c.h"
#include "pagestream-ipc.pb-c.h"

#define KEY 4711

/* One of each, as records. */
static struct image_set *make_set(void)
{
	SharedMemory memory = SHARED_MEMORY__INIT;
	IpcDescription desc = IPC_DESCRIPTION__INIT;
	IpcSegment segment = IPC_SEGMENT__INIT;
	IpcSemaphores semaphores = IPC_SEMAPHORES__INIT;
	IpcQueue queue = IPC_QUEUE__INIT;
	PosixQueue named = POSIX_QUEUE__INIT, deleted = POSIX_QUEUE__INIT;
	struct image_set *set;

	assert_int_equal(image_set_new(&set), 0);
	desc.id = 1;
	desc.key = KEY;
	segment.desc = semaphores.desc = queue.desc = &desc;
	assert_int_equal(image_set_add(set, IMAGE_SHARED_MEMORY, 0, &memory.base, NULL), 0); /* anonymous: none of these */
	memory.segment = &segment;
	assert_int_equal(image_set_add(set, IMAGE_SHARED_MEMORY, 0, &memory.base, NULL), 0);
	desc.id = 2;
	assert_int_equal(image_set_add(set, IMAGE_SEMAPHORES, 0, &semaphores.base, NULL), 0);
	desc.id = 3;
	assert_int_equal(image_set_add(set, IMAGE_MESSAGE_QUEUE, 0, &queue.base, NULL), 0);
	named.name = (char *)"/named";
	deleted.name = (char *)"/deleted";
	deleted.deleted = true;
	assert_int_equal(image_set_add(set, IMAGE_MQUEUE, 0, &named.base, NULL), 0);
	assert_int_equal(image_set_add(set, IMAGE_MQUEUE, 0, &deleted.base, NULL), 0);
	return set;
}

static void test_list(void **state)
{
	static const struct image_ipc wanted[] = {
		{ .kind = IMAGE_IPC_SEGMENT, .id = 1, .key = KEY },
		{ .kind = IMAGE_IPC_SET, .id = 2, .key = KEY },
		{ .kind = IMAGE_IPC_QUEUE, .id = 3, .key = KEY },
		{ .kind = IMAGE_IPC_MQUEUE, .name = "/named" },
	};
	const struct image_ipc other = { .kind = IMAGE_IPC_MQUEUE, .name = "/deleted" };
	JournalEntry entry = JOURNAL_ENTRY__INIT;
	struct image_ipcs found = { 0 };
	struct image_set *set = make_set();
	JournalIpc **note = NULL;

	(void)state;
	assert_int_equal(image_ipc_list(set, &found, NULL), 0);
	assert_int_equal(found.list.count, 4);
	assert_int_equal(image_ipc_note(&found, &entry, &note), 0);
	assert_int_equal(entry.n_ipc, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_true(image_ipc_has(&found, &wanted[i]));
		assert_int_equal(entry.ipc[i]->kind, wanted[i].kind);
		assert_int_equal(entry.ipc[i]->id, wanted[i].id);
		assert_int_equal(entry.ipc[i]->key, wanted[i].key);
	}
	assert_string_equal(entry.ipc[3]->name, "/named");
	assert_false(image_ipc_has(&found, &other));
	free(note);
	image_ipcs_deinit(&found);
	image_set_free(set);
}

static bool exists(int segment, int semaphores, int queue)
{
	struct shmid_ds one;
	struct msqid_ds two;

	return shmctl(segment, IPC_STAT, &one) == 0 && semctl(semaphores, 0, GETVAL) >= 0 && msgctl(queue, IPC_STAT, &two) == 0;
}

/* In a namespace of its own: 0, or the number of what is wrong. */
static int remove_all(void)
{
	int segment = shmget(KEY, 100, IPC_CREAT | 0600), semaphores = semget(KEY, 1, IPC_CREAT | 0600);
	int queue = msgget(KEY, IPC_CREAT | 0600), named = mq_open("/named", O_CREAT | O_RDWR, 0600, NULL);
	struct image_ipc objects[] = {
		{ .kind = IMAGE_IPC_SEGMENT, .id = (uint32_t)segment, .key = KEY + 1 },
		{ .kind = IMAGE_IPC_SET, .id = (uint32_t)semaphores, .key = KEY + 1 },
		{ .kind = IMAGE_IPC_QUEUE, .id = (uint32_t)queue, .key = KEY + 1 },
		{ .kind = IMAGE_IPC_MQUEUE, .name = "/other" },
	};

	if (segment < 0 || semaphores < 0 || queue < 0 || named < 0)
		return 1;
	/* Another one that has got the id since. */
	for (size_t i = 0; i < 4; i++)
		image_ipc_remove(&objects[i]);
	if (!exists(segment, semaphores, queue))
		return 2;
	for (size_t i = 0; i < 4; i++) {
		objects[i].key = KEY;
		strcpy(objects[i].name, "/named");
		image_ipc_remove(&objects[i]);
	}
	if (shmget(KEY, 0, 0) >= 0 || semget(KEY, 0, 0) >= 0 || msgget(KEY, 0) >= 0)
		return 3;
	return mq_open("/named", O_RDONLY) < 0 && errno == ENOENT ? 0 : 4;
}

static void test_remove(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(unshare(CLONE_NEWIPC) < 0 ? 77 : remove_all());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("no IPC namespace can be made here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
