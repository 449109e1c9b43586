/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump restore tracee image util proto */
/*
 * selfmove PID: moves a process tree onto the spot where it is. Stop, dump, copy its pages, kill it, build it anew under
 * the same PIDs, let it go; each phase's time is printed. No network, no tracking: the proof that dump and restore fit.
 * "selfmove PID dump" only stops, dumps, and lets go.
 *
 * If anything fails after the kill, the process is gone: this is a tool for tests.
 */
#include "move-common.h"
#include "util/parse.h"

int main(int argc, char **argv)
{
	static const struct dump_options dump_options = { .tcp_close = true };
	static const struct restore_options restore_options = { .tcp_close = true };
	struct move move = { .began = clock_now_ns(), .verbose = true };
	struct error error = ERROR_INIT;
	pid_t pid;
	int r;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 2 || parse_pid(argv[1], &pid, &error) < 0) {
		fprintf(stderr, "usage: selfmove PID [dump]\n");
		return 2;
	}
	r = argc > 2 ? move_take(&move, pid, &dump_options, &error)
		     : move_all(&move, pid, &dump_options, &restore_options, &error);
	if (r < 0)
		fprintf(stderr, "selfmove: %s\n", error_text(&error, r));
	move_deinit(&move);
	return r < 0;
}
