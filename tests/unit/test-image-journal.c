/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"

#include "image/journal.h"

struct place {
	char dir[64];
	int fd;
};

static int setup(void **state)
{
	struct place *place = calloc(1, sizeof(*place));
	char path[96];

	scratch_directory(place->dir, sizeof(place->dir), "journal");
	snprintf(path, sizeof(path), "%s/state", place->dir);
	assert_int_equal(journal_open_dir(path, &place->fd, NULL), 0);
	*state = place;
	return 0;
}

static int teardown(void **state)
{
	struct place *place = *state;
	char path[96];
	struct journal_list list = { 0 };

	assert_int_equal(journal_list(place->fd, &list, NULL), 0);
	array_for_each(entry, &list.entries)
		journal_remove(place->fd, (*entry)->session.data, NULL);
	journal_list_deinit(&list);
	close(place->fd);
	snprintf(path, sizeof(path), "%s/state/sessions", place->dir);
	rmdir(path);
	snprintf(path, sizeof(path), "%s/state", place->dir);
	rmdir(path);
	rmdir(place->dir);
	free(place);
	return 0;
}

static void fill(JournalEntry *entry, uint8_t *session, uint8_t first)
{
	memset(session, 0xab, JOURNAL_SESSION_SIZE);
	session[0] = first;
	journal_entry__init(entry);
	entry->session.data = session;
	entry->session.len = JOURNAL_SESSION_SIZE;
	entry->side = JOURNAL_TARGET;
	entry->phase = JOURNAL_PREPARED;
}

static void comes_back_as_written(void **state)
{
	struct place *place = *state;
	JournalProcess process, *processes[] = { &process };
	uint8_t session[JOURNAL_SESSION_SIZE];
	JournalEntry entry, *read = NULL;

	fill(&entry, session, 1);
	assert_int_equal(journal_process_fill(&process, getpid(), NULL), 0);
	entry.processes = processes;
	entry.n_processes = 1;
	entry.peer = (char *)"10.0.0.1:7711";
	assert_int_equal(journal_write(place->fd, &entry, NULL), 0);
	entry.phase = JOURNAL_COMMITTED;
	assert_int_equal(journal_write(place->fd, &entry, NULL), 0);
	assert_int_equal(journal_read(place->fd, session, &read, NULL), 0);
	assert_int_equal(read->phase, JOURNAL_COMMITTED);
	assert_string_equal(read->peer, "10.0.0.1:7711");
	assert_int_equal(read->n_processes, 1);
	assert_true(journal_process_alive(read->processes[0]));
	read->processes[0]->start_time++;
	assert_false(journal_process_alive(read->processes[0]));
	journal_entry__free_unpacked(read, NULL);
}

static void lists_all_and_skips_what_is_damaged(void **state)
{
	static const char *const bad = "00000000000000000000000000000000.journal";
	struct place *place = *state;
	struct journal_list list = { 0 };
	uint8_t session[JOURNAL_SESSION_SIZE];
	JournalEntry entry;
	int fd = openat(place->fd, bad, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0 && write(fd, "xyz", 3) == 3);
	close(fd);
	for (uint8_t i = 1; i <= 3; i++) {
		fill(&entry, session, i);
		assert_int_equal(journal_write(place->fd, &entry, NULL), 0);
	}
	assert_int_equal(journal_list(place->fd, &list, NULL), 0);
	assert_int_equal(list.entries.count, 3);
	journal_list_deinit(&list);
	unlinkat(place->fd, bad, 0);
}

static void says_what_is_wrong(void **state)
{
	struct place *place = *state;
	uint8_t session[JOURNAL_SESSION_SIZE];
	struct error error = ERROR_INIT;
	JournalEntry entry, *read = NULL;
	struct stat st;

	fill(&entry, session, 9);
	assert_int_equal(journal_read(place->fd, session, &read, &error), -ENOENT);
	assert_non_null(strstr(error.message, "09ababab"));
	assert_int_equal(journal_remove(place->fd, session, NULL), 0);
	entry.session.len = 3;
	error_clear(&error);
	assert_int_equal(journal_write(place->fd, &entry, &error), -EINVAL);
	assert_int_equal(fstat(place->fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
}

/* The same state directory knows its own names, and no others. */
static void names_what_lies_outside(void **state)
{
	struct place *place = *state, *other;
	uint8_t session[JOURNAL_SESSION_SIZE], parsed[JOURNAL_SESSION_SIZE] = { 0 };
	char name[JOURNAL_NAME_SIZE];
	JournalEntry entry;
	void *second;

	assert_int_equal(setup(&second), 0);
	other = second;
	fill(&entry, session, 7);
	assert_int_equal(journal_name(place->fd, session, name, NULL), 0);
	assert_true(journal_name_parse(place->fd, name, parsed));
	assert_memory_equal(parsed, session, sizeof(session));
	assert_false(journal_name_parse(other->fd, name, parsed));
	assert_false(journal_name_parse(place->fd, "", parsed));
	name[3] = 'x';
	assert_false(journal_name_parse(place->fd, name, parsed));
	assert_int_equal(teardown(&second), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(comes_back_as_written, setup, teardown),
		cmocka_unit_test_setup_teardown(lists_all_and_skips_what_is_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(says_what_is_wrong, setup, teardown),
		cmocka_unit_test_setup_teardown(names_what_lies_outside, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
