/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: image util proto */
/* A page server that runs for weeks does not keep all journals of its time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"

#include "pageserver/recover.h"

#define DAY (24 * 3600)

static void put(const struct registry *registry, uint8_t first, enum journal_phase phase, int age)
{
	uint8_t session[JOURNAL_SESSION_SIZE] = { first };
	JournalEntry entry = JOURNAL_ENTRY__INIT;

	entry.session.data = session;
	entry.session.len = sizeof(session);
	entry.side = JOURNAL_TARGET;
	entry.phase = phase;
	entry.has_started = true;
	entry.started = (uint64_t)(time(NULL) - age);
	assert_int_equal(journal_write(registry->dir_fd, &entry, NULL), 0);
}

static bool is_there(const struct registry *registry, uint8_t first)
{
	uint8_t session[JOURNAL_SESSION_SIZE] = { first };
	JournalEntry *entry;

	if (journal_read(registry->dir_fd, session, &entry, NULL) < 0)
		return false;
	journal_entry__free_unpacked(entry, NULL);
	return true;
}

static void old_ones_go(void **state)
{
	struct pageserver_options options = { 0 };
	struct registry registry;
	struct log log = { 0 };
	char dir[64], sessions[80];

	scratch_directory(dir, sizeof(dir), "prune");
	options.state_dir = dir;
	assert_int_equal(registry_init(&registry, &options, &log, NULL), 0);
	put(&registry, 1, JOURNAL_DONE, 8 * DAY);
	put(&registry, 2, JOURNAL_ABORTED, 8 * DAY);
	put(&registry, 3, JOURNAL_DONE, 6 * DAY);
	put(&registry, 4, JOURNAL_RUNNING, 8 * DAY);
	put(&registry, 5, JOURNAL_IN_DOUBT, 8 * DAY);
	recover_prune(&registry);
	assert_false(is_there(&registry, 1));
	assert_false(is_there(&registry, 2));
	assert_true(is_there(&registry, 3));
	assert_true(is_there(&registry, 4));
	assert_true(is_there(&registry, 5));

	/* Not with each session that ends. */
	put(&registry, 1, JOURNAL_DONE, 8 * DAY);
	recover_prune(&registry);
	assert_true(is_there(&registry, 1));
	for (uint8_t i = 1; i <= 5; i++) {
		uint8_t session[JOURNAL_SESSION_SIZE] = { i };

		assert_int_equal(journal_remove(registry.dir_fd, session, NULL), 0);
	}
	registry_deinit(&registry);
	snprintf(sessions, sizeof(sessions), "%s/sessions", dir);
	rmdir(sessions);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(old_ones_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
