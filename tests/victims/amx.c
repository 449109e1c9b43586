/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * AMX: tile configuration and the data of all eight tiles, which make the register state of a
 * thread 11,008 bytes long. A thread loads them, waits in assembler (spinning, or sleeping with the
 * argument "sleep"), and stores them again at a check. Skips where the CPU or the kernel has no
 * AMX.
 */
#include "victim.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* The layout is known to amx-hold.S. */
struct tiles {
	uint64_t pause_sec;	      /* offset 0: timespec of one nanosleep */
	uint64_t pause_nsec;	      /* 8 */
	uint32_t leave;		      /* 16: ends the wait */
	uint32_t sleeping;	      /* 20: nanosleep instead of spinning */
	unsigned char pad[40];	      /* 24 */
	unsigned char config[64];     /* 64: palette 1, 8 tiles of 16 rows of 64 bytes */
	unsigned char config_out[64]; /* 128 */
	unsigned char pad2[64];	      /* 192 */
	unsigned char data[8][1024];  /* 256 */
	unsigned char out[8][1024];   /* 8448 */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct tiles, config) == 64 && offsetof(struct tiles, data) == 256 &&
		       offsetof(struct tiles, out) == 8448,
	       "layout");

void amx_hold(struct tiles *tiles);

struct state {
	struct tiles tiles;
	atomic_uint held;     /* rounds begun */
	atomic_uint done;     /* rounds ended */
	atomic_uint verified; /* rounds that the main thread has looked at */
};

static bool amx_available(void)
{
	unsigned int a, b, c, d;

	if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & (1u << 24)) == 0)
		return false;
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static void *hold(void *context)
{
	struct state *s = context;

	for (unsigned int round = 1;; round++) {
		for (unsigned int i = 0; i < 8; i++)
			victim_fill(s->tiles.data[i], 1024, round * 10 + i);
		memset(s->tiles.out, 0, sizeof(s->tiles.out));
		s->tiles.leave = 0;
		atomic_store(&s->held, round);
		amx_hold(&s->tiles);
		atomic_store(&s->done, round);
		while (atomic_load(&s->verified) != round)
			victim_sleep_us(1000);
	}
	return NULL;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned int round = atomic_load(&s->held);

	*(volatile uint32_t *)&s->tiles.leave = 1;
	CHECK(v, WAIT_FOR(atomic_load(&s->done) == round, 10000),
	      "the thread with the tiles does not run");
	CHECK(v, memcmp(s->tiles.config, s->tiles.config_out, 64) == 0,
	      "the tile configuration has changed");
	for (unsigned int i = 0; i < 8; i++)
		CHECK(v, memcmp(s->tiles.data[i], s->tiles.out[i], 1024) == 0,
		      "tile %u has changed", i);
	atomic_store(&s->verified, round);
	CHECK(v, WAIT_FOR(atomic_load(&s->held) == round + 1, 10000), "the thread does not go on");
	return true;
}

int main(int argc, char **argv)
{
	static struct state s;
	pthread_t thread;
	struct victim v;

	victim_start(&v, argc, argv);
	if (!amx_available())
		victim_skip(&v, "no AMX: neither CPU nor kernel permission for tile data");
	s.tiles.config[0] = 1;
	for (int i = 0; i < 8; i++) {
		s.tiles.config[16 + 2 * i] = 64;
		s.tiles.config[48 + i] = 16;
	}
	s.tiles.sleeping = victim_arg_is(&v, "sleep");
	s.tiles.pause_nsec = 1000000;
	MUST(pthread_create(&thread, NULL, hold, &s) == 0);
	MUST(WAIT_FOR(atomic_load(&s.held) == 1, 5000));
	victim_run(&v, verify, &s);
}
