/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump tracee image util proto */
/* What can be the root of a tree, what is a blocker, and what the records of a running process say. Needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above. */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/dump.h"
#include "dump/shared-memory.h"
#include "image/mapping.h"
#include "mm.pb-c.h"
#include "pstree.pb-c.h"
#include "util/procfs.h"

#define PF_KTHREAD 0x00200000U /* flags of /proc/PID/stat */

#define PAGE 4096

static const struct dump_options options = { .tcp_close = false };

/* Runs `setup` in a child without descriptors of ours, and waits until it has been done. */
static pid_t child_start(void (*setup)(void))
{
	int fds[2];
	char done;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		for (int fd = 0; fd < 3; fd++)
			dup2(null, fd);
		setsid();
		if (setup)
			setup();
		(void)!write(fds[1], "x", 1);
		syscall(SYS_close_range, 3u, ~0u, 0);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &done, 1), 1);
	close(fds[0]);
	return pid;
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void expect_refused(pid_t pid, int code, const char *words)
{
	struct dump_context *ctx = NULL;
	struct error error = ERROR_INIT;

	assert_int_equal(dump_context_new(pid, &options, NULL, &ctx, &error), code);
	assert_null(ctx);
	if (!strstr(error.message, words))
		fail_msg("PID %d: '%s' does not say '%s'", pid, error.message, words);
}

static void *sleep_thread(void *argument)
{
	*(pid_t *)argument = (pid_t)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

/* PID 2 is one, but not in a PID namespace of our own, such as a container's. */
static void test_kernel_thread(void **state)
{
	struct procfs_stat stat;

	if (procfs_read_stat(2, &stat, NULL) < 0 || !(stat.flags & PF_KTHREAD)) {
		print_message("no thread of the kernel is visible here\n");
		skip();
	}
	expect_refused(2, -EPERM, "thread of the kernel");
}

static void test_bad_roots(void **state)
{
	volatile pid_t tid = 0;
	pthread_t thread;
	siginfo_t info;
	pid_t pid;

	expect_refused(0, -EINVAL, "no PID");
	expect_refused(1, -EPERM, "init");
	expect_refused(getpid(), -EPERM, "this program itself");
	expect_refused(getppid(), -EPERM, "ancestor");
	expect_refused(4194000, -ESRCH, "no process");
	pid = fork();
	if (pid == 0)
		_exit(0);
	waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
	expect_refused(pid, -ESRCH, "has ended");
	waitpid(pid, NULL, 0);
	assert_int_equal(pthread_create(&thread, NULL, sleep_thread, (void *)&tid), 0);
	while (tid == 0)
		sched_yield();
	expect_refused(tid, -ESRCH, "thread of process");
	pthread_cancel(thread);
	pthread_join(thread, NULL);
}

/* ---- blockers */

static void add_namespace(void)
{
	(void)!unshare(CLONE_NEWUTS);
}

static void add_seccomp(void)
{
	struct sock_filter ask[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				     BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
				     BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { .len = 4, .filter = ask };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void *filtered_thread(void *data)
{
	add_seccomp();
	if (write(*(int *)data, "", 1) == 1)
		for (;;)
			pause();
	return NULL;
}

static void add_seccomp_to_thread(void)
{
	pthread_t thread;
	char byte;
	int fds[2];

	if (pipe(fds) < 0 || pthread_create(&thread, NULL, filtered_thread, &fds[1]) != 0 || read(fds[0], &byte, 1) != 1)
		_exit(1);
}

static int wait_for_ever(void *data)
{
	for (;;)
		pause();
	return 0;
}

/* A child shares the memory of another one, which has left their session. */
static void add_tangled_memory(void)
{
	static char stack[65536];
	int fds[2];
	char byte;

	if (pipe(fds) < 0)
		_exit(1);
	if (fork() == 0) {
		if (clone(wait_for_ever, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL) < 0 || setsid() < 0 ||
		    write(fds[1], "", 1) != 1)
			_exit(1);
		wait_for_ever(NULL);
	}
	if (read(fds[0], &byte, 1) != 1)
		_exit(1);
}

static int wait_for_the_end(void *data)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return wait_for_ever(data);
}

/* A sibling, which is not in the tree. */
static void add_shared_outside(void)
{
	static char stack[65536];

	if (clone(wait_for_the_end, stack + sizeof(stack), CLONE_VM | CLONE_PARENT | SIGCHLD, NULL) < 0)
		_exit(1);
}

/* A thread's descriptor table is its own. */
static void *apart_thread(void *data)
{
	if (unshare(CLONE_FILES) < 0 || write(*(int *)data, "", 1) != 1)
		_exit(1);
	return (void *)(intptr_t)wait_for_ever(NULL);
}

static void add_thread_apart(void)
{
	pthread_t thread;
	char byte;
	int fds[2];

	if (pipe(fds) < 0 || pthread_create(&thread, NULL, apart_thread, &fds[1]) != 0 || read(fds[0], &byte, 1) != 1)
		_exit(1);
}

/* Two children share a table that their parent has left. */
static void add_tangled_table(void)
{
	for (int i = 0; i < 2; i++)
		if (syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) == 0)
			wait_for_ever(NULL);
	(void)!unshare(CLONE_FILES);
}

static void add_device(void)
{
	mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/dev/mem", O_RDONLY), 0);
}

static void expect_blocker(void (*setup)(void), const char *kind, const char *words)
{
	pid_t pid = child_start(setup);
	struct dump_context *ctx;
	struct image_set *images;
	struct error error = ERROR_INIT;
	bool found = false;

	assert_int_equal(image_set_new(&images), 0);
	assert_int_equal(dump_context_new(pid, &options, NULL, &ctx, &error), 0);
	assert_int_equal(dump_preflight(ctx, images, &error), 0);
	array_for_each(blocker, &ctx->blockers.list)
		found = found || (strcmp(blocker->kind, kind) == 0 && strstr(blocker->cause, words));
	if (!found)
		fail_msg("no blocker of kind '%s' with '%s' (there are %zu)", kind, words, ctx->blockers.list.count);
	array_for_each(process, &ctx->processes)
		if ((*process)->pid != pid)
			kill((*process)->pid, SIGKILL);
	dump_context_free(ctx);
	image_set_free(images);
	child_end(pid);
}

static void test_blockers(void **state)
{
	expect_blocker(add_namespace, "namespace", "namespace");
	expect_blocker(add_seccomp, "process", "SECCOMP_RET_USER_NOTIF");
	expect_blocker(add_seccomp_to_thread, "process", "SECCOMP_RET_USER_NOTIF");
	expect_blocker(add_tangled_memory, "process", "did not come from one another");
	expect_blocker(add_shared_outside, "process", "outside of the tree has the same address space");
	expect_blocker(add_thread_apart, "thread", "apart from its process");
	expect_blocker(add_tangled_table, "process", "not parent and child");
	if (access("/dev/mem", R_OK) == 0)
		expect_blocker(add_device, "mapping", "device");
}

/* A process that traces another one until its end. */
static pid_t tracer_start(pid_t pid)
{
	int ends[2];
	pid_t tracer;
	char byte;

	assert_int_equal(pipe(ends), 0);
	tracer = fork();
	if (tracer == 0) {
		if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || write(ends[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_true(tracer > 0);
	close(ends[1]);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	return tracer;
}

static void test_tracer_is_a_blocker(void **state)
{
	pid_t pid = child_start(NULL), tracer = tracer_start(pid);
	struct dump_context *ctx;
	struct image_set *images;
	struct error error = ERROR_INIT;

	assert_int_equal(image_set_new(&images), 0);
	assert_int_equal(dump_context_new(pid, &options, NULL, &ctx, &error), 0);
	assert_int_equal(dump_preflight(ctx, images, &error), 0);
	assert_int_equal(ctx->blockers.list.count, 1);
	assert_non_null(strstr(ctx->blockers.list.items[0].object, "tracer PID"));
	dump_context_free(ctx);
	image_set_free(images);
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	child_end(pid);
}

/* ---- records */

#define PLACE UINT64_C(0x200000000000)

static void map_kinds(void)
{
	char *memory = mmap((void *)PLACE, 16 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);
	int fd = memfd_create("kind", 0);

	memset(memory, 1, 16 * PAGE);
	madvise(memory + 2 * PAGE, 2 * PAGE, MADV_DONTFORK);
	syscall(SYS_mlock, memory + 4 * PAGE, PAGE); /* AddressSanitizer makes mlock() do nothing */
	mprotect(memory + 6 * PAGE, PAGE, PROT_NONE);
	(void)!ftruncate(fd, 4 * PAGE);
	mmap((void *)(PLACE + 32 * PAGE), 4 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	mmap((void *)(PLACE + 48 * PAGE), 4 * PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	close(fd);
}

static const Mapping *mapping_at(const AddressSpace *mm, uint64_t address)
{
	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->start <= address && mm->vmas[i]->end > address)
			return mm->vmas[i];
	fail_msg("no mapping at %llx", (unsigned long long)address);
	return NULL;
}

static void check_mappings(const AddressSpace *mm)
{
	const Mapping *mapping = mapping_at(mm, PLACE);

	assert_int_equal(mapping->start, PLACE);
	assert_int_equal(mapping->end, PLACE + 2 * PAGE);
	assert_int_equal(mapping->status, MAPPING_REGULAR | MAPPING_ANON_PRIVATE);
	assert_int_equal(mapping->flags, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	assert_int_equal(mapping_at(mm, PLACE + 2 * PAGE)->madv, UINT64_C(1) << MADV_DONTFORK);
	assert_true(mapping_at(mm, PLACE + 4 * PAGE)->flags & MAP_LOCKED);
	assert_int_equal(mapping_at(mm, PLACE + 6 * PAGE)->prot, PROT_NONE);
	mapping = mapping_at(mm, PLACE + 32 * PAGE);
	assert_int_equal(mapping->status, MAPPING_REGULAR | MAPPING_ANON_SHARED | MAPPING_MEMFD);
	assert_true(mapping->shmid != 0 && mapping->shmid != mapping_at(mm, PLACE + 48 * PAGE)->shmid);
	mapping = mapping_at(mm, PLACE + 48 * PAGE);
	assert_int_equal(mapping->status, MAPPING_REGULAR | MAPPING_ANON_SHARED);
}

static void test_mappings(void **state)
{
	pid_t pid = child_start(map_kinds);
	struct dump_context *ctx;
	struct error error = ERROR_INIT;

	assert_int_equal(dump_context_new(pid, &options, NULL, &ctx, &error), 0);
	for (int round = 0; round < 2; round++) {
		struct image_set *images;
		AddressSpace *mm = NULL;

		assert_int_equal(image_set_new(&images), 0);
		assert_int_equal(dump_layout(ctx, images, &error), 0);
		assert_int_equal(image_unpack(image_set_find(images, IMAGE_MM, (uint32_t)pid), address_space, &mm,
					      &error),
				 0);
		check_mappings(mm);
		protobuf_c_message_free_unpacked(&mm->base, NULL);
		image_set_free(images);
	}
	assert_int_equal(dump_shared_count(ctx), 2);
	assert_true(image_blockers_empty(&ctx->blockers));
	dump_context_free(ctx);
	child_end(pid);
}

static void fork_group(void)
{
	if (fork() == 0) {
		setpgid(0, 0);
		if (fork() == 0)
			setsid();
		pause();
	}
}

static void test_tree(void **state)
{
	pid_t pid = child_start(fork_group);
	struct dump_context *ctx;
	struct image_set *images;
	const struct image_record *record;
	struct error error = ERROR_INIT;
	uint32_t parent = 0;
	size_t cursor = 0, count = 0;

	assert_int_equal(image_set_new(&images), 0);
	do {
		usleep(1000);
		assert_int_equal(dump_context_new(pid, &options, NULL, &ctx, &error), 0);
		count = ctx->processes.count;
		if (count < 3 || ctx->processes.items[2]->stat.sid != ctx->processes.items[2]->pid) {
			count = 0;
			dump_context_free(ctx);
		}
	} while (count < 3);
	assert_int_equal(dump_layout(ctx, images, &error), 0);
	for (count = 0; (record = image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor)); count++) {
		TreeProcess *process = NULL;

		assert_int_equal(image_unpack(record, tree_process, &process, &error), 0);
		assert_int_equal(process->ppid, parent);
		assert_int_equal(process->n_threads, 1);
		assert_int_equal(process->sid, count == 2 ? process->pid : (uint32_t)pid);
		assert_int_equal(process->pgid, process->pid);
		parent = process->pid;
		protobuf_c_message_free_unpacked(&process->base, NULL);
	}
	assert_int_equal(count, 3);
	for (size_t i = ctx->processes.count; i-- > 1;)
		kill(ctx->processes.items[i]->pid, SIGKILL);
	dump_context_free(ctx);
	image_set_free(images);
	child_end(pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kernel_thread), cmocka_unit_test(test_bad_roots), cmocka_unit_test(test_blockers),
		cmocka_unit_test(test_tracer_is_a_blocker), cmocka_unit_test(test_mappings),
		cmocka_unit_test(test_tree),
	};

	if (geteuid() != 0) {
		puts("skipped: looking into other processes needs root");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
