/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A page server as the destination: each operation is a frame or two of docs/protocol.md. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "source.h"
#include "util/cleanup.h"
#include "wire.pb-c.h"

/* Resident bytes of the tree: what the target has to have room for. */
static uint64_t tree_memory(const struct source *source)
{
	uint64_t sum = 0;

	array_for_each(process, &source->dump->processes) {
		static const char *const lines[] = { "VmRSS", "VmSwap" };
		char value[64];

		for (size_t i = 0; i < 2; i++)
			if (procfs_read_status((*process)->pid, lines[i], value, sizeof(value), NULL) == 0)
				sum += strtoull(value, NULL, 10) * 1024;
	}
	return sum;
}

static int send_records(struct source *source, int64_t deadline, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < image_set_count(source->images); i++) {
		const struct image_record *record = image_set_get(source->images, i);

		r = wire_send_image(source->control, record->type, record->id, record->data, record->size, deadline,
				    error);
	}
	return r;
}

/*
 * What the tree's clocks have to be shifted by there. On one machine, exactly what they are shifted by here. Otherwise the
 * answer's reading is taken for that of this moment, which is later: the clocks go ahead by the time that the answer took to
 * come, and cannot go back.
 */
static int note_clocks(struct source *source, const WirePreflightReply *reply, struct error *error)
{
	struct dump_target_clocks *target = &source->dump->target_clocks;
	struct timens_offsets now;
	char boot[JOURNAL_BOOT_ID_MAX] = "";
	int r = journal_boot_id(boot, error);

	if (r == 0)
		r = timens_now(&source->dump->clocks, &now, error);
	if (r < 0 || !reply->has_monotonic || !reply->has_boottime)
		return r;
	target->known = true;
	target->offsets = source->dump->clocks;
	if (strcmp(boot, source->target_boot) == 0)
		return 0;
	target->offsets.monotonic = now.monotonic - reply->monotonic;
	target->offsets.boottime = now.boottime - reply->boottime;
	log_debug(source->log, "clocks of the target are behind by %.6f s (monotonic), %.6f s (boottime)",
		  (double)target->offsets.monotonic / 1e9, (double)target->offsets.boottime / 1e9);
	return 0;
}

static int check(struct source *source, struct error *error)
{
	_cleanup_message_ WirePreflightReply *reply = NULL;
	WirePreflight preflight = WIRE_PREFLIGHT__INIT;
	int64_t deadline = clock_deadline(SOURCE_ANSWER_NS);
	int r = send_records(source, deadline, error);

	preflight.memory = tree_memory(source);
	preflight.has_tcp_close = preflight.has_bulk = preflight.has_dry_run = preflight.has_postcopy = 1;
	preflight.tcp_close = source->options->tcp_close;
	preflight.has_ext_unix = 1;
	preflight.ext_unix = source->options->ext_unix;
	preflight.bulk = source->options->streams;
	preflight.dry_run = source->options->dry_run;
	preflight.postcopy = source->options->mode != MIGRATE_PRECOPY;
	if (r == 0)
		r = wire_send(source->control, WIRE_PREFLIGHT, &preflight.base, deadline, error);
	if (r == 0)
		r = wire_expect(source->control, &wire_table_client, WIRE_PREFLIGHT_REPLY,
				&wire_preflight_reply__descriptor, (ProtobufCMessage **)(void *)&reply, deadline, error);
	if (r == 0)
		r = note_clocks(source, reply, error);
	if (r == 0)
		source->dump->target_queues = reply->accept_queues;
	for (size_t i = 0; r == 0 && i < reply->n_notes; i++)
		image_blockers_note(&source->dump->blockers, reply->notes[i]->pid, "%s", reply->notes[i]->text);
	for (size_t i = 0; r == 0 && i < reply->n_blockers; i++) {
		const WireBlocker *blocker = reply->blockers[i];

		image_blockers_add(&source->dump->blockers, blocker->pid, blocker->kind, blocker->cause, blocker->remedy,
				   "%s", blocker->object);
	}
	return r;
}

static int images(struct source *source, bool frozen, uint32_t depth, int64_t deadline, struct error *error)
{
	WireLayout layout = WIRE_LAYOUT__INIT;
	int r = send_records(source, deadline, error);

	layout.round = source->round;
	layout.has_frozen = 1;
	layout.frozen = frozen;
	layout.has_depth = depth != UINT32_MAX;
	layout.depth = depth;
	return r < 0 ? r : wire_send(source->control, WIRE_LAYOUT, &layout.base, deadline, error);
}

static int laid_out(struct source *source, int64_t deadline, struct error *error)
{
	_cleanup_message_ WireRound *answer = NULL;
	int r = wire_expect(source->control, &wire_table_client, WIRE_LAID_OUT, &wire_round__descriptor,
			    (ProtobufCMessage **)(void *)&answer, deadline, error);

	if (r < 0)
		return r;
	array_clear(&source->files_made);
	for (size_t i = 0; i < answer->n_files_made; i++)
		if (array_append(&source->files_made, answer->files_made[i]) < 0)
			return error_set(error, -ENOMEM, "out of memory");
	return 0;
}

static int pages(struct source *source, uint32_t stream, const struct wire_pages_header *header, const void *data,
		 int64_t deadline, struct error *error)
{
	return wire_send_pages(source->bulk[stream], header, data, deadline, error);
}

static int round_end(struct source *source, int64_t deadline, struct error *error)
{
	WireRound round = WIRE_ROUND__INIT;
	int r = 0;

	round.round = source->round;
	for (uint32_t i = 0; r == 0 && i < source->bulk_count; i++)
		r = wire_send(source->bulk[i], WIRE_MARK, &round.base, deadline, error);
	return r < 0 ? r : wire_send(source->control, WIRE_ROUND_END, &round.base, deadline, error);
}

static int round_done(struct source *source, struct source_jobs *rejected, int64_t deadline, struct error *error)
{
	_cleanup_message_ WireRoundDone *done = NULL;
	int r = wire_expect(source->control, &wire_table_client, WIRE_ROUND_DONE, &wire_round_done__descriptor,
			    (ProtobufCMessage **)(void *)&done, deadline, error);

	for (size_t i = 0; r == 0 && i < done->n_rejected; i++) {
		struct source_job job = { .pid = done->rejected[i]->pid, .address = done->rejected[i]->address,
					  .pages = done->rejected[i]->pages };

		rejected->pages += job.pages;
		if (array_append(&rejected->list, job) < 0)
			r = error_set(error, -ENOMEM, "out of memory");
	}
	return r;
}

/* Jobs as the ranges of a message, in one allocation, which the caller frees. */
static int make_ranges(const struct source_jobs *jobs, WireRange ***ret)
{
	size_t count = jobs->list.count;
	WireRange **pointers = malloc(count * (sizeof(*pointers) + sizeof(WireRange)) + 1);
	WireRange *ranges;

	if (!pointers)
		return -ENOMEM;
	ranges = (WireRange *)(void *)(pointers + count);
	for (size_t i = 0; i < count; i++) {
		wire_range__init(&ranges[i]);
		ranges[i].pid = jobs->list.items[i].pid;
		ranges[i].address = jobs->list.items[i].address;
		ranges[i].pages = jobs->list.items[i].pages;
		pointers[i] = &ranges[i];
	}
	*ret = pointers;
	return 0;
}

static int drop(struct source *source, const struct source_jobs *drops, int64_t deadline, struct error *error)
{
	WireRanges message = WIRE_RANGES__INIT;
	int r;

	if (!drops->list.count)
		return 0;
	if (make_ranges(drops, &message.ranges) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	message.n_ranges = drops->list.count;
	r = wire_send(source->control, WIRE_DROP, &message.base, deadline, error);
	free(message.ranges);
	return r;
}

static int prepare(struct source *source, const struct source_jobs *late, int64_t deadline, struct error *error)
{
	WirePrepare message = WIRE_PREPARE__INIT;
	int r;

	if (make_ranges(late, &message.missing) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	message.n_missing = late->list.count;
	r = wire_send(source->control, WIRE_PREPARE, &message.base, deadline, error);
	free(message.missing);
	return r;
}

static int prepared(struct source *source, int64_t deadline, struct error *error)
{
	return wire_expect(source->control, &wire_table_client, WIRE_PREPARED, NULL, NULL, deadline, error);
}

/* The target would find out by itself. */
static void give_up(struct source *source)
{
	if (source->control)
		wire_send(source->control, WIRE_ABORT, NULL, clock_deadline(CLOCK_S), NULL);
}

const struct destination_operations destination_peer = {
	.check = check,
	.images = images,
	.laid_out = laid_out,
	.pages = pages,
	.round_end = round_end,
	.round_done = round_done,
	.drop = drop,
	.prepare = prepare,
	.prepared = prepared,
	.abort = give_up,
	.bytes = source_bytes_sent,
	.takes_hashes = true,
	.takes_late = true,
	.shares_pages = true,
};
