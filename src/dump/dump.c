/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Puts the parts together, in the order in which the target needs them: what the machine is, the tree, mappings; then, at
 * the freeze, threads, file system, descriptors.
 *
 * A running process changes while it is looked at: a mapping of /proc/PID/maps may be gone when its file is opened. Such
 * a process is looked at again, a few times; a child that ends meanwhile is dropped from the set.
 */
#include "dump.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "dump/files.h"
#include "dump/shared-memory.h"
#include "dump/sysv.h"
#include "image/journal.h"
#include "inventory.pb-c.h"
#include "parts.h"
#include "timens.pb-c.h"
#include "util/parallel.h"

#define DUMP_RETRIES 5
#define LOOK_SHARE   8 /* processes that are worth another thread */

static void dump_begin(struct dump_context *ctx, struct image_set *images)
{
	ctx->images = images;
	dump_files_begin(ctx);
	dump_shared_begin(ctx);
}

static int dump_inventory(struct dump_context *ctx, struct error *error)
{
	Inventory message = INVENTORY__INIT;
	ObjectIds ids = OBJECT_IDS__INIT;
	RootProcess root = ROOT_PROCESS__INIT;
	char boot[JOURNAL_BOOT_ID_MAX] = "";
	int r = journal_boot_id(boot, error);

	if (r < 0)
		return r;
	message.img_version = 2;
	message.has_fdinfo_per_id = true;
	message.fdinfo_per_id = true;
	message.has_ns_per_id = true;
	message.ns_per_id = true;
	message.has_dump_uptime = true;
	message.dump_uptime = (uint64_t)clock_now_ns() / 1000;
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = (uint32_t)ctx->root;
	message.root_ids = &ids;
	message.host = &ctx->host->facts.message;
	root.pid = (uint32_t)ctx->root;
	root.start_time = ctx->processes.items[0]->stat.start_time;
	root.boot_id = boot;
	message.root = &root;
	message.has_written = true;
	message.written = (uint64_t)time(NULL);
	return image_set_add(ctx->images, IMAGE_INVENTORY, 0, &message.base, error);
}

static void clock_message(ClockReading *message, int64_t ns)
{
	*message = (ClockReading)CLOCK_READING__INIT;
	message->tv_sec = (uint64_t)(ns / CLOCK_S);
	message->tv_nsec = (uint64_t)(ns % CLOCK_S);
}

/* As the tree sees them: it may be in a time namespace, which is that of all its processes (process.c). */
static int dump_clocks(struct dump_context *ctx, struct error *error)
{
	Clocks message = CLOCKS__INIT;
	ClockReading monotonic, boottime;
	struct timens_offsets now;
	int r = timens_read(ctx->root, &ctx->clocks, error);

	if (r == 0)
		r = timens_now(&ctx->clocks, &now, error);
	if (r < 0)
		return r;
	clock_message(&monotonic, now.monotonic);
	clock_message(&boottime, now.boottime);
	message.monotonic = &monotonic;
	message.boottime = &boottime;
	message.has_offset_monotonic = message.has_offset_boottime = true;
	message.offset_monotonic = ctx->clocks.monotonic;
	message.offset_boottime = ctx->clocks.boottime;
	message.has_target_monotonic = message.has_target_boottime = ctx->target_clocks.known;
	message.target_monotonic = ctx->target_clocks.offsets.monotonic;
	message.target_boottime = ctx->target_clocks.offsets.boottime;
	return image_set_add(ctx->images, IMAGE_TIMENS, 0, &message.base, error);
}

/* An address space that is being made: execve(2) notes where the program is when all of it is there. */
static int check_execve(const struct dump_process *process, struct error *error)
{
	struct procfs_stat now;
	int r = procfs_read_stat(process->live, &now, error);

	if (r < 0)
		return r;
	if (!now.start_code || now.start_code != process->stat.start_code || now.start_stack != process->stat.start_stack)
		return error_set(error, -ESRCH, "PID %d is in the middle of execve(2)", process->pid);
	return 0;
}

static int dump_running_mm(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	struct error attempt;
	int r = 0;

	for (int retry = 0; retry < DUMP_RETRIES; retry++) {
		struct procfs_maps maps;

		error_clear(&attempt);
		r = dump_mm(ctx, process, NULL, &attempt);
		if (r != -ENOENT && r != -ESRCH)
			break;
		if (tracee_read_maps(process->live, -1, &maps, NULL) < 0)
			break;
		procfs_maps_deinit(&process->maps);
		process->maps = maps;
	}
	return r < 0 ? error_set(error, r, "%s", error_text(&attempt, r)) : check_execve(process, error);
}

/* Records of the running tree; ctx->images is set. */
static int layout_records(struct dump_context *ctx, struct error *error)
{
	int r;

	r = dump_context_refresh(ctx, error);
	if (r == 0)
		r = dump_inventory(ctx, error);
	if (r == 0)
		r = dump_clocks(ctx, error);
	if (r == 0)
		r = dump_tree_records(ctx, false, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++)
		r = dump_running_mm(ctx, ctx->processes.items[i], error);
	return r;
}

int dump_layout(struct dump_context *ctx, struct image_set *images, struct error *error)
{
	int r;

	dump_begin(ctx, images);
	r = layout_records(ctx, error);
	if (r == 0)
		r = dump_files_ahead(ctx, error);
	ctx->images = NULL;
	return r;
}

int dump_preflight(struct dump_context *ctx, struct image_set *images, struct error *error)
{
	int r;

	dump_begin(ctx, images);
	r = layout_records(ctx, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++) {
		r = dump_process_check(ctx, ctx->processes.items[i], error);
		if (r == 0)
			r = dump_seccomp_check(ctx, ctx->processes.items[i], error);
		if (r == 0)
			r = dump_process_fs(ctx, ctx->processes.items[i], error);
		if (r == 0)
			r = dump_limits(ctx, ctx->processes.items[i], error);
		dump_notes(ctx, ctx->processes.items[i]);
	}
	if (r == 0)
		r = dump_files_collect(ctx, error);
	if (r == 0)
		dump_vfork_check(ctx);
	if (r == 0)
		r = dump_sharing_outside(ctx, error);
	if (r == 0)
		r = dump_outside_check(ctx, error);
	if (r == 0)
		r = dump_sysv(ctx, error);
	ctx->images = NULL;
	return r;
}

/* Threads as the stop found them, not as the last look at /proc did. */
static int take_tracee(struct dump_context *ctx, struct dump_process *process, struct error *error)
{
	if (!process->tracee || process->tracee->threads.count == 0)
		return error_set(error, -ESRCH, "PID %d has ended", process->pid);
	array_clear(&process->threads);
	array_for_each(thread, &process->tracee->threads)
		if (array_append(&process->threads, (*thread)->tid) < 0)
			return error_set_errno(error, -ENOMEM, "cannot list the threads of PID %d", process->pid);
	return 0;
}

static int frozen_process(struct dump_context *ctx, struct dump_process *process, const struct dump_asked *asked,
			  struct error *error)
{
	struct dump_process_facts facts;
	int r;

	r = dump_threads_answer(ctx, asked, &facts, error);
	if (r == 0)
		r = dump_mm(ctx, process, &facts, error);
	if (r == 0)
		r = dump_process_fs(ctx, process, error);
	return r;
}

static int look_at(void *context, unsigned worker, size_t index, struct error *error)
{
	const struct dump_context *ctx = context;

	(void)worker;
	return dump_look_stopped(ctx->processes.items[index], error);
}

/* Only this thread may talk to those that it has stopped; others read /proc meanwhile. */
static int frozen_ask(struct dump_context *ctx, struct dump_asked **asked, struct error *error)
{
	size_t count = ctx->processes.count;
	struct error why = ERROR_INIT;
	struct parallel looks;
	int r = 0, looked;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = dump_threads_ask(ctx, ctx->processes.items[i], &asked[i], error);
	if (r == 0)
		r = dump_threads_make_room(ctx, asked, count, error);
	if (r < 0)
		return r;
	parallel_begin(&looks, count, LOOK_SHARE, look_at, ctx);
	r = dump_threads_run(ctx, asked, count, error);
	looked = parallel_end(&looks, &why);
	if (r == 0 && looked < 0)
		r = error_set(error, looked, "%s", error_text(&why, looked));
	return r;
}

static int frozen_processes(struct dump_context *ctx, struct dump_asked **asked, struct error *error)
{
	int r;

	r = frozen_ask(ctx, asked, error);
	if (r == 0)
		r = dump_tree_records(ctx, true, error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++)
		r = dump_process_check(ctx, ctx->processes.items[i], error);
	for (size_t i = 0; r == 0 && i < ctx->processes.count; i++)
		r = frozen_process(ctx, ctx->processes.items[i], asked[i], error);
	return r;
}

static int frozen_records(struct dump_context *ctx, struct tracee_tree *tree, struct error *error)
{
	struct dump_asked **asked = NULL;
	size_t count;
	int r;

	r = dump_context_take(ctx, tree, error);
	count = ctx->processes.count;
	for (size_t i = 0; r == 0 && i < count; i++)
		r = take_tracee(ctx, ctx->processes.items[i], error);
	if (r == 0)
		r = dump_inventory(ctx, error);
	if (r == 0)
		r = dump_clocks(ctx, error);
	if (r == 0 && !(asked = calloc(count, sizeof(*asked))))
		r = error_set_errno(error, -ENOMEM, "cannot ask %zu processes", count);
	if (r == 0)
		r = frozen_processes(ctx, asked, error);
	for (size_t i = 0; asked && i < count; i++)
		dump_threads_forget(asked[i]);
	free(asked);
	if (r == 0)
		r = dump_seccomp_record(ctx, error);
	if (r == 0)
		r = dump_files_collect(ctx, error);
	if (r == 0)
		r = dump_sysv_attachments(ctx, error);
	if (r == 0)
		r = dump_sysv(ctx, error);
	return r;
}

int dump_frozen(struct dump_context *ctx, struct tracee_tree *tree, struct image_set *images, struct error *error)
{
	int r;

	/* What was found before the freeze may be gone by now; what counts is found again. */
	image_blockers_deinit(&ctx->blockers);
	image_blockers_init(&ctx->blockers);
	dump_seccomp_free(ctx->seccomp);
	ctx->seccomp = NULL;
	dump_begin(ctx, images);
	r = frozen_records(ctx, tree, error);
	array_for_each(process, &ctx->processes)
		(*process)->tracee = NULL;
	ctx->images = NULL;
	if (r == 0 && !image_blockers_empty(&ctx->blockers)) {
		const struct image_blocker *first = ctx->blockers.list.items;

		r = error_set(error, -EBUSY, "PID %d cannot be moved any more: %s: %s", first ? first->pid : ctx->root,
			      first ? first->object : "out of memory", first ? first->cause : "");
	}
	return r;
}
