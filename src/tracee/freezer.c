/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cgroup v2 freezer, through a directory descriptor of the hierarchy's root. All names below it
 * are relative paths.
 *
 * State is in the kernel only: taking over an existing cgroup finds it frozen or not. Where each
 * process came from is remembered in memory; an agent that starts anew puts them into the parent
 * cgroup.
 */
#include "freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "util/array.h"
#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/fdio.h"

#define CGROUP2_MAGIC 0x63677270
#define FILE_MAX      (1u << 20)

struct freezer_origin {
	pid_t pid;
	char *path; /* cgroup it was in; owned */
};

struct freezer {
	int root_fd;  /* owned: root of the v2 hierarchy */
	char *parent; /* owned: path of the parent cgroup, "." for the root */
	char *path;   /* owned: path of the cgroup, without leading slash */
	ARRAY(struct freezer_origin) origins;
};

/* ---- the hierarchy */

/*
 * Only where none is mounted: every new mount of the hierarchy replaces the options that all its
 * mounts share (nsdelegate and others), and those of a running system are not ours to change.
 */
static int mount_detached(void)
{
	_cleanup_fd_ int fs = fsopen("cgroup2", FSOPEN_CLOEXEC);
	int fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_mounted(void)
{
	static const char *const places[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		_cleanup_fd_ int fd = open(places[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		struct statfs fs;

		if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_MAGIC)
			return steal_fd(&fd);
	}
	return -EOPNOTSUPP;
}

/* The path of the process in the v2 hierarchy, without leading slash; "." for the root. Allocated.
 */
static int read_cgroup(pid_t pid, char **ret, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char path[64], *line, *rest;
	int r;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	r = fdio_read_file(AT_FDCWD, path, FILE_MAX, &text);
	if (r < 0)
		return error_set_errno(error, r == -ENOENT ? -ESRCH : r, "cannot read %s", path);
	for (line = strtok_r((char *)text.data, "\n", &rest); line;
	     line = strtok_r(NULL, "\n", &rest)) {
		if (strncmp(line, "0::/", 4) != 0)
			continue;
		*ret = strdup(line[4] ? line + 4 : ".");
		return *ret ? 0 : error_set(error, -ENOMEM, "out of memory");
	}
	return error_set(error, -EOPNOTSUPP, "PID %d is in no cgroup of version 2", pid);
}

static int write_file(const struct freezer *freezer, const char *cgroup, const char *name,
		      const char *value)
{
	char path[PATH_MAX];
	_cleanup_fd_ int fd = -1;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", cgroup, name) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = openat(freezer->root_fd, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

static int read_file(const struct freezer *freezer, const char *name, struct buffer *buffer)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", freezer->path, name) >= sizeof(path))
		return -ENAMETOOLONG;
	return fdio_read_file(freezer->root_fd, path, FILE_MAX, buffer);
}

/* ---- the cgroup */

static int make(struct freezer *freezer, const char *parent, const char *name)
{
	bool root = strcmp(parent, ".") == 0;
	char *path = NULL;

	if (asprintf(&path, "%s%s%s", root ? "" : parent, root ? "" : "/", name) < 0)
		return -ENOMEM;
	if (mkdirat(freezer->root_fd, path, 0755) < 0 && errno != EEXIST) {
		int r = -errno;

		free(path);
		return r;
	}
	free(freezer->path);
	freezer->path = path;
	return 0;
}

/* A process that is in the cgroup already: the parent is the one above. "." is the root. */
static void step_out(char *path, const char *name)
{
	char *slash = strrchr(path, '/');

	if (strcmp(slash ? slash + 1 : path, name) != 0)
		return;
	if (slash)
		*slash = '\0';
	else
		strcpy(path, ".");
}

static int open_hierarchy(struct freezer *freezer, struct error *error)
{
	freezer->root_fd = open_mounted();
	if (freezer->root_fd < 0)
		freezer->root_fd = mount_detached();
	if (freezer->root_fd < 0)
		return error_set(error, -EOPNOTSUPP, "this system has no cgroup v2 hierarchy");
	return 0;
}

int freezer_open(const char *path, struct freezer **ret, struct error *error)
{
	struct freezer *freezer = calloc(1, sizeof(*freezer));
	const char *slash = strrchr(path, '/');
	int r;

	if (!freezer)
		return error_set(error, -ENOMEM, "out of memory");
	r = open_hierarchy(freezer, error);
	if (r == 0 && faccessat(freezer->root_fd, path, F_OK, 0) < 0)
		r = error_set_errno(error, -errno, "cannot open the cgroup %s", path);
	if (r == 0) {
		freezer->path = strdup(path);
		freezer->parent = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
		if (!freezer->path || !freezer->parent)
			r = error_set(error, -ENOMEM, "out of memory");
	}
	if (r < 0) {
		freezer_free(freezer);
		return r;
	}
	*ret = freezer;
	return 0;
}

int freezer_new(const char *name, pid_t pid, struct freezer **ret, struct error *error)
{
	struct freezer *freezer = calloc(1, sizeof(*freezer));
	int r;

	if (!freezer)
		return error_set(error, -ENOMEM, "out of memory");
	r = open_hierarchy(freezer, error);
	if (r == 0)
		r = read_cgroup(pid, &freezer->parent, error);
	if (r == 0)
		step_out(freezer->parent, name);
	if (r == 0 && make(freezer, freezer->parent, name) < 0) {
		strcpy(freezer->parent, ".");
		r = make(freezer, ".", name);
		if (r < 0)
			error_set_errno(error, r, "cannot make the cgroup %s", name);
	}
	if (r < 0) {
		freezer_free(freezer);
		return r;
	}
	*ret = freezer;
	return 0;
}

void freezer_free(struct freezer *freezer)
{
	if (!freezer)
		return;
	array_for_each (origin, &freezer->origins)
		free(origin->path);
	array_deinit(&freezer->origins);
	if (freezer->root_fd >= 0)
		close(freezer->root_fd);
	free(freezer->parent);
	free(freezer->path);
	free(freezer);
}

const char *freezer_path(const struct freezer *freezer)
{
	return freezer->path;
}

static int move(struct freezer *freezer, pid_t pid, const char *cgroup, struct error *error)
{
	char value[16];
	int r;

	snprintf(value, sizeof(value), "%d", pid);
	r = write_file(freezer, cgroup, "cgroup.procs", value);
	if (r < 0)
		return error_set_errno(error, r, "cannot move PID %d into the cgroup %s", pid,
				       cgroup);
	return 0;
}

int freezer_add(struct freezer *freezer, pid_t pid, struct error *error)
{
	struct freezer_origin origin = { .pid = pid };
	int r = read_cgroup(pid, &origin.path, error);

	if (r < 0)
		return r;
	if (strcmp(origin.path, freezer->path) == 0) {
		free(origin.path);
		return 0;
	}
	r = move(freezer, pid, freezer->path, error);
	if (r == 0 && array_append(&freezer->origins, origin) < 0)
		r = error_set(error, -ENOMEM, "out of memory");
	if (r < 0)
		free(origin.path);
	return r;
}

int freezer_restore(struct freezer *freezer, pid_t pid, struct error *error)
{
	const char *origin = freezer->parent;
	struct freezer_origin *known = NULL;
	int r;

	array_for_each (at, &freezer->origins) {
		if (at->pid == pid)
			known = at;
	}
	if (known)
		origin = known->path;
	r = move(freezer, pid, origin, error);
	if (r == 0 && known) {
		free(known->path);
		*known = freezer->origins.items[--freezer->origins.count];
	}
	return r;
}

int freezer_is_frozen(struct freezer *freezer, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r = read_file(freezer, "cgroup.events", &text);

	if (r < 0)
		return error_set_errno(error, r, "cannot read the state of the cgroup %s",
				       freezer->path);
	return strstr((const char *)text.data, "frozen 1") != NULL;
}

int freezer_process_is_frozen(pid_t pid, char **ret_cgroup)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	struct freezer look = { .root_fd = -1 };
	_cleanup_free_ char *cgroup = NULL;
	_cleanup_fd_ int root = open_mounted();
	int r;

	if (root < 0)
		return root;
	r = read_cgroup(pid, &cgroup, NULL);
	if (r < 0)
		return r;
	look.root_fd = root;
	look.path = cgroup;
	r = read_file(&look, "cgroup.events", &text);
	if (r == -ENOENT)
		return 0; /* the root has none */
	if (r < 0)
		return r;
	if (!strstr((const char *)text.data, "frozen 1"))
		return 0;
	*ret_cgroup = steal_ptr(&cgroup);
	return 1;
}

static int set_state(struct freezer *freezer, bool frozen, bool wait, int64_t deadline,
		     struct error *error)
{
	struct timespec pause = { .tv_sec = 0, .tv_nsec = 20 * 1000 };
	int r = write_file(freezer, freezer->path, "cgroup.freeze", frozen ? "1" : "0");

	if (r < 0)
		return error_set_errno(error, r, "cannot %s the cgroup %s",
				       frozen ? "freeze" : "thaw", freezer->path);
	while (wait) {
		r = freezer_is_frozen(freezer, error);
		if (r < 0)
			return r;
		if (r == frozen)
			return 0;
		if (clock_now_ns() >= deadline)
			return error_set(error, -ETIMEDOUT, "the cgroup %s did not %s in time",
					 freezer->path, frozen ? "freeze" : "thaw");
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 1000 * 1000)
			pause.tv_nsec *= 2;
	}
	return 0;
}

int freezer_freeze(struct freezer *freezer, bool wait_frozen, int64_t deadline, struct error *error)
{
	return set_state(freezer, true, wait_frozen, deadline, error);
}

int freezer_thaw(struct freezer *freezer, int64_t deadline, struct error *error)
{
	return set_state(freezer, false, true, deadline, error);
}

int freezer_thaw_nowait(struct freezer *freezer, struct error *error)
{
	return set_state(freezer, false, false, 0, error);
}

int freezer_kill(struct freezer *freezer, struct error *error)
{
	int r = write_file(freezer, freezer->path, "cgroup.kill", "1");

	return r < 0 ? error_set_errno(error, r, "cannot end what is in the cgroup %s", freezer->path) : 0;
}

/* Whoever is still in there goes to where it came from, as far as that is known. */
static int empty(struct freezer *freezer, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	char *line, *rest;
	int r = read_file(freezer, "cgroup.procs", &text);

	if (r < 0)
		return r == -ENOENT ? 0
				    : error_set_errno(error, r, "cannot list the cgroup %s",
						      freezer->path);
	for (line = strtok_r((char *)text.data, "\n", &rest); line && r == 0;
	     line = strtok_r(NULL, "\n", &rest)) {
		r = freezer_restore(freezer, atoi(line), error);
		if (r == -ESRCH) {
			error_clear(error);
			r = 0;
		}
	}
	return r;
}

int freezer_remove(struct freezer *freezer, int64_t deadline, struct error *error)
{
	const struct timespec pause = { .tv_sec = 0, .tv_nsec = 1000 * 1000 };
	struct error local = ERROR_INIT;
	int r;

	for (;;) {
		r = empty(freezer, &local);
		if (r < 0)
			return error_set(error, r, "%s", error_text(&local, r));
		/* a process that has just ended may hold the cgroup for a moment longer */
		if (unlinkat(freezer->root_fd, freezer->path, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		r = -errno;
		if (r != -EBUSY || clock_now_ns() >= deadline)
			return error_set_errno(error, r, "cannot remove the cgroup %s",
					       freezer->path);
		nanosleep(&pause, NULL);
	}
}
