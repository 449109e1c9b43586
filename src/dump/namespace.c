/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors of namespaces (/proc/PID/ns): of those that the process is in itself, which is the same namespace as that of
 * every process of a tree that can be moved. Any other is a blocker: on the target there is none.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "dump/file-kind.h"
#include "ns.pb-c.h"

static const struct {
	const char *name; /* in /proc/PID/ns, and before the colon of the link */
	uint32_t flag;
} namespaces[] = {
	{ "mnt", CLONE_NEWNS },	    { "uts", CLONE_NEWUTS }, { "ipc", CLONE_NEWIPC },	    { "user", CLONE_NEWUSER },
	{ "pid", CLONE_NEWPID },    { "net", CLONE_NEWNET }, { "cgroup", CLONE_NEWCGROUP }, { "time", CLONE_NEWTIME },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* The kind that the link "net:[4026531840]" names, or -1. */
static int kind_of(const struct dump_file *file)
{
	for (size_t i = 0; i < COUNT(namespaces); i++) {
		size_t length = strlen(namespaces[i].name);

		if (strncmp(file->link, namespaces[i].name, length) == 0 && strncmp(file->link + length, ":[", 2) == 0)
			return (int)i;
	}
	return -1;
}

static bool match(const struct dump_file *file)
{
	return kind_of(file) >= 0 && !(file->flags & O_PATH);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	NamespaceFd message = NAMESPACE_FD__INIT;
	OpenFile open = OPEN_FILE__INIT;
	int kind = kind_of(file);
	struct stat own;
	char path[32];

	snprintf(path, sizeof(path), "ns/%s", namespaces[kind].name);
	if (fstatat(file->process->proc_fd, path, &own, 0) < 0 || own.st_dev != file->st.st_dev ||
	    own.st_ino != file->st.st_ino) {
		dump_file_refuse(ctx, file, IMAGE_KIND_NAMESPACE_OTHER);
		return 0;
	}
	message.id = file->id;
	message.ns_id = (uint32_t)file->st.st_ino;
	message.ns_cflag = namespaces[kind].flag;
	message.flags = file->flags;
	open.type = FILE_TYPE__FILE_NAMESPACE;
	open.id = file->id;
	open.nsf = &message;
	return dump_file_add(ctx, &open, error);
}

const struct dump_file_kind dump_kind_namespace = {
	.name = "namespace",
	.type = FILE_TYPE__FILE_NAMESPACE,
	.match = match,
	.dump = dump,
};
