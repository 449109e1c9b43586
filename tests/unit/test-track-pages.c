/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the pagemap-scan tracker reports for each kind of page and each change of the layout. */
#include "test-track-child.h"

#include "util/array.h"

#define SIZE      (64 * PAGE)
#define CONTENT   (TRACK_WRITTEN | TRACK_PRESENT)
#define GUARD_ON  102
#define GUARD_OFF 103

static int setup(void **state)
{
	static struct child child;

	child = child_start();
	child_track(&child);
	*state = &child;
	return 0;
}

static int teardown(void **state)
{
	child_end(*state);
	return 0;
}

/* A mapping with all pages written and protected. */
static uint64_t clean_mapping(struct child *child, uint64_t size)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(child, do_map, 0, size, 0);

	child_call(child, do_write, at, size / PAGE, 1);
	child_round(child, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), size / PAGE);
	child_round(child, at, size, &runs);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
	return at;
}

static void test_written_exactly(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = clean_mapping(*state, SIZE);

	child_call(*state, do_write, at + 3 * PAGE, 5, 7);
	child_call(*state, do_read, at, SIZE / PAGE, 1);
	child_scan(*state, at, SIZE, 0, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 5);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 5);
	for (uint64_t i = 0; i < 5; i++)
		assert_page(&runs, at + (3 + 7 * i) * PAGE, CONTENT);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 0);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), SIZE / PAGE);
	assert_int_equal(track_runs_pages(&runs, TRACK_WRITTEN), 0);
	track_runs_deinit(&runs);
}

/* More runs than fit into one call of the kernel. */
static void test_many_runs(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t pages = 20000, at = clean_mapping(*state, pages * PAGE);

	child_call(*state, do_write, at, pages / 2, 2);
	child_round(*state, at, pages * PAGE, &runs);
	assert_int_equal(runs.count, pages / 2);
	assert_int_equal(track_runs_pages(&runs, CONTENT), pages / 2);
	child_round(*state, at, pages * PAGE, &runs);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
}

static void test_zero_pages(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);

	child_call(*state, do_read, at, 4, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.items[0].pages, 4);
	assert_page(&runs, at, CONTENT | TRACK_ZERO);
	child_call(*state, do_write, at + PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at + PAGE, CONTENT);
	track_runs_deinit(&runs);
}

/* What was dropped is in no list of what is there, however much of it at once, and comes back as written. */
static void test_dropped(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t size = 4096 * PAGE, at = clean_mapping(*state, size);

	child_call(*state, do_madvise, at + 5 * PAGE, 3 * PAGE, MADV_DONTNEED);
	child_round(*state, at, size, &runs);
	assert_int_equal(runs.count, 0);
	child_present(*state, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), 4096 - 3);
	assert_page(&runs, at + 4 * PAGE, TRACK_PRESENT);
	assert_page(&runs, at + 5 * PAGE, 0);
	child_absent(*state, at, size, &runs);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.items[0].start, at + 5 * PAGE);
	assert_int_equal(runs.items[0].pages, 3);
	child_call(*state, do_read, at + 6 * PAGE, 1, 1);
	child_scan(*state, at, size, TRACK_ALL, &runs);
	assert_page(&runs, at + 6 * PAGE, CONTENT | TRACK_ZERO);
	assert_page(&runs, at + 5 * PAGE, 0);
	child_call(*state, do_madvise, at, size, MADV_DONTNEED);
	child_round(*state, at, size, &runs);
	assert_int_equal(runs.count, 0);
	child_present(*state, at, size, &runs);
	assert_int_equal(runs.count, 0);
	child_absent(*state, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), size / PAGE);
	child_call(*state, do_write, at + 9 * PAGE, 1, 1);
	child_round(*state, at, size, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at + 9 * PAGE, CONTENT);
	track_runs_deinit(&runs);
}

static void test_mapped_anew(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = clean_mapping(*state, SIZE);

	child_call(*state, do_unmap, at + 8 * PAGE, 16 * PAGE, 0);
	child_call(*state, do_map, at + 8 * PAGE, 16 * PAGE, 0);
	child_call(*state, do_write, at + 8 * PAGE, 4, 1);
	/* Without an update the new mapping is left out ... */
	child_scan(*state, at, SIZE, TRACK_PROTECT, &runs);
	assert_int_equal(runs.count, 0);
	/* ... and with it all of it is written. */
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_int_equal(runs.items[0].start, at + 8 * PAGE);
	assert_int_equal(runs.items[0].pages, 4);
	child_call(*state, do_write, at + 9 * PAGE, 1, 1);
	child_call(*state, do_write, at, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 2);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), 64 - 16 + 4);
	track_runs_deinit(&runs);
}

static uint64_t do_move(uint64_t at, uint64_t old_size, uint64_t new_size)
{
	uint64_t to = do_map(0, new_size, 0);

	return (uint64_t)(uintptr_t)mremap((void *)at, old_size, new_size, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to);
}

static void test_moved(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = clean_mapping(*state, SIZE);
	uint64_t to = child_call(*state, do_move, at, SIZE, 2 * SIZE);

	assert_int_not_equal(at, to);
	child_call(*state, do_write, to + SIZE, 1, 1);
	child_round(*state, to, 2 * SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), SIZE / PAGE + 1);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_int_equal(runs.count, 0);
	child_call(*state, do_write, to + 2 * PAGE, 1, 1);
	child_round(*state, to, 2 * SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, to + 2 * PAGE, CONTENT);
	track_runs_deinit(&runs);
}

static uint64_t do_map_huge(uint64_t size, uint64_t b, uint64_t c)
{
	uint64_t at = (uint64_t)(uintptr_t)mmap(NULL, size + (2 << 20), PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)b, (void)c;
	at = (at + (2 << 20) - 1) & ~(uint64_t)((2 << 20) - 1);
	madvise((void *)at, size, MADV_HUGEPAGE);
	return at;
}

static void test_huge_pages(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t size = 8 << 20, at = child_call(*state, do_map_huge, size, 0, 0);

	child_call(*state, do_write, at, 4, 512);
	child_round(*state, at, size, &runs);
	if (!(runs_flags(&runs, at) & TRACK_HUGE)) {
		print_message("no transparent huge pages here\n");
		track_runs_deinit(&runs);
		skip();
	}
	assert_int_equal(track_runs_pages(&runs, CONTENT), size / PAGE);
	child_round(*state, at, size, &runs);
	assert_int_equal(runs.count, 0);
	child_call(*state, do_write, at + 700 * PAGE, 1, 1);
	/* A range that ends inside a huge page. */
	child_round(*state, at + 600 * PAGE, 200 * PAGE, &runs);
	assert_int_equal(runs_flags(&runs, at + 700 * PAGE) & CONTENT, CONTENT);
	child_call(*state, do_write, at + 1030 * PAGE, 1, 1);
	child_call(*state, do_madvise, at, 2 << 20, MADV_DONTNEED);
	child_round(*state, at, size, &runs);
	assert_int_equal(runs_flags(&runs, at + 1030 * PAGE) & CONTENT, CONTENT);
	child_present(*state, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), size / PAGE - 512);
	track_runs_deinit(&runs);
}

static uint64_t do_fork(uint64_t at, uint64_t pages, uint64_t c)
{
	pid_t pid = fork();

	(void)c;
	if (pid == 0) {
		do_write(at, pages, 1);
		pause();
	}
	usleep(20000);
	return (uint64_t)pid;
}

/* The tracked process forks: its child is not held up, and its own writes (copies now) are still seen. */
static void test_fork(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = clean_mapping(*state, SIZE);
	pid_t pid = (pid_t)child_call(*state, do_fork, at, SIZE / PAGE, 0);
	struct child other = child_start();

	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 0);
	child_call(*state, do_write, at + 2 * PAGE, 3, 2);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 3);
	kill(pid, SIGKILL);
	child_end(&other);
	track_runs_deinit(&runs);
}

static void test_protections(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map, 0, SIZE, 0);

	child_call(*state, do_write, at, 4, 1);
	child_call(*state, do_protect, at, 2 * PAGE, PROT_NONE);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 4);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 0);
	child_present(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), 4);
	child_call(*state, do_protect, at, 4 * PAGE, PROT_READ);
	child_call(*state, do_protect, at, 4 * PAGE, PROT_READ | PROT_WRITE);
	child_call(*state, do_write, at + PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at + PAGE, CONTENT);
	track_runs_deinit(&runs);
}

static void test_guard_pages(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = clean_mapping(*state, SIZE);

	if (child_call(*state, do_madvise, at + 4 * PAGE, 2 * PAGE, GUARD_ON)) {
		print_message("the kernel has no MADV_GUARD_INSTALL\n");
		skip();
	}
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_GUARD | TRACK_WRITTEN), 2);
	child_present(*state, at, SIZE, &runs);
	assert_page(&runs, at + 4 * PAGE, TRACK_GUARD);
	assert_page(&runs, at + 5 * PAGE, TRACK_GUARD);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), SIZE / PAGE - 2);
	child_absent(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 0);
	child_call(*state, do_madvise, at + 4 * PAGE, PAGE, GUARD_OFF);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_page(&runs, at + 4 * PAGE, 0);
	child_call(*state, do_write, at + 4 * PAGE, 1, 1);
	child_scan(*state, at, SIZE, TRACK_ALL, &runs);
	assert_page(&runs, at + 4 * PAGE, CONTENT);
	track_runs_deinit(&runs);
}

static uint64_t do_map_file(uint64_t size, uint64_t b, uint64_t c)
{
	char name[] = "/var/tmp/test-track-XXXXXX";
	int fd = mkstemp(name);
	void *at = MAP_FAILED;

	(void)b, (void)c;
	unlink(name);
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	return (uint64_t)(uintptr_t)at;
}

static void test_private_file(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map_file, SIZE, 0, 0);

	child_call(*state, do_read, at, 1, 1);
	child_call(*state, do_write, at + 4 * PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs_flags(&runs, at), CONTENT | TRACK_FILE);
	assert_int_equal(runs_flags(&runs, at + 4 * PAGE), CONTENT);
	child_call(*state, do_write, at, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at, CONTENT);
	/* The copy goes, the file shows again; a marker that the kernel leaves is no content. */
	child_call(*state, do_madvise, at, PAGE, MADV_DONTNEED);
	child_present(*state, at, SIZE, &runs);
	assert_page(&runs, at, 0);
	assert_page(&runs, at + 4 * PAGE, TRACK_PRESENT);
	child_absent(*state, at, SIZE, &runs);
	assert_int_equal(runs.items[0].start, at);
	track_runs_deinit(&runs);
}

static uint64_t do_map_memfd(uint64_t size, uint64_t b, uint64_t c)
{
	int fd = memfd_create("test-track", MFD_CLOEXEC);
	void *at = MAP_FAILED;

	(void)b, (void)c;
	if (fd >= 0 && ftruncate(fd, (off_t)size) == 0)
		at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return (uint64_t)(uintptr_t)at;
}

static void test_shared_memory(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map_memfd, SIZE, 0, 0);

	child_call(*state, do_write, at, 4, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT | TRACK_FILE), 4);
	child_call(*state, do_write, at + PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_int_equal(runs.count, 1);
	assert_page(&runs, at + PAGE, CONTENT | TRACK_FILE);
	/* Out of the page tables and in again: still protected, the next write is seen. */
	child_call(*state, do_madvise, at, SIZE, MADV_DONTNEED);
	child_call(*state, do_write, at + 2 * PAGE, 1, 1);
	child_round(*state, at, SIZE, &runs);
	assert_page(&runs, at + 2 * PAGE, CONTENT | TRACK_FILE);
	track_runs_deinit(&runs);
}

static uint64_t do_map_shared_file(uint64_t flags, uint64_t b, uint64_t c)
{
	int fd = open("/proc/self/exe", (int)flags | O_CLOEXEC);
	void *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	(void)b, (void)c;
	close(fd);
	return (uint64_t)(uintptr_t)at;
}

/* Shared mappings of files are not touched, and not complained about. */
static void test_shared_file(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at = child_call(*state, do_map_shared_file, O_RDONLY, 0, 0);

	child_update(*state);
	assert_int_equal(track_untracked(((struct child *)*state)->track)->count, 0);
	child_present(*state, at, PAGE, &runs);
	track_runs_deinit(&runs);
}

static uint64_t do_own_userfaultfd(uint64_t at, uint64_t size, uint64_t c)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register request = { .range = { at, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)do_userfaultfd(0, 0, 0);

	(void)c;
	if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &request) < 0)
		return (uint64_t)-1;
	return (uint64_t)fd;
}

static void test_own_userfaultfd(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	uint64_t at = child_call(child, do_map, 0, SIZE, 0);
	const struct track_ranges *untracked;

	child_call(child, do_write, at, SIZE / PAGE, 1);
	assert_true((int64_t)child_call(child, do_own_userfaultfd, at + 8 * PAGE, 8 * PAGE, 0) >= 0);
	child_round(child, at, SIZE, &runs);
	untracked = track_untracked(child->track);
	assert_int_equal(untracked->count, 1);
	assert_int_equal(untracked->items[0].start, at + 8 * PAGE);
	assert_int_equal(untracked->items[0].end, at + 16 * PAGE);
	assert_int_equal(untracked->items[0].code, -EBUSY);
	assert_int_equal(track_runs_pages(&runs, CONTENT), SIZE / PAGE - 8);
	/* The last round has it whole. */
	child_scan(child, at, SIZE, TRACK_ALL, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), SIZE / PAGE);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 8);
	assert_page(&runs, at + 8 * PAGE, CONTENT);
	child_scan(child, at + 10 * PAGE, 2 * PAGE, 0, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 2);
	track_runs_deinit(&runs);
}

static uint64_t do_grow_heap(uint64_t size, uint64_t b, uint64_t c)
{
	uint64_t at = (uint64_t)(uintptr_t)sbrk((intptr_t)size);

	(void)b, (void)c;
	memset((void *)at, 1, size);
	return at;
}

static uint64_t do_grow_stack(uint64_t size, uint64_t b, uint64_t c)
{
	volatile uint8_t *deep = __builtin_alloca(size);

	(void)b, (void)c;
	for (uint64_t i = size; i > 0; i -= PAGE)
		deep[i - PAGE] = 1;
	return (uint64_t)(uintptr_t)deep & ~(PAGE - 1);
}

static void test_heap_and_stack_grow(void **state)
{
	struct track_runs runs = { 0 };
	uint64_t at;

	child_call(*state, do_grow_heap, 4 * PAGE, 0, 0);
	child_update(*state);
	at = child_call(*state, do_grow_heap, 32 * PAGE, 0, 0);
	at = (at + PAGE - 1) & ~(PAGE - 1);
	child_round(*state, at, 31 * PAGE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 31);
	child_round(*state, at, 31 * PAGE, &runs);
	assert_int_equal(runs.count, 0);
	at = child_call(*state, do_grow_stack, 400 * PAGE, 0, 0);
	child_round(*state, at + PAGE, 300 * PAGE, &runs);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 300);
	track_runs_deinit(&runs);
}

static unsigned long page_tables_kib(pid_t pid)
{
	char value[64];

	assert_int_equal(procfs_read_status(pid, "VmPTE", value, sizeof(value), NULL), 0);
	return strtoul(value, NULL, 10);
}

static void test_sparse(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };
	uint64_t size = UINT64_C(64) << 30;
	uint64_t at = child_call(child, do_map, 0, size, MAP_NORESERVE);
	unsigned long before;
	int64_t start;

	child_call(child, do_write, at + 12345 * PAGE, 64, 262144 - 1);
	before = page_tables_kib(child->pid);
	child_update(child);
	start = clock_now_ns();
	child_scan(child, at, size, TRACK_PROTECT, &runs);
	print_message("64 GiB sparse, 64 pages: first scan %ld us", (long)(clock_now_ns() - start) / 1000);
	assert_int_equal(track_runs_pages(&runs, CONTENT), 64);
	start = clock_now_ns();
	child_scan(child, at, size, TRACK_PROTECT, &runs);
	print_message(", next %ld us\n", (long)(clock_now_ns() - start) / 1000);
	assert_int_equal(runs.count, 0);
	child_present(child, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, TRACK_PRESENT), 64);
	child_absent(child, at, size, &runs);
	assert_int_equal(track_runs_pages(&runs, 0), size / PAGE - 64);
	assert_true(page_tables_kib(child->pid) <= before + 64);
	track_runs_deinit(&runs);
}

static uint64_t do_exec(uint64_t a, uint64_t b, uint64_t c)
{
	(void)a, (void)b, (void)c;
	execl("/bin/sleep", "sleep", "100", NULL);
	return 1;
}

static void wait_for_exec(pid_t pid)
{
	struct procfs_stat stat = { 0 };
	int64_t deadline = clock_deadline(5 * CLOCK_S);

	while (strcmp(stat.comm, "sleep") != 0 && clock_now_ns() < deadline) {
		assert_int_equal(procfs_read_stat(pid, &stat, NULL), 0);
		usleep(1000);
	}
	assert_string_equal(stat.comm, "sleep");
}

static void test_exec(void **state)
{
	struct child *child = *state;
	struct procfs_maps maps = { 0 };
	struct error error = ERROR_INIT;

	child_update(child);
	child_begin(child, do_exec, 0, 0, 0);
	wait_for_exec(child->pid);
	assert_int_equal(procfs_read_maps(child->pid, &maps, NULL), 0);
	assert_int_equal(track_update(child->track, &maps, 0, &error), -ESRCH);
	procfs_maps_deinit(&maps);
}

static void test_bad_ranges(void **state)
{
	struct child *child = *state;
	struct track_runs runs = { 0 };

	assert_int_equal(track_scan(child->track, 1, PAGE, 0, &runs, NULL), -EINVAL);
	assert_int_equal(track_scan(child->track, 2 * PAGE, PAGE, 0, &runs, NULL), -EINVAL);
	assert_int_equal(track_scan(child->track, 0, PAGE, TRACK_PROTECT | TRACK_ALL, &runs, NULL), -EINVAL);
	assert_int_equal(track_scan(child->track, PAGE, PAGE, 0, &runs, NULL), 0);
	/* [vsyscall] */
	assert_int_equal(track_scan(child->track, 0xffffffffff600000, 0xffffffffff601000, 0, &runs, NULL), 0);
	assert_int_equal(runs.count, 0);
	track_runs_deinit(&runs);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_written_exactly), CASE(test_many_runs),     CASE(test_zero_pages),
		CASE(test_dropped),         CASE(test_mapped_anew),   CASE(test_moved),
		CASE(test_huge_pages),      CASE(test_fork),          CASE(test_protections),
		CASE(test_guard_pages),     CASE(test_private_file),  CASE(test_shared_memory),
		CASE(test_shared_file),     CASE(test_own_userfaultfd), CASE(test_heap_and_stack_grow),
		CASE(test_sparse),          CASE(test_exec),          CASE(test_bad_ranges),
	};
	enum track_kind kind;

	if (track_probe(&kind, NULL) < 0 || kind != TRACK_PAGEMAP_SCAN) {
		printf("1..0 # SKIP this kernel has no asynchronous write protection with PAGEMAP_SCAN\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
