/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of UNIX sockets.
 *
 * Model. bind(2) makes the socket file and remembers the name as it was given; getsockname(2)
 * repeats it for ever. At the place of that name the source's own socket file may still be (one
 * file system, or one host), and until the commit it must stay there. So the file is made elsewhere
 * under the same name: a helper thread with a root directory of its own (unshare(CLONE_FS), chroot)
 * binds inside of a temporary directory beside the place. At the commit rename(2) puts it into its
 * place; its inode is a new one, its mode and owner are the old ones. When there is no commit, it
 * is removed.
 *
 * A socket whose path led to it no more is bound the same way, and its file is removed as soon as nobody of the tree has to
 * be connected by it any more.
 *
 * Failure modes: the directory is missing or read-only. Happy path: one thread, some 50 us.
 */
#include "restore/unix.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"

#define PATH_ROOM	(sizeof(((struct sockaddr_un *)0)->sun_path) + 1)
#define SPARE_DIRECTORY "/tmp"
#define STAGE_NAME	".pagestream-XXXXXX"

/* What the helper thread does. */
struct bind_work {
	int fd;
	const char *root; /* becomes its root directory */
	const char *path; /* as bound */
	int result;
};

/* "/a/./b/../c" -> "/a/c"; always begins with a slash. */
static void normalise(const char *path, char out[PATH_ROOM + 1])
{
	size_t used = 0;

	out[0] = '\0';
	while (*path) {
		size_t length = strcspn(path, "/");

		if (length == 2 && path[0] == '.' && path[1] == '.') {
			while (used > 0 && out[--used] != '/')
				;
			out[used] = '\0';
		} else if (length > 0 && !(length == 1 && path[0] == '.')) {
			out[used++] = '/';
			memcpy(out + used, path, length);
			used += length;
			out[used] = '\0';
		}
		path += length + (path[length] == '/');
	}
}

static int make_directories(const char *path)
{
	char normal[PATH_ROOM + 1];

	normalise(path, normal);
	for (char *slash = normal + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		if (mkdir(normal, 0700) < 0 && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	return 0;
}

static void *bind_thread(void *argument)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct bind_work *work = argument;
	size_t length = strlen(work->path);

	/* A path of all 108 bytes has no NUL at its end. */
	memcpy(address.sun_path, work->path,
	       length < sizeof(address.sun_path) ? length : sizeof(address.sun_path));
	if (length < sizeof(address.sun_path))
		length++;
	work->result = 0;
	if (unshare(CLONE_FS) < 0 || chroot(work->root) < 0 || chdir("/") < 0)
		work->result = -errno;
	if (work->result == 0)
		work->result = make_directories(work->path);
	umask(0);
	if (work->result == 0 &&
	    bind(work->fd, (struct sockaddr *)&address,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		work->result = -errno;
	return NULL;
}

static int bind_below(int fd, const char *root, const char *path)
{
	struct bind_work work = { .fd = fd, .root = root, .path = path };
	pthread_t thread;
	int r;

	r = pthread_create(&thread, NULL, bind_thread, &work);
	if (r != 0)
		return -r;
	pthread_join(thread, NULL);
	return work.result;
}

/*
 * Removes the directories between a staged socket file, which is gone, and the temporary directory.
 */
static void remove_directories(const struct restore_staged *staged)
{
	size_t root = strlen(staged->directory);
	char *slash;

	while ((slash = strrchr(staged->staged, '/')) && (size_t)(slash - staged->staged) >= root) {
		*slash = '\0';
		if (rmdir(staged->staged) < 0)
			break;
	}
}

static void free_staged(struct restore_staged *staged)
{
	free(staged->directory);
	free(staged->staged);
	free(staged->final);
}

static void discard_staged(struct restore_staged *staged)
{
	unlink(staged->staged);
	remove_directories(staged);
	free_staged(staged);
}

void restore_unix_forget_deleted(struct restore_files *files)
{
	size_t kept = 0;

	array_for_each (staged, &files->staged) {
		if (staged->deleted)
			discard_staged(staged);
		else
			files->staged.items[kept++] = *staged;
	}
	files->staged.count = kept;
}

void restore_unix_discard(struct restore_files *files)
{
	array_for_each (staged, &files->staged)
		discard_staged(staged);
	array_clear(&files->staged);
}

int restore_unix_commit(struct restore_files *files, struct error *error)
{
	int r = 0;

	array_for_each (staged, &files->staged) {
		if (rename(staged->staged, staged->final) < 0)
			r = error_set_errno(error, -errno,
					    "putting the socket file %s in its place",
					    staged->final);
		else
			remove_directories(staged);
	}
	array_for_each (staged, &files->staged)
		free_staged(staged);
	array_clear(&files->staged);
	return r;
}

/* The name as a string; false when it is none of a path. */
static bool path_of(const UnixSocket *message, char path[PATH_ROOM])
{
	if (message->name.len == 0 || message->name.data[0] == '\0' ||
	    message->name.len >= PATH_ROOM)
		return false;
	memcpy(path, message->name.data, message->name.len);
	path[message->name.len] = '\0';
	return true;
}

/* A name that the kernel chose (unix(7), autobind): any other will do as well. */
static bool is_chosen(const UnixSocket *message)
{
	if (message->name.len != 6)
		return false;
	for (size_t i = 1; i < 6; i++)
		if (!isxdigit(message->name.data[i]))
			return false;
	return true;
}

/*
 * A name that a connection has from a listening socket, which may still be there, is not `needed`.
 */
static int bind_abstract(int fd, const UnixSocket *message, bool needed, struct error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t family = offsetof(struct sockaddr_un, sun_path);
	int r;

	if (message->name.len > sizeof(address.sun_path))
		return error_set(error, -EPROTO, "name of a UNIX socket is too long");
	memcpy(address.sun_path, message->name.data, message->name.len);
	r = bind(fd, (struct sockaddr *)&address, family + (socklen_t)message->name.len) < 0
		    ? -errno
		    : 0;
	if (r == -EADDRINUSE && is_chosen(message))
		r = bind(fd, (struct sockaddr *)&address, family) < 0 ? -errno : 0;
	if (r == 0 || (r == -EADDRINUSE && !needed))
		return 0;
	return error_set_errno(error, r, "binding a UNIX socket to @%.*s",
			       (int)message->name.len - 1, (const char *)message->name.data + 1);
}

/* Where the file belongs in the end; owned by the caller. NULL without memory. */
static char *final_path(const UnixSocket *message, const char *path)
{
	char *final = NULL;
	int n;

	if (message->path)
		n = asprintf(&final, "%s", message->path);
	else if (path[0] == '/' || !message->name_dir)
		n = asprintf(&final, "%s", path);
	else
		n = asprintf(&final, "%s/%s", message->name_dir, path);
	return n < 0 ? NULL : final;
}

/* Fills in where the socket file goes first and last. */
static int plan_stage(const UnixSocket *message, const char *path, bool lasting,
		      struct restore_staged *ret)
{
	_cleanup_free_ char *place = NULL;
	char normal[PATH_ROOM + 1];

	ret->ino = message->ino;
	ret->deleted = !lasting;
	ret->final = final_path(message, path);
	if (!ret->final)
		return -ENOMEM;
	place = lasting ? strdup(ret->final) : strdup(SPARE_DIRECTORY "/x");
	if (!place || asprintf(&ret->directory, "%s/" STAGE_NAME, dirname(place)) < 0)
		return -ENOMEM;
	if (!mkdtemp(ret->directory))
		return -errno;
	normalise(path, normal);
	if (asprintf(&ret->staged, "%s%s", ret->directory, normal) < 0)
		return -ENOMEM;
	return 0;
}

/* What is in the place goes at the commit. A socket file there is an earlier one, or the source's own. */
static int check_place(const char *path, struct error *error)
{
	struct stat st;

	if (lstat(path, &st) < 0 || S_ISSOCK(st.st_mode))
		return 0;
	return error_set(error, -EEXIST, "there is something else at %s, where a UNIX socket is to be; remove it", path);
}

int restore_unix_bind(struct restore_files *files, int fd, const UnixSocket *message, bool place,
		      struct error *error)
{
	bool lasting = place && !message->deleted;
	struct restore_staged staged = { 0 };
	char path[PATH_ROOM];
	int r;

	if (message->name.len == 0)
		return 0;
	if (!path_of(message, path))
		return bind_abstract(fd, message, place, error);
	r = plan_stage(message, path, lasting, &staged);
	if (r == 0)
		r = bind_below(fd, staged.directory, path);
	if (r < 0)
		error_set_errno(error, r, "binding a UNIX socket to %s", path);
	else if (lasting)
		r = check_place(staged.final, error);
	if (r < 0) {
		if (staged.staged)
			discard_staged(&staged);
		else
			free_staged(&staged);
		return r;
	}
	if (message->file_perms &&
	    (chown(staged.staged, message->file_perms->uid, message->file_perms->gid) < 0 ||
	     chmod(staged.staged, message->file_perms->mode & 07777) < 0))
		r = error_set_errno(error, -errno, "setting owner and mode of %s", path);
	if (r == 0 && place && array_append(&files->staged, staged) < 0)
		r = error_set(error, -ENOMEM, "no memory for socket files");
	if (r < 0 || !place)
		discard_staged(&staged);
	return r;
}

int restore_unix_reach(struct restore_files *files, const UnixSocket *message,
		       struct sockaddr_un *ret_address, socklen_t *ret_size, int *ret_directory)
{
	char path[PATH_ROOM];

	if (message->name.len == 0 || message->name.len > sizeof(ret_address->sun_path))
		return -ENOENT;
	*ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*ret_directory = -1;
	if (!path_of(message, path)) {
		memcpy(ret_address->sun_path, message->name.data, message->name.len);
		*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + message->name.len);
		return 0;
	}
	array_for_each (staged, &files->staged) {
		_cleanup_free_ char *copy = NULL;

		if (staged->ino != message->ino)
			continue;
		copy = strdup(staged->staged);
		if (!copy)
			return -ENOMEM;
		*ret_directory = open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (*ret_directory < 0)
			return -errno;
		/* Through any process's eyes: a shell may be the one that connects. */
		snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/%d/fd/%d/%.70s", getpid(),
			 *ret_directory, strrchr(staged->staged, '/') + 1);
		*ret_size = sizeof(*ret_address);
		return 0;
	}
	return -ENOENT;
}
