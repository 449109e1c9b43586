/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects of System V IPC with given ids. An id is an index into the kernel's table and a sequence number; who writes the id
 * to kernel.{shm,sem,msg}_next_id has the next object made with both, if the index is free. Another process may be quicker
 * with an object of its own: then it has our sequence number at another index, and we try again.
 *
 * Creator and creating process are set by who makes the object: the root's shell, which takes the creator's effective ids
 * for the moment. Times cannot be set.
 *
 * Failure modes: the id or the key is taken.
 */
#include "sysv.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define MAKE_TRIES 8

struct tracee_thread *restore_sysv_actor(const struct restore_tree *tree, pid_t pid)
{
	const struct restore_process *process = pid ? restore_tree_find(tree, pid) : NULL;

	if (!process)
		process = tree->processes.items[0];
	return process->tracee->threads.items[0];
}

static int set_next_id(uint32_t kind, uint32_t id, struct error *error)
{
	char path[64], text[16];
	_cleanup_fd_ int fd = -1;
	int r;

	snprintf(path, sizeof(path), "/proc/sys/kernel/%s_next_id", image_ipc_kind_short(kind));
	snprintf(text, sizeof(text), "%d", (int)id);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	r = fd < 0 ? -errno : fdio_write(fd, text, strlen(text));
	return r < 0 ? error_set_errno(error, r, "cannot write %s", path) : 0;
}

static int add_call(struct tracee_batch *batch, uint32_t kind, const IpcDescription *desc, uint64_t size)
{
	int flags = IPC_CREAT | IPC_EXCL | (int)(desc->mode & 0777);

	if (kind == IMAGE_IPC_SEGMENT)
		return tracee_batch_try(batch, SYS_shmget, desc->key, size, flags);
	if (kind == IMAGE_IPC_SET)
		return tracee_batch_try(batch, SYS_semget, desc->key, size, flags);
	return tracee_batch_try(batch, SYS_msgget, desc->key, flags);
}

/* One try: the id that it got. */
static int make_once(struct restore_tree *tree, uint32_t kind, const IpcDescription *desc, uint64_t size, int *ret_id,
		     struct error *error)
{
	const struct restore_own_creds *own = &tree->host->creds;
	bool other = desc->cuid != own->uid[1] || desc->cgid != own->gid[1];
	struct tracee_batch *batch = tracee_batch_new();
	int index, r;

	if (!batch)
		return error_set_errno(error, -ENOMEM, "cannot make a System V %s", image_ipc_kind_name(kind));
	if (other) {
		tracee_batch_call(batch, SYS_setresgid, -1, desc->cgid, -1);
		tracee_batch_call(batch, SYS_setresuid, -1, desc->cuid, -1);
	}
	index = add_call(batch, kind, desc, size);
	if (other) {
		tracee_batch_call(batch, SYS_setresuid, -1, own->uid[1], -1);
		tracee_batch_call(batch, SYS_setresgid, -1, own->gid[1], -1);
	}
	r = set_next_id(kind, desc->id, error);
	if (r == 0)
		r = tracee_batch_run(restore_sysv_actor(tree, 0), batch, tree->deadline, error);
	if (r == 0 && tracee_batch_result(batch, index) < 0)
		r = error_set_errno(error, (int)tracee_batch_result(batch, index),
				    "cannot make the System V %s %u (key 0x%08x)", image_ipc_kind_name(kind), desc->id,
				    desc->key);
	if (r == 0)
		*ret_id = (int)tracee_batch_result(batch, index);
	tracee_batch_free(batch);
	return r;
}

/* The owner may be another one than the creator. */
static int set_owner(uint32_t kind, const IpcDescription *desc)
{
	struct shmid_ds segment = { .shm_perm = { .uid = desc->uid, .gid = desc->gid, .mode = desc->mode & 0777 } };
	struct semid_ds set = { .sem_perm = { .uid = desc->uid, .gid = desc->gid, .mode = desc->mode & 0777 } };
	union image_semun argument = { .set = &set };

	if (kind == IMAGE_IPC_SEGMENT)
		return shmctl((int)desc->id, IPC_SET, &segment);
	if (kind == IMAGE_IPC_SET)
		return semctl((int)desc->id, 0, IPC_SET, argument);
	return 0; /* sysv-msg.c sets the limit with it */
}

int restore_sysv_note(struct restore_tree *tree, const struct image_ipc *object)
{
	if (!tree->sysv)
		tree->sysv = calloc(1, sizeof(*tree->sysv));
	return tree->sysv ? array_append(&tree->sysv->list, *object) : -ENOMEM;
}

int restore_sysv_make(struct restore_tree *tree, uint32_t kind, const IpcDescription *desc, uint64_t size, struct error *error)
{
	struct image_ipc object = { .kind = kind, .id = desc->id, .key = desc->key };
	int id = -1, r;

	for (int tries = 0; id != (int)desc->id; tries++) {
		struct image_ipc wrong = { .kind = kind, .key = desc->key };

		r = make_once(tree, kind, desc, size, &id, error);
		if (r < 0)
			return r;
		if (id == (int)desc->id)
			break;
		wrong.id = (uint32_t)id;
		image_ipc_remove(&wrong);
		if (tries == MAKE_TRIES)
			return error_set(error, -EEXIST, "the id of System V %s %u is taken here", image_ipc_kind_name(kind),
					 desc->id);
	}
	if (restore_sysv_note(tree, &object) < 0) {
		image_ipc_remove(&object);
		return error_set(error, -ENOMEM, "out of memory");
	}
	return set_owner(kind, desc) < 0 ? error_set_errno(error, -errno, "cannot give System V %s %u its owner",
							   image_ipc_kind_name(kind), desc->id)
					 : 0;
}

void restore_sysv_free(struct restore_tree *tree)
{
	if (!tree->sysv)
		return;
	if (!tree->running)
		array_for_each(object, &tree->sysv->list)
			image_ipc_remove(object);
	image_ipcs_deinit(tree->sysv);
	free(tree->sysv);
	tree->sysv = NULL;
}

/* ---- preflight */

/* The object that has the index of that id, or -1. */
static int holder_of(uint32_t kind, uint32_t id)
{
	int index = (int)(id % 32768); /* IPCMNI of the kernel; with ipcmni_extend it may be more, and is less likely taken */
	struct shmid_ds segment;
	struct semid_ds set;
	struct msqid_ds queue;
	union image_semun argument = { .set = &set };

	if (kind == IMAGE_IPC_SEGMENT)
		return shmctl(index, SHM_STAT_ANY, &segment);
	if (kind == IMAGE_IPC_SET)
		return semctl(index, 0, SEM_STAT_ANY, argument);
	return msgctl(index, MSG_STAT_ANY, &queue);
}

static bool key_is_taken(uint32_t kind, uint32_t key)
{
	if (!key)
		return false;
	if (kind == IMAGE_IPC_SEGMENT)
		return shmget((key_t)key, 0, 0) >= 0;
	if (kind == IMAGE_IPC_SET)
		return semget((key_t)key, 0, 0) >= 0;
	return msgget((key_t)key, 0) >= 0;
}

static void check_name(const struct image_ipc *object, struct image_blockers *blockers)
{
	int fd = mq_open(object->name, O_RDONLY);

	if (fd >= 0 || errno != ENOENT)
		image_blockers_add(blockers, 0, "message queue", "its name is taken on the restoring host",
				   "remove the queue there, or restore in an IPC namespace of its own (unshare -i)", "%s",
				   object->name);
	if (fd >= 0)
		mq_close(fd);
}

static void check_object(const struct image_ipc *object, struct image_blockers *blockers)
{
	const char *name = image_ipc_kind_name(object->kind);
	char path[64], letter = *image_ipc_kind_short(object->kind);
	int holder = holder_of(object->kind, object->id);

	letter = object->kind == IMAGE_IPC_SEGMENT ? 'm' : letter == 's' ? 's' : 'q';
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s_next_id", image_ipc_kind_short(object->kind));
	if (access(path, W_OK) < 0)
		image_blockers_add(blockers, 0, "System V", "the kernel of the restoring host cannot give an object its id",
				   "restore on a kernel with CONFIG_CHECKPOINT_RESTORE, with CAP_CHECKPOINT_RESTORE",
				   "%s %u", name, object->id);
	else if (holder >= 0)
		image_blockers_add(blockers, 0, "System V",
				   "its id, or the slot that goes with it, is taken on the restoring host",
				   "remove the object there (ipcrm), or restore in an IPC namespace of its own (unshare -i)",
				   "%s %u (%d has the slot: ipcrm -%c %d)", name, object->id, holder, letter, holder);
	else if (key_is_taken(object->kind, object->key))
		image_blockers_add(blockers, 0, "System V", "its key is taken on the restoring host",
				   "remove the object there (ipcrm), or restore in an IPC namespace of its own (unshare -i)",
				   "%s %u, key 0x%08x", name, object->id, object->key);
}

int restore_sysv_check(const struct image_set *images, struct image_blockers *blockers, struct error *error)
{
	struct image_ipcs objects = { 0 };
	int r = image_ipc_list(images, &objects, error);

	array_for_each(object, &objects.list)
		if (r == 0)
			(object->kind == IMAGE_IPC_MQUEUE ? check_name : check_object)(object, blockers);
	image_ipcs_deinit(&objects);
	return r;
}
