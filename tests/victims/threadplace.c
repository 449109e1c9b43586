/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * threadplace DIR: three threads; one has a working directory and a umask of its own (unshare(2) with CLONE_FS), another one
 * those of the main thread, which changes them in each check.
 */
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { OWN, SAME, COUNT };

struct asked {
	_Atomic unsigned number, answered;
	char path[VICTIM_PATH_MAX];
	mode_t mask;
};

static struct asked asked[COUNT];

static mode_t read_mask(void)
{
	mode_t mask = umask(0);

	umask(mask);
	return mask;
}

static void *serve(void *argument)
{
	struct asked *own = argument;

	if (own == &asked[OWN]) {
		MUST(unshare(CLONE_FS) == 0 && chdir("/proc") == 0);
		umask(037);
	}
	for (;;) {
		if (own->answered == own->number) {
			victim_sleep_us(1000);
			continue;
		}
		own->mask = read_mask();
		if (!getcwd(own->path, sizeof(own->path)))
			own->path[0] = '\0';
		own->answered++;
	}
	return NULL;
}

static bool ask(struct victim *v, int who, const char *path, mode_t mask)
{
	asked[who].number++;
	CHECK(v, WAIT_FOR(asked[who].answered == asked[who].number, 5000), "thread %d does not answer", who);
	CHECK(v, strcmp(asked[who].path, path) == 0 && asked[who].mask == mask, "thread %d is in %s with umask %o, not %s, %o",
	      who, asked[who].path, asked[who].mask, path, mask);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	(void)context;
	CHECK(v, ask(v, OWN, "/proc", 037) && ask(v, SAME, "/", 022), "found so");
	CHECK(v, chdir("/sys") == 0, "chdir: %m");
	umask(07);
	CHECK(v, ask(v, OWN, "/proc", 037) && ask(v, SAME, "/sys", 07), "changed so");
	CHECK(v, chdir("/") == 0, "chdir: %m");
	umask(022);
	return true;
}

int main(int argc, char **argv)
{
	struct victim v;
	pthread_t thread;

	victim_start(&v, argc, argv);
	MUST(chdir("/") == 0);
	umask(022);
	for (int i = 0; i < COUNT; i++) {
		MUST(pthread_create(&thread, NULL, serve, &asked[i]) == 0);
		asked[i].number++;
		MUST(WAIT_FOR(asked[i].answered == 1, 5000));
	}
	victim_run(&v, verify, NULL);
}
