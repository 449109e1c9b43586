/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A program that makes, resizes and gives up mappings all the time, while they come to be tracked, never sees a call fail. */
#include "test-track-child.h"

#include "tracee/tracee.h"
#include "util/array.h"

#define ROUNDS    400
#define SLOTS     48
#define PAGES_MAX 16
#define DEADLINE  (20 * CLOCK_S)

struct shared {
	volatile uint64_t stop;  /* set: the child answers */
	volatile uint64_t done;  /* calls */
	volatile uint64_t wrong; /* of them, with an error or a wrong byte behind them */
};

static struct shared *shared;

static int setup(void **state)
{
	static struct child child;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(shared != MAP_FAILED);
	child = child_start();
	child_track(&child);
	*state = &child;
	return 0;
}

static int teardown(void **state)
{
	child_end(*state);
	munmap(shared, sizeof(*shared));
	return 0;
}

static uint64_t next_random(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

struct slot {
	uint8_t *at; /* its first and last byte are the slot's number; NULL: nothing mapped */
	size_t size;
};

static bool resize(struct slot *slot, size_t size, uint8_t number)
{
	uint8_t *at = mremap(slot->at, slot->size, size, MREMAP_MAYMOVE);

	if (at == MAP_FAILED || at[0] != number)
		return false;
	slot->at = at;
	slot->size = size;
	at[size - 1] = number;
	return true;
}

static bool map(struct slot *slot, size_t size, uint8_t number)
{
	slot->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slot->at == MAP_FAILED)
		return false;
	slot->size = size;
	slot->at[0] = slot->at[size - 1] = number;
	return true;
}

static bool unmap(struct slot *slot, uint8_t number)
{
	bool right = slot->at[0] == number && slot->at[slot->size - 1] == number;

	right &= munmap(slot->at, slot->size) == 0;
	slot->at = NULL;
	return right;
}

static uint64_t do_resize(uint64_t a, uint64_t b, uint64_t c)
{
	struct slot slots[SLOTS] = { 0 };
	uint64_t random = 88172645463325252u;

	(void)a, (void)b, (void)c;
	while (!shared->stop) {
		uint8_t number = (uint8_t)(next_random(&random) % SLOTS);
		size_t size = (1 + next_random(&random) % PAGES_MAX) * PAGE;
		struct slot *slot = &slots[number];

		if (!slot->at)
			shared->wrong += !map(slot, size, number);
		else if (next_random(&random) % 4)
			shared->wrong += !resize(slot, size, number);
		else
			shared->wrong += !unmap(slot, number);
		shared->done++;
	}
	return 0;
}

/* As track.h says that a round begins. */
static void update(struct child *child)
{
	struct error error = ERROR_INIT;
	struct tracee_process *process;
	struct procfs_maps maps = { 0 };

	assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
	if (!track_wants_stop(child->track, &maps)) {
		assert_int_equal(track_update(child->track, &maps, 0, &error), 0);
	} else {
		procfs_maps_deinit(&maps);
		if (tracee_process_stop_all(child->pid, NULL, clock_deadline(DEADLINE), &process, &error) < 0)
			fail_msg("%s", error.message);
		assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
		assert_int_equal(track_update(child->track, &maps, TRACK_STOPPED, &error), 0);
		assert_false(track_wants_stop(child->track, &maps));
		tracee_process_release(process);
	}
	procfs_maps_deinit(&maps);
}

static void test_resize(void **state)
{
	int64_t deadline = clock_deadline(DEADLINE);
	struct child *child = *state;

	child_begin(child, do_resize, 0, 0, 0);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t done = shared->done;

		update(child);
		while (shared->done < done + SLOTS)
			assert_true(clock_now_ns() < deadline);
	}
	shared->stop = 1;
	child_answer(child);
	print_message("%lu calls in %d rounds\n", (unsigned long)shared->done, ROUNDS);
	assert_int_equal(shared->wrong, 0);
}

/* What nobody changes does not stop the process in each round. */
static void test_unchanged(void **state)
{
	struct procfs_maps maps = { 0 };
	struct error error = ERROR_INIT;
	struct child *child = *state;
	uint64_t at;

	child_update(child);
	assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
	assert_false(track_wants_stop(child->track, &maps));
	procfs_maps_deinit(&maps);
	at = child_call(child, do_map, 0, 8 * PAGE, 0);
	assert_int_equal(procfs_read_maps(child->pid, &maps, &error), 0);
	assert_true(track_wants_stop(child->track, &maps));
	procfs_maps_deinit(&maps);
	child_call(child, do_unmap, at, 8 * PAGE, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_resize, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unchanged, setup, teardown),
	};
	enum track_kind kind;

	if (track_probe(&kind, NULL) < 0 || kind != TRACK_PAGEMAP_SCAN) {
		printf("1..0 # SKIP this kernel has no asynchronous write protection with PAGEMAP_SCAN\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
