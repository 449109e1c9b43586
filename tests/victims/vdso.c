/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vDSO: still where the auxiliary vector says, its functions called directly as well as through
 * libc, their clocks in step with the system call's and never behind what was read before.
 */
#include "victim.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define CLOCKS 3
#define SLACK_NS INT64_C(200000000) /* between two reads of one clock on a busy machine */

static const clockid_t clocks[CLOCKS] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};

struct state {
	unsigned long address;				       /* from AT_SYSINFO_EHDR */
	unsigned long maps[2];				       /* begin of [vdso] and of [vvar] */
	int64_t last[CLOCKS];				       /* newest value seen, ns */
	int (*gettime)(clockid_t clock, struct timespec *now); /* the vDSO's own */
	long (*getcpu)(unsigned int *cpu, unsigned int *node, void *unused);
};

static void maps_find(unsigned long ret_begin[2])
{
	static const char *const names[] = {"[vdso]", "[vvar]"};
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");

	ret_begin[0] = ret_begin[1] = 0;
	while (maps != NULL && fgets(line, sizeof(line), maps) != NULL)
		for (int i = 0; i < 2; i++)
			if (strstr(line, names[i]) != NULL)
				ret_begin[i] = strtoul(line, NULL, 16);
	if (maps != NULL)
		fclose(maps);
}

static int64_t nanoseconds(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static bool clocks_check(struct victim *v, struct state *s)
{
	for (int i = 0; i < CLOCKS; i++) {
		struct timespec direct, kernel, libc;

		CHECK(v, s->gettime(clocks[i], &direct) == 0, "clock %d: the vDSO fails",
		      (int)clocks[i]);
		CHECK(v, syscall(SYS_clock_gettime, clocks[i], &kernel) == 0, "clock %d: %m",
		      (int)clocks[i]);
		CHECK(v, clock_gettime(clocks[i], &libc) == 0, "clock %d: %m", (int)clocks[i]);
		CHECK(v, nanoseconds(&direct) >= s->last[i], "clock %d went back by %lld ns",
		      (int)clocks[i], (long long)(s->last[i] - nanoseconds(&direct)));
		CHECK(v,
		      nanoseconds(&libc) >= nanoseconds(&direct) &&
			      nanoseconds(&libc) - nanoseconds(&direct) < SLACK_NS,
		      "clock %d: libc and vDSO differ", (int)clocks[i]);
		CHECK(v, llabs(nanoseconds(&kernel) - nanoseconds(&direct)) < SLACK_NS,
		      "clock %d: vDSO says %lld, system call %lld", (int)clocks[i],
		      (long long)nanoseconds(&direct), (long long)nanoseconds(&kernel));
		s->last[i] = nanoseconds(&libc);
	}
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned long maps[2];
	unsigned int cpu = ~0u;
	struct timeval day;

	maps_find(maps);
	CHECK(v, getauxval(AT_SYSINFO_EHDR) == s->address, "AT_SYSINFO_EHDR has changed");
	CHECK(v, maps[0] == s->maps[0], "[vdso] was at %lx and is at %lx", s->maps[0], maps[0]);
	CHECK(v, maps[1] == s->maps[1], "[vvar] was at %lx and is at %lx", s->maps[1], maps[1]);
	CHECK(v, memcmp((void *)s->address, ELFMAG, SELFMAG) == 0,
	      "no ELF header at the vDSO's address");
	CHECK(v,
	      s->getcpu(&cpu, NULL, NULL) == 0 && cpu < (unsigned int)sysconf(_SC_NPROCESSORS_CONF),
	      "getcpu says %u", cpu);
	CHECK(v,
	      gettimeofday(&day, NULL) == 0 &&
		      llabs((long long)day.tv_sec - (long long)time(NULL)) <= 1,
	      "gettimeofday and time differ");
	return clocks_check(v, s);
}

int main(int argc, char **argv)
{
	struct state s = {0};
	struct victim v;
	void *vdso;

	victim_start(&v, argc, argv);
	s.address = getauxval(AT_SYSINFO_EHDR);
	if (s.address == 0)
		victim_skip(&v, "this kernel gives no vDSO");
	maps_find(s.maps);
	MUST(s.maps[0] == s.address && s.maps[1] != 0);
	vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
	MUST(vdso != NULL);
	*(void **)&s.gettime = dlsym(vdso, "__vdso_clock_gettime");
	*(void **)&s.getcpu = dlsym(vdso, "__vdso_getcpu");
	MUST(s.gettime != NULL && s.getcpu != NULL);
	victim_run(&v, verify, &s);
}
