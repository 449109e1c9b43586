/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * epoll(7).
 *
 * Model. fdinfo lists what an epoll descriptor watches: the number under which it was added, events
 * and data. A number is only right in the table of the process that added it, and only as long as
 * it still stands for the same file; kcmp(2) with KCMP_EPOLL_TFD tells. So the list is kept until
 * all descriptors are known. Then, among the processes that have the epoll descriptor, the one is
 * taken in whose table most numbers are right; for a number that is not, the watched file is looked
 * for under all other numbers of the tree, and its id is recorded.
 *
 * Failure modes. A watched file that has no descriptor in the tree is a blocker.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/files.h"

struct dump_epoll_item {
	int tfd;
	uint32_t events;
	uint64_t data;
	uint64_t pos;
	uint64_t ino;
	uint32_t sdev;	/* as the kernel counts devices inside */
	uint32_t order; /* among the items of the same number */
};

struct dump_epoll {
	uint32_t id;
	uint32_t flags;
	FileOwner owner;
	struct dump_process *process; /* borrowed: where it was met first */
	int number;
	ARRAY(struct dump_epoll_item) items; /* owned */
};

struct dump_epolls {
	ARRAY(struct dump_epoll) list;
};

void dump_epolls_free(struct dump_epolls *epolls)
{
	if (!epolls)
		return;
	array_for_each (epoll, &epolls->list)
		array_deinit(&epoll->items);
	array_deinit(&epolls->list);
	free(epolls);
}

static bool match(const struct dump_file *file)
{
	return strcmp(file->link, "anon_inode:[eventpoll]") == 0;
}

/*
 * The number behind `name` in a line; moves `*at` behind it. Not sscanf(), which measures the whole
 * text each time.
 */
static uint64_t take_number(const char **at, const char *name, int base)
{
	const char *found = *at + strspn(*at, " ");
	char *end;
	uint64_t value;

	if (strncmp(found, name, strlen(name)) != 0) {
		*at = NULL;
		return 0;
	}
	value = strtoull(found + strlen(name), &end, base);
	*at = end;
	return value;
}

static int parse_items(const char *info, struct dump_epoll *epoll)
{
	for (const char *text = dump_file_info(info, "tfd"); text;
	     text = dump_file_info(text, "tfd")) {
		static const struct {
			const char *name;
			int base;
		} fields[] = { { "", 10 },     { "events:", 16 }, { "data:", 16 },
			       { "pos:", 10 }, { "ino:", 16 },	  { "sdev:", 16 } };
		uint64_t values[6] = { 0 };
		struct dump_epoll_item item;
		const char *at = text;

		for (size_t i = 0; i < 6 && at; i++)
			values[i] = take_number(&at, fields[i].name, fields[i].base);
		if (!at)
			return -EPROTO;
		item = (struct dump_epoll_item){ .tfd = (int)values[0],
						 .events = (uint32_t)values[1],
						 .data = values[2],
						 .pos = values[3],
						 .ino = values[4],
						 .sdev = (uint32_t)values[5],
						 .order = (uint32_t)epoll->items.count };
		if (array_append(&epoll->items, item) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	struct dump_files *files = ctx->files;
	struct dump_epoll epoll = { .id = file->id,
				    .flags = file->flags,
				    .owner = file->owner,
				    .process = file->process,
				    .number = file->number };
	int r;

	if (!files->epolls)
		files->epolls = calloc(1, sizeof(*files->epolls));
	if (!files->epolls)
		return error_set(error, -ENOMEM, "no memory for epoll");
	r = parse_items(dump_file_text(file), &epoll);
	if (r == 0)
		r = array_append(&files->epolls->list, epoll);
	if (r < 0) {
		array_deinit(&epoll.items);
		return error_set_errno(error, r, "reading the set of an epoll descriptor");
	}
	return 0;
}

/* Is `descriptor` the file that the epoll descriptor `number` of `holder` watches as `item`? */
static bool watches(const struct dump_process *holder, int number,
		    const struct dump_epoll_item *item, const struct dump_descriptor *descriptor)
{
	struct kcmp_epoll_slot slot = { .efd = (__u32)number,
					.tfd = (__u32)item->tfd,
					.toff = item->order };

	if (descriptor->ino != item->ino ||
	    item->sdev != (uint32_t)(major(descriptor->dev) << 20 | minor(descriptor->dev)))
		return false;
	/*
	 * A socket has only one open file. It is worth knowing: the kernel searches the whole set
	 * for each comparison.
	 */
	if (descriptor->type == FILE_TYPE__FILE_INET_SOCKET ||
	    descriptor->type == FILE_TYPE__FILE_UNIX_SOCKET)
		return true;
	return syscall(SYS_kcmp, descriptor->process->live, holder->live, KCMP_EPOLL_TFD,
		       descriptor->number, &slot) == 0;
}

/* How many items have a number that is right in the table of `holder`. */
static size_t count_right(const struct dump_files *files, const struct dump_descriptor *holder,
			  const struct dump_epoll *epoll)
{
	size_t right = 0;

	array_for_each (item, &epoll->items) {
		const struct dump_descriptor *descriptor =
			dump_descriptor_find(files, holder->process, item->tfd);

		right += descriptor && watches(holder->process, holder->number, item, descriptor);
	}
	return right;
}

/* `ret_right`: how many of the numbers are right there. */
static const struct dump_descriptor *
choose_holder(const struct dump_files *files, const struct dump_epoll *epoll, size_t *ret_right)
{
	const struct dump_descriptor *best = NULL;
	size_t best_right = 0;

	array_for_each (descriptor, &files->descriptors) {
		size_t right;

		if (descriptor->file_id != epoll->id)
			continue;
		right = count_right(files, descriptor, epoll);
		if (!best || right > best_right) {
			best = descriptor;
			best_right = right;
		}
		if (right == epoll->items.count)
			break;
	}
	*ret_right = best_right;
	return best;
}

/*
 * Items of one number are told apart by their order in the kernel's tree, which is also that of
 * fdinfo.
 */
static int compare_tfd(const void *left, const void *right)
{
	const struct dump_epoll_item *a = left, *b = right;

	if (a->tfd != b->tfd)
		return a->tfd < b->tfd ? -1 : 1;
	return (a->order > b->order) - (a->order < b->order);
}

static void set_orders(struct dump_epoll *epoll)
{
	if (epoll->items.count > 1)
		qsort(epoll->items.items, epoll->items.count, sizeof(epoll->items.items[0]),
		      compare_tfd);
	for (size_t i = 0; i < epoll->items.count; i++) {
		struct dump_epoll_item *item = &epoll->items.items[i];

		item->order = i > 0 && item[-1].tfd == item->tfd ? item[-1].order + 1 : 0;
	}
}

/*
 * Fills in `message`; `right`: the number is known to be right. False when the watched file is
 * nowhere in the tree.
 */
static bool describe_item(const struct dump_files *files, const struct dump_epoll *epoll,
			  const struct dump_descriptor *holder, const struct dump_epoll_item *item,
			  bool right, EpollItem *message)
{
	const struct dump_descriptor *descriptor = dump_descriptor_find(files, holder->process,
									item->tfd);

	epoll_item__init(message);
	message->id = epoll->id;
	message->tfd = (uint32_t)item->tfd;
	message->events = item->events;
	message->data = item->data;
	message->has_dev = message->has_inode = message->has_pos = 1;
	message->dev = item->sdev;
	message->inode = item->ino;
	message->pos = item->pos;
	if (right || (descriptor && watches(holder->process, holder->number, item, descriptor)))
		return true;
	array_for_each (other, &files->descriptors)
		if (watches(holder->process, holder->number, item, other)) {
			message->has_file_id = 1;
			message->file_id = other->file_id;
			return true;
		}
	return false;
}

static int finish_epoll(struct dump_context *ctx, struct dump_epoll *epoll, struct error *error)
{
	const struct dump_descriptor *holder;
	struct dump_arena arena = { 0 };
	OpenFile message = OPEN_FILE__INIT;
	EpollFd set = EPOLL_FD__INIT;
	EpollItem *items;
	size_t right;
	int r = 0;

	set_orders(epoll);
	holder = choose_holder(ctx->files, epoll, &right);
	if (!holder)
		return 0;
	items = dump_arena_take(&arena, epoll->items.count * sizeof(items[0]) + 1);
	set.tfd = dump_arena_take(&arena, epoll->items.count * sizeof(set.tfd[0]) + 1);
	if (!items || !set.tfd)
		r = error_set(error, -ENOMEM, "no memory for the set of an epoll descriptor");
	for (size_t i = 0; i < epoll->items.count && r == 0; i++) {
		const struct dump_epoll_item *item = &epoll->items.items[i];

		if (describe_item(ctx->files, epoll, holder, item, right == epoll->items.count,
				  &items[i]))
			set.tfd[set.n_tfd++] = &items[i];
		else
			dump_blocker_add(
				ctx, epoll->process->pid, "descriptor",
				"it watches a file that no descriptor of the tree stands for",
				"let the program remove it from the set",
				"fd %d -> epoll, watching fd %d", epoll->number, item->tfd);
	}
	set.id = epoll->id;
	set.flags = epoll->flags;
	set.fown = &epoll->owner;
	set.has_files_id = 1;
	set.files_id = holder->process->files_id;
	message.type = FILE_TYPE__FILE_EPOLL;
	message.id = epoll->id;
	message.epfd = &set;
	if (r == 0)
		r = dump_file_add(ctx, &message, error);
	dump_arena_deinit(&arena);
	return r;
}

static int finish(struct dump_context *ctx, struct error *error)
{
	int r = 0;

	if (!ctx->files->epolls)
		return 0;
	array_for_each (epoll, &ctx->files->epolls->list) {
		r = finish_epoll(ctx, epoll, error);
		if (r < 0)
			break;
	}
	return r;
}

const struct dump_file_kind dump_kind_epoll = {
	.name = "epoll",
	.type = FILE_TYPE__FILE_EPOLL,
	.match = match,
	.dump = dump,
	.finish = finish,
};
