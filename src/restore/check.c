/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target's preflight for processes: what the tree needs and this machine, or this program's rights on it, do not give.
 * Goes by the records of dump_preflight(); nothing is made.
 */
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "creds.pb-c.h"
#include "image/host.h"
#include "layout.h"
#include "parts.h"
#include "restore/pty.h"
#include "restore/sysv.h"
#include "util/buffer.h"
#include "util/fdio.h"
#include "util/procfs.h"

#define CHECK_PID_MAX_FILE "/proc/sys/kernel/pid_max"

static const char *const limit_names[RLIM_NLIMITS] = {
	"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
	"memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
};

static bool is_member_of_group(pid_t number)
{
	return kill(-number, 0) == 0 || errno == EPERM;
}

static void check_pid(pid_t pid, long pid_max, bool leads_group, struct image_blockers *blockers)
{
	struct procfs_stat owner;

	if (pid >= pid_max)
		image_blockers_add(blockers, pid, "process", "its PID is over kernel.pid_max of the restoring host",
				   "raise kernel.pid_max there", "number %d", pid);
	else if (procfs_read_stat(pid, &owner, NULL) == 0)
		image_blockers_add(blockers, pid, "process", "its PID is in use on the restoring host",
				   "end that process, or restore in a PID namespace of its own (unshare -fp --mount-proc)",
				   "number %d (%s has it)", pid, owner.comm);
	else if (leads_group && is_member_of_group(pid))
		image_blockers_add(blockers, pid, "process", "a process group or session on the restoring host has its PID",
				   "end the processes of that group there", "number %d", pid);
}

/* Numbers of sessions and groups whose leaders are gone: somebody has to lead them for a moment. */
static void check_lost(const TreeProcess *process, const TreeProcess *root, struct pidmap *seen, long pid_max,
		       struct image_blockers *blockers)
{
	const uint32_t numbers[] = { process->sid, process->pgid };

	for (size_t i = 0; i < 2; i++) {
		/* Those of a shell job have others here. */
		if (pidmap_get(seen, numbers[i]) || (process->sid == root->sid && !root->own_session) ||
		    pidmap_put(seen, numbers[i], seen) < 0)
			continue;
		check_pid((pid_t)numbers[i], pid_max, true, blockers);
	}
}

static int read_pid_max(long *ret, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r = fdio_read_file(-1, CHECK_PID_MAX_FILE, 64, &text);

	if (r < 0)
		return error_set_errno(error, r, "cannot read %s", CHECK_PID_MAX_FILE);
	*ret = strtol((const char *)text.data, NULL, 10);
	return 0;
}

static int check_pids(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct restore_tree tree = { .images = images };
	struct restore_wanted wanted = { 0 };
	struct pidmap seen = { 0 };
	long pid_max = 0;
	int r;

	r = read_pid_max(&pid_max, error);
	if (r == 0)
		r = restore_wanted_read(&tree, &wanted, error);
	array_for_each(process, &wanted.processes)
		for (size_t i = 0; r == 0 && i < (*process)->n_threads; i++) {
			check_pid((pid_t)(*process)->threads[i], pid_max, i == 0, blockers);
			if (pidmap_put(&seen, (*process)->threads[i], &seen) < 0)
				r = error_set(error, -ENOMEM, "out of memory");
		}
	array_for_each(process, &wanted.processes)
		if (r == 0)
			check_lost(*process, wanted.processes.items[0], &seen, pid_max, blockers);
	pidmap_deinit(&seen);
	restore_wanted_deinit(&wanted);
	return r;
}

static bool have_capability(unsigned cap)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2] = { { 0 } };

	return syscall(SYS_capget, &header, sets) == 0 && sets[cap / 32].effective >> (cap % 32) & 1;
}

static void check_limits(pid_t pid, const ProcessExtra *extra, struct image_blockers *blockers)
{
	if (have_capability(CAP_SYS_RESOURCE))
		return;
	for (size_t i = 0; i < extra->n_hard_limits && i < RLIM_NLIMITS; i++) {
		struct rlimit own;

		if (getrlimit((int)i, &own) == 0 && extra->hard_limits[i] > own.rlim_max)
			image_blockers_add(blockers, pid, "limit", "the hard limit of the program that restores is lower "
					   "and may not be raised (no CAP_SYS_RESOURCE)",
					   "start that program with the limit, or with CAP_SYS_RESOURCE",
					   "hard limit %s = %llu, it has %llu", limit_names[i],
					   (unsigned long long)extra->hard_limits[i],
					   (unsigned long long)own.rlim_max);
	}
}

static void check_affinity(pid_t pid, const ProcessExtra *extra, struct image_blockers *blockers)
{
	cpu_set_t own;

	if (sched_getaffinity(0, sizeof(own), &own) < 0)
		return;
	for (size_t i = 0; i < extra->n_affinity; i++) {
		const ProtobufCBinaryData *mask = &extra->affinity[i];
		bool any = false;

		for (size_t cpu = 0; cpu < mask->len * 8 && cpu < CPU_SETSIZE; cpu++)
			any = any || (mask->data[cpu / 8] >> (cpu % 8) & 1 && CPU_ISSET(cpu, &own));
		if (!any)
			image_blockers_add(blockers, pid, "processor", "a thread is bound to CPUs that are not here",
					   "unbind it beforehand (taskset -ap)", "CPU affinity");
	}
}

/* A score below the lowest that this program has had needs CAP_SYS_RESOURCE; a copy that keeps ours is no reason to refuse. */
static void check_oom_score(pid_t pid, const ProcessExtra *extra, struct image_blockers *blockers)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;

	if (!extra->has_oom_score_adj || have_capability(CAP_SYS_RESOURCE) ||
	    fdio_read_file(-1, "/proc/self/oom_score_adj", 64, &text) < 0)
		return;
	if (extra->oom_score_adj < atoi((const char *)text.data))
		image_blockers_note(blockers, pid,
				    "oom_score_adj %d: the copy has %d, as lower ones need CAP_SYS_RESOURCE there",
				    extra->oom_score_adj, atoi((const char *)text.data));
}

static int check_process_extra(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(images, IMAGE_PROCESS_EXTRA, IMAGE_ANY, &cursor))) {
		_cleanup_message_ ProcessExtra *extra = NULL;
		int r = image_unpack(record, process_extra, &extra, error);

		if (r < 0)
			return r;
		check_limits((pid_t)record->id, extra, blockers);
		check_affinity((pid_t)record->id, extra, blockers);
		check_oom_score((pid_t)record->id, extra, blockers);
		if (extra->seccomp && !tracee_seccomp_may_suspend())
			image_blockers_add(blockers, (pid_t)record->id, "process", "its seccomp filter would judge what the "
					   "program that restores makes of it: that one has a filter itself, or lacks "
					   "CAP_SYS_ADMIN", "start it outside of the container, or without its filter",
					   "seccomp");
	}
	return 0;
}

static void check_capability_set(pid_t pid, const char *name, size_t count, const uint32_t *words, uint64_t own,
				 struct image_blockers *blockers)
{
	uint64_t wanted = (count > 0 ? words[0] : 0) | (uint64_t)(count > 1 ? words[1] : 0) << 32;

	if (wanted & ~own)
		image_blockers_add(blockers, pid, "credentials",
				   "the program that restores lacks capabilities that the process has",
				   "start it with all capabilities", "%s capabilities %#llx", name,
				   (unsigned long long)(wanted & ~own));
}

static int check_creds(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	const struct image_record *record;
	struct restore_own_creds own;
	size_t cursor = 0;

	restore_creds_read_own(&own);
	while ((record = image_set_next(images, IMAGE_CREDS, IMAGE_ANY, &cursor))) {
		_cleanup_message_ Creds *creds = NULL;
		int r = image_unpack(record, creds, &creds, error);

		if (r < 0)
			return r;
		check_capability_set((pid_t)record->id, "permitted", creds->n_cap_prm, creds->cap_prm, own.permitted,
				     blockers);
		check_capability_set((pid_t)record->id, "bounding", creds->n_cap_bnd, creds->cap_bnd, own.bounding,
				     blockers);
	}
	return 0;
}

static int check_host(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	_cleanup_message_ Inventory *inventory = NULL;
	struct image_host host;
	int r;

	r = restore_get(images, IMAGE_INVENTORY, 0, inventory, &inventory, error);
	if (r == 0)
		r = image_host_read(&host, error);
	if (r < 0)
		return r;
	if (!inventory->host)
		return error_set(error, -EPROTO, "the inventory lacks the facts of the machine that it is from");
	image_host_compare(inventory->host, &host.message, blockers);
	return 0;
}

int restore_check(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	struct restore_clocks clocks = { .decided = false };
	int r;

	r = check_host(images, blockers, error);
	if (r == 0)
		r = restore_clocks_decide(images, &clocks, blockers, error);
	if (r == 0)
		r = check_pids(images, blockers, error);
	if (r == 0)
		r = check_process_extra(images, blockers, error);
	if (r == 0)
		r = check_creds(images, blockers, error);
	if (r == 0)
		r = restore_sysv_check(images, blockers, error);
	if (r == 0)
		r = restore_aio_check(images, blockers, error);
	if (r == 0)
		r = restore_ptys_check(images, blockers, error);
	return r;
}
