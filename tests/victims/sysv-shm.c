/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * System V shared memory of a process and its child: a segment with a key and an odd size, which the child has attached at
 * another address and for reading only; one that is removed but attached, with a part of it unmapped and a part protected;
 * and a small one attached twice, that another user owns. With "unattached": one more, that nobody has attached.
 */
#include "victim.h"

#include <sys/mman.h>
#include <sys/shm.h>

#define SIZE   (300 * VICTIM_PAGE - 100)
#define SECOND (16 * VICTIM_PAGE)

enum { ASK_VERIFY = 1, ASK_BEGIN = 2 };

struct state {
	key_t key;
	int keyed, removed, small;	/* ids */
	unsigned char *keyed_map;	/* of the parent, writable */
	const unsigned char *keyed_child; /* of the child, read-only */
	unsigned char *removed_map;	/* both: pages 0-3 unmapped, 8-11 read-only */
	unsigned char *small_map, *small_again;
	uint64_t generation;
	struct victim_peer child;
};

static uint64_t seed(const struct state *s, int kind)
{
	return s->generation * 10 + (uint64_t)kind;
}

static void write_all(struct state *s)
{
	victim_fill(s->keyed_map, SIZE, seed(s, 1));
	victim_fill(s->removed_map + 4 * VICTIM_PAGE, 4 * VICTIM_PAGE, seed(s, 2));
	victim_fill(s->removed_map + 12 * VICTIM_PAGE, 4 * VICTIM_PAGE, seed(s, 3));
	victim_fill(s->small_map, VICTIM_PAGE, seed(s, 4));
}

/* NULL, or what is wrong in the process that calls. */
static const char *look(const struct state *s, const unsigned char *keyed)
{
	if (victim_differs(keyed, SIZE, seed(s, 1)) >= 0)
		return "the segment with a key has wrong content";
	if (victim_differs(s->removed_map + 4 * VICTIM_PAGE, 4 * VICTIM_PAGE, seed(s, 2)) >= 0 ||
	    victim_differs(s->removed_map + 12 * VICTIM_PAGE, 4 * VICTIM_PAGE, seed(s, 3)) >= 0)
		return "the removed segment has wrong content";
	if (victim_differs(s->removed_map + 8 * VICTIM_PAGE, 4 * VICTIM_PAGE, 8) >= 0)
		return "the protected part of the removed segment has wrong content";
	if (victim_differs(s->small_again, VICTIM_PAGE, seed(s, 4)) >= 0)
		return "the small segment has wrong content at its second place";
	return NULL;
}

static void child_serve(void *context, unsigned char request, char *text, size_t size)
{
	struct state *s = context;
	const char *wrong;

	if (request == ASK_BEGIN) {
		MUST(shmdt(s->keyed_map) == 0);
		s->keyed_child = shmat(s->keyed, NULL, SHM_RDONLY);
		MUST(s->keyed_child != (void *)-1);
		return;
	}
	wrong = look(s, s->keyed_child);
	if (!wrong && mprotect((void *)(uintptr_t)s->keyed_child, VICTIM_PAGE, PROT_READ | PROT_WRITE) == 0)
		wrong = "a segment attached for reading can be made writable";
	snprintf(text, size, "%s", wrong ? wrong : "");
	s->generation++;
}

static void setup(struct state *s)
{
	/* So that the ids are none that a host begins with. */
	for (int i = 0; i < 3; i++)
		MUST(shmctl(shmget(IPC_PRIVATE, 1, 0600), IPC_RMID, NULL) == 0);
	s->key = 0x70610000 | (getpid() & 0xffff);
	s->keyed = shmget(s->key, SIZE, IPC_CREAT | IPC_EXCL | 0640);
	s->removed = shmget(IPC_PRIVATE, SECOND, 0600);
	s->small = shmget(IPC_PRIVATE, 100, 0666);
	MUST(s->keyed >= 0 && s->removed >= 0 && s->small >= 0);
	MUST(shmctl(s->small, IPC_SET, &(struct shmid_ds){ .shm_perm = { .uid = 4711, .gid = 4712, .mode = 0604 } }) == 0);
	s->keyed_map = shmat(s->keyed, NULL, 0);
	s->removed_map = shmat(s->removed, NULL, 0);
	s->small_map = shmat(s->small, NULL, 0);
	s->small_again = shmat(s->small, NULL, SHM_RDONLY);
	MUST(s->keyed_map != (void *)-1 && s->removed_map != (void *)-1 && s->small_map != (void *)-1 &&
	     s->small_again != (void *)-1 && shmctl(s->removed, IPC_RMID, NULL) == 0);
	victim_fill(s->removed_map + 8 * VICTIM_PAGE, 4 * VICTIM_PAGE, 8);
	MUST(munmap(s->removed_map, 4 * VICTIM_PAGE) == 0 &&
	     mprotect(s->removed_map + 8 * VICTIM_PAGE, 4 * VICTIM_PAGE, PROT_READ) == 0);
	write_all(s);
	victim_peer_fork(&s->child, child_serve, s);
}

static bool check_attributes(struct victim *v, const struct state *s)
{
	struct shmid_ds info;

	CHECK(v, shmget(s->key, 0, 0) == s->keyed, "the key leads to segment %d, not %d", shmget(s->key, 0, 0), s->keyed);
	CHECK(v, shmctl(s->keyed, IPC_STAT, &info) == 0, "segment %d: %m", s->keyed);
	CHECK(v, info.shm_segsz == SIZE && (info.shm_perm.mode & 0777) == 0640 && info.shm_nattch == 2,
	      "the segment with a key: %zu bytes, mode %o, attached %lu times", info.shm_segsz, info.shm_perm.mode,
	      (unsigned long)info.shm_nattch);
	CHECK(v, shmctl(s->small, IPC_STAT, &info) == 0, "segment %d: %m", s->small);
	CHECK(v, info.shm_segsz == 100 && info.shm_perm.uid == 4711 && info.shm_perm.gid == 4712 && info.shm_perm.cuid == 0 &&
	      (info.shm_perm.mode & 0777) == 0604 && info.shm_nattch == 4,
	      "the small segment: %zu bytes, owner %u:%u, mode %o, attached %lu times", info.shm_segsz, info.shm_perm.uid,
	      info.shm_perm.gid, info.shm_perm.mode, (unsigned long)info.shm_nattch);
	CHECK(v, shmctl(s->removed, IPC_STAT, &info) == 0 && info.shm_perm.mode & SHM_DEST && info.shm_nattch == 6,
	      "the removed segment is not so any more: mode %o, attached %lu times", info.shm_perm.mode,
	      (unsigned long)info.shm_nattch);
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct state *s = context;
	const char *wrong = look(s, s->keyed_map);
	char perms[5], flags[256];
	void *again;

	if (wrong)
		return victim_fail(v, "parent: %s", wrong);
	if (!check_attributes(v, s))
		return false;
	CHECK(v, victim_mapping(s->removed_map + 8 * VICTIM_PAGE, perms, flags, sizeof(flags)) && strcmp(perms, "r--s") == 0,
	      "the protected part has permissions %.4s", perms);
	CHECK(v, !victim_mapping(s->removed_map, perms, flags, sizeof(flags)), "the unmapped part is mapped");
	if (!victim_peer_ask(v, &s->child, ASK_VERIFY))
		return false;
	/* It is a segment, not just memory: it can be detached, and attached again at that place. */
	CHECK(v, shmdt(s->small_again) == 0, "shmdt: %m");
	again = shmat(s->small, s->small_again, SHM_RDONLY);
	CHECK(v, again == s->small_again, "shmat at its place: %m");
	s->generation++;
	write_all(s);
	return true;
}

int main(int argc, char **argv)
{
	struct state s = { 0 };
	struct victim v;

	victim_start(&v, argc, argv);
	setup(&s);
	MUST(victim_peer_ask(&v, &s.child, ASK_BEGIN));
	if (victim_arg_is(&v, "unattached"))
		MUST(shmget(IPC_PRIVATE, 1, 0600) >= 0);
	victim_run(&v, verify, &s);
}
