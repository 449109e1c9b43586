/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors: finding out which there are, and which of them stand for the same open file.
 *
 * Model. A descriptor is a number in a table; an open file is what it stands for, and several
 * numbers, in several processes, may stand for one. Two descriptors are compared with kcmp(2) only
 * when device, inode and flags are equal; kcmp gives an order, so open files are kept sorted and
 * each new descriptor costs a binary search. An open file that is new is described by the first
 * kind (file-kind.h) that knows it.
 *
 * Happy path: for each process, for each number in /proc/PID/fd: fetch a copy, read its fdinfo,
 * look it up, describe it if it is new, add the IMAGE_FDINFO record. Then each kind has a chance to
 * look at the whole: what is in a pipe, whether both ends of a connection are in the tree.
 *
 * Failure modes. A number that vanishes while the process runs is skipped. What no kind knows is a
 * blocker.
 */
#include "dump/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "dump/io-uring.h"
#include "util/cleanup.h"
#include "util/fdio.h"

static const struct dump_file_kind *const kinds[] = {
	&dump_kind_tun,
	&dump_kind_mqueue,  &dump_kind_memfd,   &dump_kind_terminal, &dump_kind_regular, &dump_kind_pipe,
	&dump_kind_fifo,
	&dump_kind_netlink, &dump_kind_packet,   &dump_kind_socket_refused,
	&dump_kind_unix,    &dump_kind_datagram,    &dump_kind_inet,	 &dump_kind_eventfd, &dump_kind_epoll,
	&dump_kind_timerfd, &dump_kind_signalfd, &dump_kind_inotify,
	&dump_kind_pidfd,   &dump_kind_namespace, &dump_kind_fanotify, &dump_kind_io_uring,
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* Kinds that are refused, by the start of the link. */
static const struct {
	const char *link;
	enum image_kind kind;
} refused[] = {
	{ "anon_inode:[userfaultfd]", IMAGE_KIND_USERFAULTFD },
	{ "anon_inode:[perf_event]", IMAGE_KIND_PERF_EVENT },
	{ "anon_inode:bpf", IMAGE_KIND_BPF },
	{ "anon_inode:kvm", IMAGE_KIND_KVM },
	{ "anon_inode:[landlock-ruleset]", IMAGE_KIND_LANDLOCK },
	{ "anon_inode:[fscontext]", IMAGE_KIND_FSCONTEXT },
	{ "socket:", IMAGE_KIND_SOCKET_OTHER },
	{ "", IMAGE_KIND_DESCRIPTOR_OTHER },
};

/* ---- the context's part */

struct dump_files *dump_files_get(struct dump_context *ctx)
{
	if (!ctx->files) {
		ctx->files = calloc(1, sizeof(*ctx->files));
		if (ctx->files)
			ctx->files->next_id = 1;
	}
	return ctx->files;
}

static void forget_collection(struct dump_files *files)
{
	array_clear(&files->open);
	array_clear(&files->descriptors);
	array_clear(&files->tables);
	array_clear(&files->slaves);
	array_clear(&files->terminals);
	dump_ptys_free(steal_ptr(&files->ptys));
	array_for_each (fd, &files->in_flight)
		close(*fd);
	array_clear(&files->in_flight);
	dump_pipes_free(steal_ptr(&files->pipes));
	dump_unix_free(steal_ptr(&files->sockets));
	dump_epolls_free(steal_ptr(&files->epolls));
	dump_mounts_free(steal_ptr(&files->mounts));
	dump_inet_free(steal_ptr(&files->inet));
	dump_rings_free(steal_ptr(&files->rings));
}

void dump_files_free(struct dump_files *files)
{
	if (!files)
		return;
	forget_collection(files);
	array_deinit(&files->open);
	array_deinit(&files->descriptors);
	array_deinit(&files->tables);
	array_deinit(&files->slaves);
	array_deinit(&files->terminals);
	array_deinit(&files->masters);
	array_deinit(&files->pairs);
	array_deinit(&files->in_flight);
	array_deinit(&files->mapped.list);
	array_deinit(&files->checked.list);
	array_deinit(&files->build_ids);
	dump_names_free(files);
	array_deinit(&files->listeners);
	pidmap_deinit(&files->unsigned_tcp);
	array_deinit(&files->queues);
	dump_socket_options_free(files);
	dump_ring_kernel_free(files->ring_kernel);
	buffer_deinit(&files->info);
	free(files);
}

void dump_files_begin(struct dump_context *ctx)
{
	if (!ctx->files)
		return;
	dump_inodes_begin(&ctx->files->mapped);
	dump_inodes_begin(&ctx->files->checked);
	array_clear(&ctx->files->queues);
}

void dump_inodes_begin(struct dump_inodes *inodes)
{
	array_for_each (inode, &inodes->list)
		inode->added = false;
}

static int compare_inode(const struct dump_inode *inode, dev_t dev, ino_t ino, uint32_t variant)
{
	if (inode->dev != dev)
		return inode->dev < dev ? -1 : 1;
	if (inode->ino != ino)
		return inode->ino < ino ? -1 : 1;
	if (inode->variant != variant)
		return inode->variant < variant ? -1 : 1;
	return 0;
}

struct dump_inode *dump_inodes_find(struct dump_inodes *inodes, dev_t dev, ino_t ino,
				    uint32_t variant)
{
	size_t low = 0, high = inodes->list.count;
	struct dump_inode *place;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = compare_inode(&inodes->list.items[middle], dev, ino, variant);

		if (order == 0)
			return &inodes->list.items[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (array_reserve(&inodes->list, 1) < 0)
		return NULL;
	place = &inodes->list.items[low];
	memmove(place + 1, place, (inodes->list.count - low) * sizeof(*place));
	inodes->list.count++;
	*place = (struct dump_inode){ .dev = dev, .ino = ino, .variant = variant };
	return place;
}

const struct dump_descriptor *dump_descriptor_find(const struct dump_files *files,
						   const struct dump_process *process, int number)
{
	array_for_each (table, &files->tables) {
		size_t low = table->first, high = table->first + table->count;

		while (table->process == process && low < high) {
			size_t middle = low + (high - low) / 2;
			const struct dump_descriptor *descriptor =
				&files->descriptors.items[middle];

			if (descriptor->number == number)
				return descriptor;
			if (descriptor->number < number)
				low = middle + 1;
			else
				high = middle;
		}
	}
	return NULL;
}

int dump_file_add(struct dump_context *ctx, const OpenFile *message, struct error *error)
{
	return image_set_add(ctx->images, IMAGE_FILES, 0, &message->base, error);
}

void dump_file_block(struct dump_context *ctx, const struct dump_file *file, const char *cause,
		     const char *remedy)
{
	if (file->table == file->process->live)
		dump_blocker_add(ctx, file->process->pid, "descriptor", cause, remedy, "fd %d -> %s",
				 file->number, file->link);
	else
		dump_blocker_add(ctx, file->process->pid, "descriptor", cause, remedy,
				 "a descriptor on its way through a UNIX socket -> %s", file->link);
}

void dump_file_refuse(struct dump_context *ctx, const struct dump_file *file, enum image_kind kind)
{
	struct image_kind_facts facts = image_kind_get(kind);

	dump_file_block(ctx, file, facts.cause, facts.remedy);
}

/* ---- which open file */

/* Order of two open files: <0, 0, >0. What cannot be compared (it is gone) is different. */
static int compare_open(const struct dump_open *open, const struct dump_file *file)
{
	long r;

	if (open->dev != file->st.st_dev)
		return open->dev < file->st.st_dev ? -1 : 1;
	if (open->ino != file->st.st_ino)
		return open->ino < file->st.st_ino ? -1 : 1;
	if (open->flags != file->flags)
		return open->flags < file->flags ? -1 : 1;
	/* One open file has one position, as long as nobody runs. */
	if (file->frozen && open->pos != file->pos)
		return open->pos < file->pos ? -1 : 1;
	if (open->serial != file->serial)
		return open->serial < file->serial ? -1 : 1;
	r = syscall(SYS_kcmp, open->table, file->table, KCMP_FILE, open->number,
		    file->number);
	return r == 0 ? 0 : r == 1 ? -1 : 1;
}

/* Finds the open file, or makes room for it: `ret_new`. */
static struct dump_open *find_open(struct dump_files *files, const struct dump_file *file,
				   bool *ret_new)
{
	size_t low = 0, high = files->open.count;
	struct dump_open *place;

	*ret_new = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = compare_open(&files->open.items[middle], file);

		if (order == 0)
			return &files->open.items[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (array_reserve(&files->open, 1) < 0)
		return NULL;
	place = &files->open.items[low];
	memmove(place + 1, place, (files->open.count - low) * sizeof(*place));
	files->open.count++;
	*place = (struct dump_open){ .dev = file->st.st_dev,
				     .ino = file->st.st_ino,
				     .flags = file->flags,
				     .pos = file->pos,
				     .serial = file->serial,
				     .table = file->table,
				     .number = file->number,
				     .id = files->next_id++ };
	*ret_new = true;
	return place;
}

/* ---- records */

static int add_descriptor(struct dump_context *ctx, const struct dump_file *file,
			  const struct dump_open *open, struct error *error)
{
	struct dump_descriptor descriptor = { .process = file->process,
					      .number = file->number,
					      .file_id = open->id,
					      .dev = open->dev,
					      .ino = open->ino,
					      .type = open->type };
	Descriptor message = DESCRIPTOR__INIT;
	struct dump_arena arena = { 0 };
	int r;

	message.id = open->id;
	message.flags = file->cloexec ? FD_CLOEXEC : 0;
	message.type = open->type;
	message.fd = (uint32_t)file->number;
	r = dump_locks_collect(ctx, file, &arena, &message);
	if (r == 0)
		r = image_set_add(ctx->images, IMAGE_FDINFO, file->process->files_id, &message.base,
				  error);
	dump_arena_deinit(&arena);
	if (r == 0)
		r = array_append(&ctx->files->descriptors, descriptor);
	return r < 0 ? error_set_errno(error, r, "noting a descriptor") : 0;
}

static void refuse_unknown(struct dump_context *ctx, const struct dump_file *file)
{
	size_t i = 0;

	while (strncmp(file->link, refused[i].link, strlen(refused[i].link)) != 0)
		i++;
	dump_file_refuse(ctx, file, refused[i].kind);
}

static bool thread_in_tree(const struct dump_context *ctx, pid_t tid)
{
	array_for_each (process, &ctx->processes)
		array_for_each (thread, &(*process)->threads)
			if (*thread == tid)
				return true;
	return false;
}

static bool group_in_tree(const struct dump_context *ctx, pid_t group)
{
	array_for_each (process, &ctx->processes)
		if ((*process)->stat.pgid == group)
			return true;
	return false;
}

/* The root's group gets the root's number, if it is one from outside. */
static void check_owner(struct dump_context *ctx, struct dump_file *file)
{
	const struct procfs_stat *root = &ctx->processes.items[0]->stat;
	FileOwner *owner = &file->owner;
	bool inside;

	if (owner->pid == 0 || (file->flags & O_PATH))
		return;
	if (S_ISDIR(file->st.st_mode)) {
		dump_file_refuse(ctx, file, IMAGE_KIND_DNOTIFY);
		return;
	}
	if (owner->pid_type == F_OWNER_PGRP && owner->pid == (uint32_t)root->pgid && !dump_context_find(ctx, root->pgid))
		owner->pid = (uint32_t)ctx->root;
	if (owner->pid_type == F_OWNER_PGRP)
		inside = owner->pid == (uint32_t)ctx->root || group_in_tree(ctx, (pid_t)owner->pid);
	else
		inside = owner->pid_type == F_OWNER_TID ? thread_in_tree(ctx, (pid_t)owner->pid)
							: dump_context_find(ctx, (pid_t)owner->pid) != NULL;
	if (!inside)
		dump_file_refuse(ctx, file, IMAGE_KIND_FILE_OWNER);
}

static int describe(struct dump_context *ctx, struct dump_file *file, struct dump_open *open,
		    struct error *error)
{
	for (size_t i = 0; i < COUNT(kinds); i++) {
		if (!kinds[i]->match(file))
			continue;
		open->type = kinds[i]->type;
		check_owner(ctx, file);
		return kinds[i]->dump(ctx, file, error);
	}
	refuse_unknown(ctx, file);
	return 0;
}

static int collect_descriptor(struct dump_context *ctx, struct dump_file *file, struct error *error)
{
	struct dump_open *open;
	bool is_new;
	int r = 0;

	open = find_open(ctx->files, file, &is_new);
	if (!open)
		return error_set(error, -ENOMEM, "no memory for open files");
	file->id = open->id;
	if (is_new)
		r = describe(ctx, file, open, error);
	return r < 0 ? r : add_descriptor(ctx, file, open, error);
}

/* ---- on its way through a socket */

static int collect_in_flight(struct dump_context *ctx, struct dump_file *file, bool *ret_new, struct error *error)
{
	struct dump_open *open = find_open(ctx->files, file, ret_new);
	int r;

	if (!open)
		return error_set(error, -ENOMEM, "no memory for open files");
	file->id = open->id;
	if (!*ret_new)
		return 0;
	r = describe(ctx, file, open, error);
	/* What belongs to a descriptor table has no place here. */
	if (r == 0 && (open->type == FILE_TYPE__FILE_EPOLL || dump_file_info(dump_file_text(file), "lock")))
		dump_file_refuse(ctx, file, IMAGE_KIND_FILE_IN_FLIGHT_OWNED);
	return r;
}

int dump_file_in_flight(struct dump_context *ctx, struct dump_process *process, int fd, uint32_t *ret_id,
			struct error *error)
{
	struct dump_file file = { .fd = fd };
	struct dump_reader reader;
	bool is_new = false;
	int r;

	r = dump_reader_open_own(ctx, process, &reader, error);
	if (r == 0) {
		r = dump_reader_look(&reader, fd, &file, error);
		if (r == 0)
			r = collect_in_flight(ctx, &file, &is_new, error);
		dump_reader_close(&reader);
	}
	if (r == 0)
		*ret_id = file.id;
	/* A new one is compared with what comes. */
	if (r == 0 && is_new && array_append(&ctx->files->in_flight, fd) < 0)
		r = error_set(error, -ENOMEM, "no memory for open files");
	if (r < 0 || !is_new)
		close(fd);
	return r;
}

/* ---- all of them */

static int collect_table(struct dump_context *ctx, struct dump_process *process,
			 struct error *error)
{
	struct dump_reader reader;
	struct dump_file file;
	int r;

	r = dump_reader_open(ctx, process, &reader, error);
	if (r < 0)
		return r;
	for (size_t i = 0; r >= 0 && i < reader.numbers.count; i++) {
		r = dump_reader_read(&reader, i, &file, error);
		if (r > 0) {
			process->reads_direct |= file.flags & O_DIRECT && S_ISREG(file.st.st_mode);
			r = collect_descriptor(ctx, &file, error);
			close(file.fd);
		}
		if (r < 0)
			error_wrap(error, r, "PID %d, descriptor %d", process->pid,
				   reader.numbers.items[i].number);
	}
	dump_reader_close(&reader);
	return r < 0 ? r : 0;
}

static int collect_process(struct dump_context *ctx, struct dump_process *process,
			   struct error *error)
{
	struct dump_files *files = ctx->files;
	struct dump_table table = { .process = process, .first = files->descriptors.count };
	int r;

	r = collect_table(ctx, process, error);
	table.count = files->descriptors.count - table.first;
	if (r == 0 && array_append(&files->tables, table) < 0)
		r = error_set(error, -ENOMEM, "no memory for descriptors");
	return r;
}

/* Who has a table first in the tree gives it its id. */
bool dump_table_seen(const struct dump_process *process)
{
	return process->files_id != (uint32_t)process->pid;
}

int dump_files_collect(struct dump_context *ctx, struct error *error)
{
	struct dump_files *files = dump_files_get(ctx);
	int r = 0;

	if (!files)
		return error_set(error, -ENOMEM, "no memory for descriptors");
	forget_collection(files);
	array_for_each (process, &ctx->processes) {
		if (r < 0)
			break;
		if (dump_table_seen(*process))
			continue;
		r = collect_process(ctx, *process, error);
	}
	for (size_t i = 0; i < COUNT(kinds) && r == 0; i++)
		if (kinds[i]->spread)
			r = kinds[i]->spread(ctx, error);
	for (size_t i = 0; i < COUNT(kinds) && r == 0; i++)
		if (kinds[i]->finish)
			r = kinds[i]->finish(ctx, error);
	forget_collection(files);
	return r;
}
