/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Private anonymous memory: every protection, content behind PROT_NONE, code, a huge sparse
 * mapping, dropped pages, and the madvise and mlock flags as /proc/self/smaps shows them. Each
 * check also writes, so that the next one sees what was written since.
 */
#include "victim.h"

#include <sys/mman.h>

#define PLAIN_SIZE (4u << 20)
#define HIDDEN_SIZE (1u << 20)
#define SMALL_SIZE (256u << 10)
#define SPARSE_SIZE (UINT64_C(64) << 30)
#define SPARSE_PAGES 67 /* about one a GiB, at odd places */

/* A mapping that only differs in one advice or lock, and the flag by which smaps shows it. */
struct advised {
	const char *flag; /* two letters of VmFlags */
	int advice;	  /* for madvise(), or -1 */
	bool lock;	  /* mlock2(MLOCK_ONFAULT) */
	bool optional;	  /* kernels may be built without it */
	bool absent;	  /* set up without success: nothing to check */
	unsigned char *at;
};

struct state {
	unsigned char *plain;	  /* rewritten at each check */
	uint64_t generation;	  /* of plain, and of the sparse pages */
	unsigned char *hidden;	  /* content, then PROT_NONE */
	unsigned char *read_only; /* content, then PROT_READ */
	unsigned char *code;	  /* a function that returns CODE_VALUE */
	unsigned char *dropped;	  /* every other page dropped by MADV_DONTNEED */
	unsigned char *sparse;	  /* SPARSE_PAGES pages in 64 GiB */
	struct advised advised[10];
};

#define CODE_VALUE 0x5eed1234

static void *map(size_t size, int protection, int flags)
{
	void *at = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	MUST(at != MAP_FAILED);
	return at;
}

static unsigned char *sparse_page(const struct state *s, unsigned int i)
{
	return s->sparse + (uint64_t)i * 955 * 1024 * 1024 + (uint64_t)i * i * VICTIM_PAGE;
}

static void advised_setup(struct state *s)
{
	static const struct advised wanted[] = {
		{.flag = " dc ", .advice = MADV_DONTFORK},
		{.flag = " nh ", .advice = MADV_NOHUGEPAGE, .optional = true},
		{.flag = " hg ", .advice = MADV_HUGEPAGE, .optional = true},
		{.flag = " dd ", .advice = MADV_DONTDUMP},
		{.flag = " wf ", .advice = MADV_WIPEONFORK},
		{.flag = " rr ", .advice = MADV_RANDOM},
		{.flag = " sr ", .advice = MADV_SEQUENTIAL},
		{.flag = " mg ", .advice = MADV_MERGEABLE, .optional = true},
		{.flag = " lo ", .advice = -1},
		{.flag = " lf ", .advice = -1, .lock = true},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		struct advised *a = &s->advised[i];

		*a = wanted[i];
		/* A page without access on either side keeps the kernel from merging neighbours. */
		a->at = (unsigned char *)map(SMALL_SIZE + 2 * VICTIM_PAGE, PROT_NONE, 0) +
			VICTIM_PAGE;
		MUST(mprotect(a->at, SMALL_SIZE, PROT_READ | PROT_WRITE) == 0);
		if (a->advice >= 0) {
			a->absent = madvise(a->at, SMALL_SIZE, a->advice) < 0;
			MUST(!a->absent || a->optional);
		} else {
			MUST(mlock2(a->at, SMALL_SIZE, a->lock ? MLOCK_ONFAULT : 0) == 0);
		}
		victim_fill(a->at, SMALL_SIZE / 2, 100 + i);
	}
}

static void setup(struct state *s)
{
	unsigned char code[] = {0xb8, 0x34, 0x12,
				0xed, 0x5e, 0xc3}; /* mov $CODE_VALUE, %eax; ret */

	s->plain = map(PLAIN_SIZE, PROT_READ | PROT_WRITE, 0);
	victim_fill(s->plain, PLAIN_SIZE, s->generation);
	s->hidden = map(HIDDEN_SIZE, PROT_READ | PROT_WRITE, 0);
	victim_fill(s->hidden, HIDDEN_SIZE, 2);
	MUST(mprotect(s->hidden, HIDDEN_SIZE, PROT_NONE) == 0);
	s->read_only = map(SMALL_SIZE, PROT_READ | PROT_WRITE, 0);
	victim_fill(s->read_only, SMALL_SIZE, 3);
	MUST(mprotect(s->read_only, SMALL_SIZE, PROT_READ) == 0);
	s->code = map(VICTIM_PAGE, PROT_READ | PROT_WRITE, 0);
	memcpy(s->code, code, sizeof(code));
	MUST(mprotect(s->code, VICTIM_PAGE, PROT_READ | PROT_EXEC) == 0);
	s->dropped = map(SMALL_SIZE, PROT_READ | PROT_WRITE, 0);
	victim_fill(s->dropped, SMALL_SIZE, 4);
	for (size_t at = 0; at < SMALL_SIZE; at += 2 * VICTIM_PAGE)
		MUST(madvise(s->dropped + at, VICTIM_PAGE, MADV_DONTNEED) == 0);
	s->sparse = map(SPARSE_SIZE, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	for (unsigned int i = 0; i < SPARSE_PAGES; i++)
		victim_fill(sparse_page(s, i), VICTIM_PAGE, 1000 + i);
	advised_setup(s);
}

static bool content(struct victim *v, const void *at, size_t size, uint64_t seed, const char *what)
{
	ssize_t wrong = victim_differs(at, size, seed);

	CHECK(v, wrong < 0, "%s: byte %zd is %02x", what, wrong,
	      ((const unsigned char *)at)[wrong]);
	return true;
}

static bool protections(struct victim *v, const struct state *s)
{
	const struct {
		const void *at;
		const char *perms, *what;
	} all[] = {
		{s->plain, "rw-p", "plain"},
		{s->hidden, "---p", "hidden"},
		{s->read_only, "r--p", "read-only"},
		{s->code, "r-xp", "code"},
		{s->sparse, "rw-p", "sparse"},
		{s->sparse + SPARSE_SIZE - 1, "rw-p", "sparse's end"},
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		char perms[5] = "";

		CHECK(v, victim_mapping(all[i].at, perms, NULL, 0), "%s: no mapping", all[i].what);
		CHECK(v, strcmp(perms, all[i].perms) == 0, "%s: %s instead of %s", all[i].what,
		      perms, all[i].perms);
	}
	return true;
}

static bool advices(struct victim *v, struct state *s)
{
	for (size_t i = 0; i < sizeof(s->advised) / sizeof(s->advised[0]); i++) {
		struct advised *a = &s->advised[i];
		char perms[5], flags[256] = "";

		if (!content(v, a->at, SMALL_SIZE / 2, 100 + i, a->flag))
			return false;
		if (a->absent)
			continue;
		CHECK(v, victim_mapping(a->at, perms, flags, sizeof(flags)), "flag%s: no mapping",
		      a->flag);
		/* Kernels without a name for it (6.1) show lock-on-fault as "??". */
		if (a->lock && strstr(flags, " lf ") == NULL && strstr(flags, " ?? ") != NULL)
			continue;
		CHECK(v, strstr(flags, a->flag) != NULL, "flag%sis missing, found%s", a->flag,
		      flags);
	}
	return true;
}

static bool sparse(struct victim *v, struct state *s)
{
	char perms[5], flags[256] = "";

	CHECK(v, victim_mapping(s->sparse, perms, flags, sizeof(flags)), "sparse: no mapping");
	CHECK(v, strstr(flags, " nr ") != NULL, "sparse: not NORESERVE any more,%s", flags);
	for (unsigned int i = 0; i < SPARSE_PAGES; i++) {
		unsigned char *page = sparse_page(s, i);

		if (!content(v, page, VICTIM_PAGE, (s->generation + 1) * 1000 + i, "sparse page"))
			return false;
		for (size_t at = 0; at < VICTIM_PAGE; at++)
			CHECK(v, page[VICTIM_PAGE + at] == 0, "sparse: page after %u is not zero",
			      i);
		victim_fill(page, VICTIM_PAGE, (s->generation + 2) * 1000 + i);
	}
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	unsigned int (*code)(void);

	if (!protections(v, s) || !advices(v, s) || !sparse(v, s))
		return false;
	if (!content(v, s->plain, PLAIN_SIZE, s->generation, "plain") ||
	    !content(v, s->read_only, SMALL_SIZE, 3, "read-only"))
		return false;
	CHECK(v, mprotect(s->hidden, HIDDEN_SIZE, PROT_READ) == 0, "hidden: mprotect: %m");
	if (!content(v, s->hidden, HIDDEN_SIZE, 2, "behind PROT_NONE"))
		return false;
	CHECK(v, mprotect(s->hidden, HIDDEN_SIZE, PROT_NONE) == 0, "hidden: mprotect: %m");
	memcpy(&code, &s->code, sizeof(code));
	CHECK(v, code() == CODE_VALUE, "code returned %x", code());
	for (size_t at = 0; at < SMALL_SIZE; at++)
		CHECK(v, at / VICTIM_PAGE % 2 != 0 || s->dropped[at] == 0,
		      "dropped page: byte %zu not zero", at);
	s->generation++;
	victim_fill(s->plain, PLAIN_SIZE, s->generation);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = {0};
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	victim_run(&v, verify, &s);
}
