/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The clocks that the tree sees: CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the start of a machine, and a program relies on
 * them not running backwards, and on points in time that it has noted. Where they would differ from what they showed on the
 * source, the tree gets a time namespace, which its first process enters when it is made (shell.c).
 *
 * By how much they are shifted is decided once, by the first layout, as a shell that exists has its clocks:
 *   - the source has asked this machine for its clocks (migrate send): as it says
 *   - the images are of this machine, as it runs now: as they were shifted there, mostly not at all. Time has passed meanwhile,
 *     as for a process that was stopped
 *   - a checkpoint from elsewhere, or from before a reboot: they go on from what they showed at the dump
 *
 * Failure modes: without time namespaces here (kernel, CAP_SYS_TIME), clocks that would go back are a blocker; those that go
 * ahead are left alone, and nothing is taken off timers then.
 */
#include <errno.h>
#include <string.h>

#include "image/journal.h"
#include "inventory.pb-c.h"
#include "parts.h"
#include "timens.pb-c.h"
#include "util/clock.h"

#define SECONDS_MAX (UINT64_C(1) << 32)

static bool is_reading(const ClockReading *reading)
{
	return reading && reading->tv_sec < SECONDS_MAX && reading->tv_nsec < (uint64_t)CLOCK_S;
}

static int64_t reading_ns(const ClockReading *reading)
{
	return (int64_t)reading->tv_sec * CLOCK_S + (int64_t)reading->tv_nsec;
}

static int is_this_boot(const struct image_set *images, bool *ret, struct error *error)
{
	_cleanup_message_ Inventory *inventory = NULL;
	char boot[JOURNAL_BOOT_ID_MAX] = "";
	int r = restore_get(images, IMAGE_INVENTORY, 0, inventory, &inventory, error);

	if (r == 0)
		r = journal_boot_id(boot, error);
	if (r == 0)
		*ret = inventory->root && inventory->root->boot_id && strcmp(inventory->root->boot_id, boot) == 0;
	return r;
}

static bool is_same(const struct timens_offsets *one, const struct timens_offsets *other)
{
	return one->monotonic == other->monotonic && one->boottime == other->boottime;
}

/* The offsets that are wanted. */
static void plan(const Clocks *message, bool this_boot, const struct timens_offsets *machine, struct timens_offsets *ret)
{
	if (message->has_target_monotonic && message->has_target_boottime) {
		ret->monotonic = message->target_monotonic;
		ret->boottime = message->target_boottime;
	} else if (this_boot) {
		ret->monotonic = message->offset_monotonic;
		ret->boottime = message->offset_boottime;
	} else {
		ret->monotonic = reading_ns(message->monotonic) - machine->monotonic;
		ret->boottime = reading_ns(message->boottime) - machine->boottime;
	}
}

static int decide(const Clocks *message, bool this_boot, struct restore_clocks *clocks, struct image_blockers *blockers,
		  struct error *error)
{
	const struct timens_offsets none = { 0 };
	struct timens_offsets own, machine, now;
	int r = timens_read(0, &own, error);

	if (r == 0)
		r = timens_now(&none, &machine, error);
	if (r == 0)
		r = timens_now(&own, &now, error);
	if (r < 0)
		return r;
	plan(message, this_boot, &machine, &clocks->offsets);
	clocks->own = own;
	clocks->decided = clocks->continuous = true;
	if (is_same(&clocks->offsets, &own) || timens_is_supported())
		return 0;
	if (blockers && (now.monotonic < reading_ns(message->monotonic) || now.boottime < reading_ns(message->boottime)))
		image_blockers_add(blockers, 0, "kernel", "its clocks would run backwards: here they show less, and no time "
				   "namespace can be made (CONFIG_TIME_NS, CAP_SYS_TIME)",
				   "restore with all capabilities, on a kernel with time namespaces",
				   "CLOCK_MONOTONIC (%lld s then, %lld s here)", (long long)message->monotonic->tv_sec,
				   (long long)(now.monotonic / CLOCK_S));
	clocks->continuous = this_boot && is_same(&own, &none) && message->offset_monotonic == 0;
	clocks->offsets = own;
	return 0;
}

int restore_clocks_decide(const struct image_set *images, struct restore_clocks *clocks, struct image_blockers *blockers,
			  struct error *error)
{
	const struct image_record *record = image_set_find(images, IMAGE_TIMENS, 0);
	_cleanup_message_ Clocks *message = NULL;
	bool this_boot = false;
	int r;

	if (clocks->decided)
		return 0;
	if (!record) { /* CRIU writes none for a tree without such a namespace */
		clocks->decided = true;
		return timens_read(0, &clocks->offsets, error);
	}
	r = image_unpack(record, clocks, &message, error);
	if (r == 0 && (!is_reading(message->monotonic) || !is_reading(message->boottime)))
		r = error_set(error, -EPROTO, "the record of the clocks is damaged");
	if (r == 0)
		r = is_this_boot(images, &this_boot, error);
	return r < 0 ? r : decide(message, this_boot, clocks, blockers, error);
}

int64_t restore_clocks_elapsed(const struct restore_tree *tree, uint64_t then)
{
	int64_t now = clock_now_ns() - tree->clocks.own.monotonic + tree->clocks.offsets.monotonic;

	return tree->clocks.continuous && now > (int64_t)then ? now - (int64_t)then : 0;
}
