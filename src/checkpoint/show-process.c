/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process: who it is, its threads, credentials, timers; memory and descriptors are elsewhere. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "core.pb-c.h"
#include "fs.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "show-private.h"

enum { TASK_RUNS = 1, TASK_ENDED = 2, TASK_STOPPED = 3 }; /* CoreProcess.task_state */

static void *find(struct show *show, enum image_type type, uint32_t id, const ProtobufCMessageDescriptor *descriptor)
{
	return show_unpack(show, image_set_find(show->set, type, id), descriptor);
}

static void set_path(struct show *show, json_t *object, const char *name, uint64_t id)
{
	const OpenFile *file = show_file(show, id);

	if (file && file->reg)
		json_object_set_new(object, name, show_text(file->reg->name, strlen(file->reg->name)));
}

static json_t *show_creds(const Creds *creds)
{
	json_t *groups = json_array();
	char caps[20];

	for (size_t i = 0; i < creds->n_groups; i++)
		json_array_append_new(groups, json_integer(creds->groups[i]));
	snprintf(caps, sizeof(caps), "%08x%08x", creds->n_cap_eff > 1 ? creds->cap_eff[1] : 0,
		 creds->n_cap_eff > 0 ? creds->cap_eff[0] : 0);
	return json_pack("{s:I, s:I, s:I, s:I, s:o, s:s}", "uid", (json_int_t)creds->uid, "euid", (json_int_t)creds->euid,
			 "gid", (json_int_t)creds->gid, "egid", (json_int_t)creds->egid, "groups", groups, "capabilities",
			 caps);
}

/* ---- threads */

static json_t *show_thread(struct show *show, uint32_t tid)
{
	_cleanup_message_ Core *core = find(show, IMAGE_CORE, tid, &core__descriptor);
	_cleanup_message_ ThreadExtra *extra = find(show, IMAGE_THREAD_EXTRA, tid, &thread_extra__descriptor);
	json_t *object = json_pack("{s:I}", "tid", (json_int_t)tid);
	const CoreThread *thread = core ? core->thread_core : NULL;
	const char *name = thread && thread->comm ? thread->comm : core && core->tc ? core->tc->comm : NULL;

	if (name)
		json_object_set_new(object, "name", show_text(name, strlen(name)));
	if (core && core->thread_info) {
		json_object_set_new(object, "ip", show_address(core->thread_info->gpregs->ip));
		json_object_set_new(object, "sp", show_address(core->thread_info->gpregs->sp));
	}
	if (thread) {
		json_object_set_new(object, "blocked_signals", show_address(thread->blk_sigset));
		json_object_set_new(object, "nice", json_integer(thread->sched_nice));
		json_object_set_new(object, "pending_signals",
				    show_number(thread->signals_p ? thread->signals_p->n_signals : 0));
	}
	if (thread && thread->creds)
		json_object_set_new(object, "credentials", show_creds(thread->creds));
	if (extra)
		json_object_set_new(object, "no_new_privs", json_boolean(extra->no_new_privs));
	return object;
}

static json_t *show_threads(struct show *show, const TreeProcess *process)
{
	json_t *list = json_array();

	for (size_t i = 0; i < process->n_threads; i++)
		json_array_append_new(list, show_thread(show, process->threads[i]));
	return list;
}

/* ---- timers */

static void add_timer(json_t *list, const char *kind, double left, double interval, uint32_t signal, int64_t id)
{
	json_t *object;

	if (left == 0 && id < 0) /* not armed */
		return;
	object = json_pack("{s:s, s:f, s:f, s:I}", "kind", kind, "left_seconds", left, "interval_seconds", interval, "signal",
			   (json_int_t)signal);
	if (id >= 0)
		json_object_set_new(object, "id", json_integer(id));
	json_array_append_new(list, object);
}

static void add_interval(json_t *list, const char *kind, const IntervalTimer *timer, uint32_t signal)
{
	add_timer(list, kind, (double)timer->vsec + (double)timer->vusec / 1e6,
		  (double)timer->isec + (double)timer->iusec / 1e6, signal, -1);
}

static json_t *show_timers(const ProcessTimers *timers)
{
	json_t *list = json_array();

	if (!timers)
		return list;
	add_interval(list, "real", timers->real, SIGALRM);
	add_interval(list, "virtual", timers->virt, SIGVTALRM);
	add_interval(list, "profiling", timers->prof, SIGPROF);
	for (size_t i = 0; i < timers->n_posix; i++) {
		const PosixTimer *timer = timers->posix[i];

		add_timer(list, "posix", (double)timer->vsec + (double)timer->vnsec / 1e9,
			  (double)timer->isec + (double)timer->insec / 1e9, timer->si_signo, timer->it_id);
	}
	return list;
}

/* ---- processes */

static void add_state(struct show *show, const Core *core, uint32_t pid, json_t *object)
{
	_cleanup_message_ ProcessExtra *extra = find(show, IMAGE_PROCESS_EXTRA, pid, &process_extra__descriptor);
	uint32_t state = core->tc->task_state;

	json_object_set_new(object, "name", show_text(core->tc->comm, strlen(core->tc->comm)));
	json_object_set_new(object, "state", json_string(state == TASK_RUNS ? "running" : state == TASK_STOPPED ? "stopped" :
							 state == TASK_ENDED ? "ended" : "unknown"));
	if (extra && extra->stop_signal)
		json_object_set_new(object, "stop_signal", show_number(extra->stop_signal));
	json_object_set_new(object, "timers", show_timers(core->tc->timers));
}

static void add_paths(struct show *show, uint32_t pid, json_t *object)
{
	_cleanup_message_ AddressSpace *mm = find(show, IMAGE_MM, pid, &address_space__descriptor);
	_cleanup_message_ Fs *fs = find(show, IMAGE_FS, pid, &fs__descriptor);

	if (mm)
		set_path(show, object, "program", mm->exe_file_id);
	if (!fs)
		return;
	set_path(show, object, "directory", fs->cwd_id);
	set_path(show, object, "root", fs->root_id);
	if (fs->has_umask)
		json_object_set_new(object, "umask", show_number(fs->umask));
}

static json_t *show_process(struct show *show, const TreeProcess *process)
{
	_cleanup_message_ Core *core = find(show, IMAGE_CORE, process->pid, &core__descriptor);
	_cleanup_message_ ObjectIds *ids = find(show, IMAGE_IDS, process->pid, &object_ids__descriptor);
	json_t *object = json_pack("{s:I, s:I, s:I, s:I}", "pid", (json_int_t)process->pid, "parent", (json_int_t)process->ppid,
				   "group", (json_int_t)process->pgid, "session", (json_int_t)process->sid);
	uint32_t files_id = process->pid;

	if (core && core->tc)
		add_state(show, core, process->pid, object);
	if (core && core->thread_core && core->thread_core->creds)
		json_object_set_new(object, "credentials", show_creds(core->thread_core->creds));
	add_paths(show, process->pid, object);
	json_object_set_new(object, "threads", show_threads(show, process));
	json_object_set_new(object, "memory", show_memory(show, process->pid));
	if (ids)
		files_id = ids->files_id;
	else if (core && core->ids)
		files_id = core->ids->files_id;
	json_object_set_new(object, "descriptors", show_descriptors(show, files_id));
	return object;
}

json_t *show_processes(struct show *show)
{
	const struct image_record *record;
	json_t *list = json_array();
	size_t cursor = 0;

	while ((record = image_set_next(show->set, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *process = show_unpack(show, record, &tree_process__descriptor);

		if (process)
			json_array_append_new(list, show_process(show, process));
	}
	return list;
}
