/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that have ended and that their parent has not waited for yet. Each is a shell, below its parent and in its session
 * like any other (layout.c), that shares its maker's memory instead of having some; when the process groups are there it takes
 * name and user of the zombie and ends with its status. Its parent's shell gets the signal of that, which is taken out again:
 * what was pending is restored with all the rest.
 *
 * What is not as it was: the times that it has used, and whether it wrote a core.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "layout.h"

#define NAME_MAX_LEN 16 /* of prctl(PR_SET_NAME), the NUL included */
#define PAGE         4096

static int call(struct restore_tree *tree, const struct restore_process *process, int64_t *ret, struct error *error, long nr,
		uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	return tracee_thread_call(process->tracee->threads.items[0], tree->deadline, ret, error, nr, a0, a1, a2, a3,
				  UINT64_MAX, 0);
}

/* The name has to be in its memory, which it has from somebody else: a page of it for as long as it takes. */
static int set_name(struct restore_tree *tree, struct restore_process *process, const char *name, struct error *error)
{
	char text[NAME_MAX_LEN] = "";
	int64_t page, result;
	int r;

	strncpy(text, name, sizeof(text) - 1);
	r = call(tree, process, &page, error, SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	if (r < 0)
		return r;
	if (page < 0 && page > -PAGE)
		return error_set_errno(error, (int)page, "no room for the name of PID %d", process->pid);
	r = tracee_process_write(process->tracee, (uint64_t)page, text, sizeof(text), error);
	if (r == 0)
		r = call(tree, process, &result, error, SYS_prctl, PR_SET_NAME, (uint64_t)page, 0, 0);
	if (r == 0)
		r = call(tree, process, &result, error, SYS_munmap, (uint64_t)page, PAGE, 0, 0);
	return r;
}

static int end_zombie(struct restore_tree *tree, struct restore_process *process, const TreeProcess *message,
		      struct error *error)
{
	_cleanup_message_ Core *core = NULL;
	int64_t result = 0;
	int r;

	r = restore_get(tree->images, IMAGE_CORE, message->pid, core, &core, error);
	if (r == 0 && (!core->tc || !image_task_has_ended(core->tc->task_state)))
		return error_set(error, -EPROTO, "PID %u has no memory, and has not ended", message->pid);
	tracee_process_code_moved(process->tracee);
	if (r == 0)
		r = set_name(tree, process, core->tc->comm, error);
	if (r == 0 && message->has_uid && message->uid != getuid())
		r = call(tree, process, &result, error, SYS_setresuid, message->uid, message->uid, message->uid, 0);
	if (r == 0 && result < 0)
		r = error_set_errno(error, (int)result, "PID %u cannot become user %u", message->pid, message->uid);
	if (r == 0)
		r = tracee_process_die(process->tracee, (int)core->tc->exit_code, tree->deadline, error);
	if (r == 0)
		process->tracee = NULL;
	return r;
}

int restore_zombies_end(struct restore_tree *tree, struct error *error)
{
	struct restore_wanted wanted = { 0 };
	int r = 0;

	if (tree->zombies.count == 0)
		return 0;
	r = restore_wanted_read(tree, &wanted, error);
	for (size_t i = 0; r == 0 && i < tree->zombies.count; i++) {
		struct restore_process *process = tree->zombies.items[i];

		r = end_zombie(tree, process, restore_wanted_find(&wanted, process->pid), error);
	}
	restore_wanted_deinit(&wanted);
	return r < 0 ? error_wrap(error, r, "cannot restore a process that has ended") : 0;
}
