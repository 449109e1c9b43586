/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * UNIX sockets with the right SO_PEERCRED.
 *
 * Model. The kernel notes who made a pair, who called listen(2) (told to those that connect), and who connected (told to the
 * one that accepts): PID, effective user and group. So these calls are made by the shell that has the PID, under that user
 * and group. Capabilities stay meanwhile (SECBIT_NO_SETUID_FIXUP), as paths and our descriptors must be reached. Pairs are
 * made ahead, many in one batch, and taken from the stock one by one.
 *
 * Where the PID is not of the tree (it has ended, or was never a part of it), the root of the tree makes the call, with the
 * right user and group. Supplementary groups (SO_PEERGROUPS) are those of this program.
 *
 * Failure modes: those of the calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/unix.h"
#include "util/cleanup.h"

#define PAIRS_MAX 64 /* made at a time */

/* Whose shell makes the call. NULL: there is no shell. */
static struct restore_process *find_process(struct restore_tree *tree, const SocketCredentials *who)
{
	struct restore_process *process = restore_tree_find(tree, (pid_t)who->pid);

	if (!process && tree->processes.count > 0)
		process = tree->processes.items[0];
	return process && process->tracee ? process : NULL;
}

struct disguise {
	int securebits; /* index of the call that told them; -1: nothing was changed */
	bool user, group;
};

static struct disguise put_on(struct tracee_batch *batch, const SocketCredentials *who)
{
	struct disguise disguise = { .securebits = -1, .user = who->uid != 0, .group = who->gid != 0 };

	if (!disguise.user && !disguise.group)
		return disguise;
	disguise.securebits = tracee_batch_call(batch, SYS_prctl, PR_GET_SECUREBITS);
	tracee_batch_call(batch, SYS_prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
	if (disguise.group)
		tracee_batch_call(batch, SYS_setresgid, -1, who->gid, -1);
	if (disguise.user)
		tracee_batch_call(batch, SYS_setresuid, -1, who->uid, -1);
	return disguise;
}

static void take_off(struct tracee_batch *batch, const struct disguise *disguise)
{
	if (disguise->securebits < 0)
		return;
	if (disguise->user)
		tracee_batch_call(batch, SYS_setresuid, -1, 0, -1);
	if (disguise->group)
		tracee_batch_call(batch, SYS_setresgid, -1, 0, -1);
	tracee_batch_call(batch, SYS_prctl, PR_SET_SECUREBITS, TRACEE_RESULT(disguise->securebits));
}

/* Runs listen(2) or connect(2) with our socket `fd` in a shell. The call's result. */
static int call_with(struct restore_tree *tree, struct restore_process *process, const SocketCredentials *who, int fd,
		     long call, const void *address, uint64_t argument, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	struct disguise disguise;
	int pidfd, socket, done, r;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	pidfd = tracee_batch_call(batch, SYS_pidfd_open, getpid(), 0);
	socket = tracee_batch_call(batch, SYS_pidfd_getfd, TRACEE_RESULT(pidfd), fd, 0);
	disguise = put_on(batch, who);
	if (call == SYS_connect)
		done = tracee_batch_try(batch, call, TRACEE_RESULT(socket),
					tracee_batch_data(batch, address, (size_t)argument), argument);
	else
		done = tracee_batch_try(batch, call, TRACEE_RESULT(socket), argument);
	take_off(batch, &disguise);
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(socket));
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(pidfd));
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	if (r == 0)
		r = (int)tracee_batch_result(batch, done);
	tracee_batch_free(batch);
	return r < 0 ? r : 0;
}

int restore_unix_listen(struct restore_tree *tree, int fd, int backlog, const SocketCredentials *who, struct error *error)
{
	struct restore_process *process = who ? find_process(tree, who) : NULL;
	int r;

	if (process)
		r = call_with(tree, process, who, fd, SYS_listen, NULL, (uint64_t)backlog, error);
	else
		r = listen(fd, backlog) < 0 ? -errno : 0;
	return r < 0 ? error_set_errno(error, r, "listening on a UNIX socket") : 0;
}

int restore_unix_connect(struct restore_tree *tree, int fd, const struct sockaddr_un *address, socklen_t size,
			 const SocketCredentials *who, struct error *error)
{
	struct restore_process *process = who ? find_process(tree, who) : NULL;

	if (process)
		return call_with(tree, process, who, fd, SYS_connect, address, size, error);
	return connect(fd, (const struct sockaddr *)address, size) < 0 ? -errno : 0;
}

/* ---- pairs */

static bool same_who(const struct restore_unix_pairs *pairs, const SocketCredentials *who, int type)
{
	return pairs->type == type && pairs->pid == who->pid && pairs->uid == who->uid && pairs->gid == who->gid;
}

static struct restore_unix_pairs *find_pairs(struct restore_files *files, const SocketCredentials *who, int type)
{
	struct restore_unix_pairs new = { .type = type, .pid = who->pid, .uid = who->uid, .gid = who->gid };

	array_for_each (pairs, &files->unix_pairs)
		if (same_who(pairs, who, type))
			return pairs;
	if (array_append(&files->unix_pairs, new) < 0)
		return NULL;
	return &files->unix_pairs.items[files->unix_pairs.count - 1];
}

int restore_unix_expect_end(struct restore_files *files, int type, const SocketCredentials *who)
{
	struct restore_unix_pairs *pairs = find_pairs(files, who, type);

	if (!pairs)
		return -ENOMEM;
	pairs->ends++;
	return 0;
}

/* Takes the pairs that a shell has made, and closes them there. */
static int fetch_pairs(struct restore_tree *tree, struct restore_process *process, struct restore_unix_pairs *pairs,
		       const int *numbers, size_t count, struct error *error)
{
	struct tracee_batch *batch = tracee_batch_new();
	int r = batch ? 0 : error_set(error, -ENOMEM, "no memory for a batch");

	for (size_t i = 0; r == 0 && i < count; i++) {
		int fd = (int)syscall(SYS_pidfd_getfd, process->tracee->pidfd, numbers[i], 0);

		if (fd < 0)
			r = error_set_errno(error, -errno, "fetching a UNIX socket from PID %d", process->pid);
		else if (array_append(&pairs->stock, fd) < 0) {
			close(fd);
			r = error_set(error, -ENOMEM, "no memory for UNIX sockets");
		}
		tracee_batch_call(batch, SYS_close, numbers[i]);
	}
	if (r == 0)
		r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	tracee_batch_free(batch);
	return r;
}

static int make_pairs(struct restore_tree *tree, struct restore_process *process, struct restore_unix_pairs *pairs,
		      const SocketCredentials *who, struct error *error)
{
	size_t count = pairs->ends / 2 > PAIRS_MAX ? PAIRS_MAX : pairs->ends / 2 ? pairs->ends / 2 : 1;
	struct tracee_batch *batch = tracee_batch_new();
	int numbers[2 * PAIRS_MAX], r;
	struct disguise disguise;
	uint64_t room;

	if (!batch)
		return error_set(error, -ENOMEM, "no memory for a batch");
	room = tracee_batch_space(batch, sizeof(numbers));
	disguise = put_on(batch, who);
	for (size_t i = 0; i < count; i++)
		tracee_batch_call(batch, SYS_socketpair, AF_UNIX, pairs->type | SOCK_CLOEXEC, 0,
				  room + i * 2 * sizeof(int));
	take_off(batch, &disguise);
	r = tracee_batch_run(process->tracee->threads.items[0], batch, tree->deadline, error);
	if (r == 0)
		memcpy(numbers, tracee_batch_output(batch, room), count * 2 * sizeof(int));
	tracee_batch_free(batch);
	return r < 0 ? r : fetch_pairs(tree, process, pairs, numbers, 2 * count, error);
}

int restore_unix_pair(struct restore_tree *tree, int type, const SocketCredentials *who, int ret_ends[2],
		      struct error *error)
{
	struct restore_process *process = who ? find_process(tree, who) : NULL;
	struct restore_unix_pairs *pairs;
	int r;

	if (!process) {
		r = socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ret_ends) < 0 ? -errno : 0;
		return r < 0 ? error_set_errno(error, r, "making a pair of UNIX sockets") : 0;
	}
	pairs = find_pairs(tree->files, who, type);
	if (!pairs)
		return error_set(error, -ENOMEM, "no memory for UNIX sockets");
	if (pairs->stock.count == 0) {
		r = make_pairs(tree, process, pairs, who, error);
		if (r < 0)
			return error_wrap(error, r, "making a pair of UNIX sockets");
	}
	ret_ends[1] = pairs->stock.items[--pairs->stock.count];
	ret_ends[0] = pairs->stock.items[--pairs->stock.count];
	pairs->ends -= pairs->ends < 2 ? pairs->ends : 2;
	return 0;
}

void restore_unix_pairs_clear(struct restore_files *files)
{
	array_for_each (pairs, &files->unix_pairs) {
		array_for_each (fd, &pairs->stock)
			close(*fd);
		array_deinit(&pairs->stock);
	}
	array_clear(&files->unix_pairs);
}
