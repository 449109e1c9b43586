/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of a few hundred bytes, each replaced as a whole. */
#include "journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "util/buffer.h"
#include "util/cleanup.h"
#include "util/fdio.h"
#include "util/procfs.h"

#define ENTRY_MAX   (1u << 20)
#define FILE_NAME_SIZE 64
#define NAME_DIGITS (2 * JOURNAL_SESSION_SIZE)
#define NAME_SUFFIX ".journal"

static int make_dir(int at, const char *path, mode_t mode, struct error *error)
{
	if (mkdirat(at, path, mode) < 0 && errno != EEXIST)
		return error_set_errno(error, -errno, "cannot make the directory %s", path);
	return 0;
}

int journal_open_dir(const char *state_dir, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int state = -1;
	struct stat st;
	int fd, r;

	r = make_dir(AT_FDCWD, state_dir, 0755, error);
	if (r < 0)
		return r;
	state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state < 0)
		return error_set_errno(error, -errno, "cannot open the state directory %s", state_dir);
	r = make_dir(state, "sessions", 0700, error);
	if (r < 0)
		return r;
	fd = openat(state, "sessions", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return error_set_errno(error, -errno, "cannot open %s/sessions", state_dir);
	if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 022)) {
		close(fd);
		return error_set(error, -EPERM, "%s/sessions belongs to somebody else or others may write there; remove it",
				 state_dir);
	}
	*ret_fd = fd;
	return 0;
}

static void entry_name(const uint8_t *session, char name[FILE_NAME_SIZE])
{
	for (size_t i = 0; i < JOURNAL_SESSION_SIZE; i++)
		sprintf(name + 2 * i, "%02x", session[i]);
	strcpy(name + NAME_DIGITS, NAME_SUFFIX);
}

int journal_write(int dir_fd, const JournalEntry *entry, struct error *error)
{
	_cleanup_free_ uint8_t *packed = NULL;
	char name[FILE_NAME_SIZE];
	size_t size = journal_entry__get_packed_size(entry);
	int r;

	if (entry->session.len != JOURNAL_SESSION_SIZE || size > ENTRY_MAX)
		return error_set(error, -EINVAL, "a journal entry of %zu bytes cannot be written", size);
	packed = malloc(size);
	if (!packed)
		return error_set_errno(error, -ENOMEM, "cannot write the journal");
	journal_entry__pack(entry, packed);
	entry_name(entry->session.data, name);
	r = fdio_replace_file(dir_fd, name, packed, size, 0600);
	return r < 0 ? error_set_errno(error, r, "cannot write the journal %s", name) : 0;
}

static int read_entry(int dir_fd, const char *name, JournalEntry **ret, struct error *error)
{
	_cleanup_buffer_ struct buffer bytes = BUFFER_INIT;
	JournalEntry *entry;
	int r = fdio_read_file(dir_fd, name, ENTRY_MAX, &bytes);

	if (r < 0)
		return error_set_errno(error, r, "cannot read the journal %s", name);
	entry = journal_entry__unpack(NULL, bytes.size, bytes.data);
	if (!entry || entry->session.len != JOURNAL_SESSION_SIZE) {
		if (entry)
			journal_entry__free_unpacked(entry, NULL);
		return error_set(error, -EPROTO, "the journal %s is damaged", name);
	}
	*ret = entry;
	return 0;
}

int journal_read(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], JournalEntry **ret, struct error *error)
{
	char name[FILE_NAME_SIZE];

	entry_name(session, name);
	return read_entry(dir_fd, name, ret, error);
}

int journal_list(int dir_fd, struct journal_list *ret, struct error *error)
{
	struct journal_list list = { 0 };
	_cleanup_dir_ DIR *dir = NULL;
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	struct dirent *file;

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return error_set_errno(error, r, "cannot list the journals");
	}
	while (r == 0 && (file = readdir(dir))) {
		JournalEntry *entry;

		if (strlen(file->d_name) != NAME_DIGITS + strlen(NAME_SUFFIX) ||
		    strcmp(file->d_name + NAME_DIGITS, NAME_SUFFIX) != 0 ||
		    read_entry(dir_fd, file->d_name, &entry, NULL) < 0)
			continue;
		if (array_append(&list.entries, entry) < 0) {
			journal_entry__free_unpacked(entry, NULL);
			r = error_set_errno(error, -ENOMEM, "cannot list the journals");
		}
	}
	if (r < 0)
		journal_list_deinit(&list);
	else
		*ret = list;
	return r;
}

void journal_list_deinit(struct journal_list *list)
{
	array_for_each(entry, &list->entries)
		journal_entry__free_unpacked(*entry, NULL);
	array_deinit(&list->entries);
}

int journal_remove(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], struct error *error)
{
	char name[FILE_NAME_SIZE];

	entry_name(session, name);
	if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)
		return error_set_errno(error, -errno, "cannot remove the journal %s", name);
	return 0;
}

int journal_name(int dir_fd, const uint8_t session[JOURNAL_SESSION_SIZE], char ret[JOURNAL_NAME_SIZE], struct error *error)
{
	char name[FILE_NAME_SIZE];
	struct stat st;

	if (fstat(dir_fd, &st) < 0)
		return error_set_errno(error, -errno, "cannot look at the directory of the journals");
	entry_name(session, name);
	snprintf(ret, JOURNAL_NAME_SIZE, "%.*s-%llx", NAME_DIGITS, name, (unsigned long long)(st.st_ino ^ st.st_dev << 40));
	return 0;
}

bool journal_name_parse(int dir_fd, const char *name, uint8_t ret_session[JOURNAL_SESSION_SIZE])
{
	uint8_t session[JOURNAL_SESSION_SIZE];
	char again[JOURNAL_NAME_SIZE];

	for (size_t i = 0; i < JOURNAL_SESSION_SIZE; i++)
		if (sscanf(name + 2 * i, "%2hhx", &session[i]) != 1)
			return false;
	if (journal_name(dir_fd, session, again, NULL) < 0 || strcmp(name, again) != 0)
		return false;
	memcpy(ret_session, session, sizeof(session));
	return true;
}

int journal_process_fill(JournalProcess *entry, pid_t pid, struct error *error)
{
	struct procfs_stat stat;
	int r = procfs_read_stat(pid, &stat, error);

	if (r < 0)
		return r;
	journal_process__init(entry);
	entry->pid = pid;
	entry->start_time = stat.start_time;
	return 0;
}

int journal_process_alive(const JournalProcess *entry)
{
	struct procfs_stat stat;

	return procfs_read_stat(entry->pid, &stat, NULL) == 0 && stat.start_time == entry->start_time &&
	       (stat.threads > 1 || (stat.state != 'Z' && stat.state != 'X'));
}

int journal_boot_id(char ret[JOURNAL_BOOT_ID_MAX], struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r = fdio_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 256, &text);

	if (r < 0)
		return error_set_errno(error, r, "cannot read the boot id of the kernel");
	snprintf(ret, JOURNAL_BOOT_ID_MAX, "%.36s", (const char *)text.data);
	return 0;
}

const char *journal_phase_name(unsigned phase)
{
	static const char *const names[] = {
		[JOURNAL_STARTED] = "started",     [JOURNAL_PREPARED] = "prepared", [JOURNAL_COMMITTED] = "committed",
		[JOURNAL_RUNNING] = "running",     [JOURNAL_ABORTED] = "aborted",   [JOURNAL_DONE] = "done",
		[JOURNAL_IN_DOUBT] = "in doubt",
	};

	return phase < sizeof(names) / sizeof(names[0]) && names[phase] ? names[phase] : "unknown";
}
