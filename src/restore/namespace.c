/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors of namespaces: those that the tree is in here, asked of its root. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "ns.pb-c.h"
#include "restore/file-kind.h"

static const char *name_of(uint32_t flag)
{
	switch (flag) {
	case CLONE_NEWNS: return "mnt";
	case CLONE_NEWUTS: return "uts";
	case CLONE_NEWIPC: return "ipc";
	case CLONE_NEWUSER: return "user";
	case CLONE_NEWPID: return "pid";
	case CLONE_NEWNET: return "net";
	case CLONE_NEWCGROUP: return "cgroup";
	case CLONE_NEWTIME: return "time";
	default: return NULL;
	}
}

static int open_namespace(struct restore_tree *tree, struct restore_file *file, struct error *error)
{
	const NamespaceFd *message = file->message->nsf;
	const char *name = name_of(message->ns_cflag);
	FileOwner nobody = FILE_OWNER__INIT;
	char path[64];

	if (!name)
		return error_set(error, -EPROTO, "unknown kind %#x of a namespace", message->ns_cflag);
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", tree->processes.items[0]->pid, name);
	file->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (file->fd < 0)
		return error_set_errno(error, -errno, "opening %s", path);
	return restore_file_set(file->fd, message->flags, &nobody, error);
}

const struct restore_file_kind restore_kind_namespace = {
	.name = "namespace",
	.type = FILE_TYPE__FILE_NAMESPACE,
	.open = open_namespace,
};
