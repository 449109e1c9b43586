/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The migrate command: a table of subcommands, each parses its options and calls src/migrate once. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "image/journal.h"
#include "lazy/lazy.h"
#include "migrate-summary.h"
#include "migrate/send.h"
#include "transport/keys.h"
#include "transport/tls.h"
#include "transport/wire.h"
#include "util/array.h"
#include "util/clock.h"
#include "util/fdio.h"
#include "util/parse.h"

#define DOWNTIME_LIMIT_MS_DEFAULT 10
#define DOWNTIME_MOST_MS_DEFAULT 300 /* mode precopy, where the user has not said: nobody waits for less and gets nothing */

enum {
	OPT_TO = COMMAND_LONG, OPT_TLS_DIR, OPT_STATE_DIR, OPT_MODE, OPT_DOWNTIME, OPT_BANDWIDTH, OPT_STREAMS, OPT_HOOK,
	OPT_TCP_CLOSE, OPT_EXT_UNIX, OPT_DRY_RUN, OPT_JSON, OPT_DIR, OPT_NAME, OPT_CLIENT, OPT_THAW, OPT_KILL,
};

static int take_program(const char *name, const char **ret, struct error *error)
{
	int r = command_take_text(name, ret, error);

	if (r == 0 && access(optarg, X_OK) < 0)
		r = error_set_errno(error, -errno, "%s: cannot run '%s'", name, optarg);
	return r;
}

/* ---- send */

static int parse_mode(const char *text, enum migrate_mode *ret, struct error *error)
{
	if (strcmp(text, "hybrid") == 0)
		*ret = MIGRATE_HYBRID;
	else if (strcmp(text, "precopy") == 0)
		*ret = MIGRATE_PRECOPY;
	else if (strcmp(text, "postcopy") == 0)
		*ret = MIGRATE_POSTCOPY;
	else
		return error_set(error, -EINVAL, "--mode: '%s' is not hybrid, precopy or postcopy", text);
	return 0;
}

static int send_option(int option, struct migrate_options *options, struct error *error)
{
	uint64_t number = 0;
	int r = 0;

	switch (option) {
	case OPT_TO: options->to = optarg; break;
	case OPT_TLS_DIR: r = command_take_text("--tls-dir", &options->tls_dir, error); break;
	case OPT_STATE_DIR: r = command_take_text("--state-dir", &options->state_dir, error); break;
	case OPT_HOOK: r = take_program("--hook", &options->hook, error); break;
	case OPT_MODE: r = parse_mode(optarg, &options->mode, error); break;
	case OPT_DOWNTIME:
		r = parse_uint(optarg, 3600000, "--downtime-limit", &number, error);
		options->downtime_limit_ns = options->downtime_most_ns = number * (uint64_t)CLOCK_MS;
		break;
	case OPT_BANDWIDTH:
		r = parse_size(optarg, "--max-bandwidth", &options->max_bandwidth, error);
		if (r == 0 && options->max_bandwidth == 0)
			r = error_set(error, -EINVAL, "--max-bandwidth: nothing can be sent with '%s'", optarg);
		break;
	case OPT_STREAMS:
		r = parse_uint(optarg, WIRE_BULK_MAX, "--streams", &number, error);
		if (r == 0 && number == 0)
			r = error_set(error, -EINVAL, "--streams: '%s' is not enough: one is needed", optarg);
		options->streams = (uint32_t)number;
		break;
	case OPT_TCP_CLOSE: options->tcp_close = true; break;
	case OPT_EXT_UNIX: options->ext_unix = true; break;
	case OPT_DRY_RUN: options->dry_run = true; break;
	case OPT_JSON: options->json = true; break;
	default: break;
	}
	return r;
}

static int check_target(const char *to, struct error *error)
{
	struct parse_address address;
	int r = parse_host_port(to, 0, &address, error);

	if (r == 0 && strtoul(address.port, NULL, 10) == 0)
		r = error_set(error, -EINVAL, "'%s' has port 0, where nobody listens", to);
	return r < 0 ? error_wrap(error, r, "--to") : 0;
}

static int parse_send(int argc, char **argv, struct migrate_options *options, struct log *log, struct error *error)
{
	static const struct option table[] = {
		{ "to", required_argument, NULL, OPT_TO },
		{ "tls-dir", required_argument, NULL, OPT_TLS_DIR },
		{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
		{ "mode", required_argument, NULL, OPT_MODE },
		{ "downtime-limit", required_argument, NULL, OPT_DOWNTIME },
		{ "max-bandwidth", required_argument, NULL, OPT_BANDWIDTH },
		{ "streams", required_argument, NULL, OPT_STREAMS },
		{ "hook", required_argument, NULL, OPT_HOOK },
		{ "tcp-close", no_argument, NULL, OPT_TCP_CLOSE },
		{ "ext-unix-sk", no_argument, NULL, OPT_EXT_UNIX },
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "verbose", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":v", table, NULL)) != -1) {
		if (option == '?' || option == ':') {
			r = command_bad_option(option, argv, error);
		} else if (option == 'v') {
			log->level = LOG_DEBUG;
			log->timestamps = true;
		} else {
			r = send_option(option, options, error);
		}
	}
	if (r == 0 && !options->to)
		r = error_set(error, -EINVAL, "send needs --to HOST:PORT");
	if (r == 0 && optind < argc - 1)
		r = error_set(error, -EINVAL, "send needs one PID, and '%s' is another one", argv[optind + 1]);
	if (r == 0 && optind == argc)
		r = error_set(error, -EINVAL, "send needs one PID");
	if (r == 0)
		r = check_target(options->to, error);
	return r < 0 ? r : parse_pid(argv[optind], &options->pid, error);
}

/* One on which a line can be drawn in place. */
static bool is_terminal(int fd)
{
	const char *term = getenv("TERM");

	return isatty(fd) && term && strcmp(term, "dumb") != 0;
}

static int run_send(int argc, char **argv, struct log *log)
{
	struct migrate_options options = {
		.tls_dir = TLS_DIR_DEFAULT,
		.state_dir = JOURNAL_STATE_DIR_DEFAULT,
		.downtime_limit_ns = DOWNTIME_LIMIT_MS_DEFAULT * (uint64_t)CLOCK_MS,
		.downtime_most_ns = DOWNTIME_MOST_MS_DEFAULT * (uint64_t)CLOCK_MS,
		.streams = 1,
	};
	struct log_status status = LOG_STATUS_INIT;
	struct migrate_summary summary;
	struct error error = ERROR_INIT;
	int outcome, r;

	if (parse_send(argc, argv, &options, log, &error) < 0)
		return command_fail_usage(log, &error);
	r = command_check_root(argv[0], &error);
	if (r < 0)
		return command_report(log, &error, r);
	/* Suspended, it would hold a process that it has stopped. */
	signal(SIGTSTP, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	if (!options.json && is_terminal(STDERR_FILENO))
		log->status = &status;
	options.cancel_fd = command_catch_stop();
	outcome = migrate_send(&options, log, &summary, &error);
	close(options.cancel_fd);
	if (outcome != MIGRATE_MOVED)
		log_error(log, "%s%s", error.message,
			  outcome == MIGRATE_NOT_MOVED ? "; nothing was moved" : "");
	if (options.json)
		summary_print_json(&options, &summary, outcome, outcome == MIGRATE_MOVED ? NULL : error.message);
	else if (outcome == MIGRATE_MOVED && options.dry_run)
		printf("PID %d can be moved to %s\n", options.pid, options.to);
	else if (outcome == MIGRATE_MOVED)
		summary_print(&options, &summary);
	return outcome;
}

/* ---- keys */

static int run_keys(int argc, char **argv, struct log *log)
{
	static const struct option table[] = {
		{ "dir", required_argument, NULL, OPT_DIR },
		{ "name", required_argument, NULL, OPT_NAME },
		{ "client", required_argument, NULL, OPT_CLIENT },
		{ NULL, 0, NULL, 0 },
	};
	ARRAY(const char *) names = { 0 };
	struct keys_options options = { 0 };
	struct error error = ERROR_INIT;
	const char *dir = NULL;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":", table, NULL)) != -1) {
		switch (option) {
		case OPT_DIR: r = command_take_text("--dir", &dir, &error); break;
		case OPT_NAME: r = array_append(&names, (const char *)optarg); break;
		case OPT_CLIENT: options.client = optarg; break;
		default: r = command_bad_option(option, argv, &error); break;
		}
	}
	if (r == 0 && optind != argc)
		r = error_set(&error, -EINVAL, "'%s': keys takes nothing but options", argv[optind]);
	if (r == 0 && !dir)
		r = error_set(&error, -EINVAL, "keys needs --dir DIR");
	if (r < 0) {
		array_deinit(&names);
		return command_fail_usage(log, &error);
	}
	options.names = names.items;
	options.name_count = names.count;
	r = keys_generate(dir, &options, &error);
	array_deinit(&names);
	return r == -EINVAL ? command_fail_usage(log, &error) : command_report(log, &error, r);
}

/* ---- status, cancel, resolve */

/* What only one of the three commands takes. */
static const char *foreign_option(int option, const char *verb)
{
	if (option == OPT_JSON && strcmp(verb, "status") != 0)
		return "--json";
	if ((option == OPT_THAW || option == OPT_KILL) && strcmp(verb, "resolve") != 0)
		return option == OPT_THAW ? "--thaw" : "--kill";
	return NULL;
}

static int check_session(int argc, char **argv, struct error *error)
{
	uint8_t session[WIRE_SESSION_SIZE];

	if (optind < argc - 1)
		return error_set(error, -EINVAL, "%s takes one SESSION, and '%s' is another one", argv[0], argv[optind + 1]);
	if (optind == argc)
		return strcmp(argv[0], "status") == 0 ? 0 :
			error_set(error, -EINVAL, "%s needs one SESSION; migrate status lists them", argv[0]);
	return wire_session_parse(argv[optind], session, error);
}

static int run_session(int argc, char **argv, struct log *log)
{
	static const struct option table[] = {
		{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "thaw", no_argument, NULL, OPT_THAW },
		{ "kill", no_argument, NULL, OPT_KILL },
		{ "verbose", no_argument, NULL, 'v' },
		{ NULL, 0, NULL, 0 },
	};
	const char *state_dir = JOURNAL_STATE_DIR_DEFAULT, *verb = argv[0], *session;
	enum migrate_decision decision = MIGRATE_ASK;
	struct error error = ERROR_INIT;
	bool json = false;
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":v", table, NULL)) != -1) {
		if (foreign_option(option, verb))
			r = error_set(&error, -EINVAL, "%s is no option of migrate %s", foreign_option(option, verb), verb);
		else if ((option == OPT_THAW || option == OPT_KILL) && decision != MIGRATE_ASK)
			r = error_set(&error, -EINVAL, "--thaw and --kill: only one of them, and once");
		else switch (option) {
		case OPT_STATE_DIR: r = command_take_text("--state-dir", &state_dir, &error); break;
		case OPT_JSON: json = true; break;
		case OPT_THAW: decision = MIGRATE_THAW; break;
		case OPT_KILL: decision = MIGRATE_KILL; break;
		case 'v': log->level = LOG_DEBUG; break;
		default: r = command_bad_option(option, argv, &error); break;
		}
	}
	session = optind < argc ? argv[optind] : NULL;
	if (r == 0)
		r = check_session(argc, argv, &error);
	if (r < 0)
		return command_fail_usage(log, &error);
	r = command_check_root(verb, &error);
	if (r < 0)
		return command_report(log, &error, r);
	if (strcmp(verb, "status") == 0)
		r = migrate_status(state_dir, session, json, &error);
	else if (strcmp(verb, "cancel") == 0)
		r = migrate_cancel(state_dir, session, &error);
	else
		r = migrate_resolve(session, decision, state_dir, log, &error);
	return command_report(log, &error, r) && r == -EINPROGRESS ? MIGRATE_IN_DOUBT : r < 0;
}

static const struct {
	const char *name;
	int (*run)(int argc, char **argv, struct log *log);
	const char *usage;
} commands[] = {
	{ "send", run_send,
	  "send --to HOST:PORT [--tls-dir DIR] [--state-dir DIR] [--mode hybrid|precopy|postcopy]\n"
	  "               [--downtime-limit MS] [--max-bandwidth RATE] [--streams N] [--hook PROGRAM]\n"
	  "               [--tcp-close] [--ext-unix-sk] [--dry-run] [--json] [-v] PID" },
	{ "check", command_check, "check [--json] [--kinds | PID]" },
	{ "dump", command_dump,
	  "dump -t PID -D DIR [-R|-s] [-j] [-l] [--tcp-established|--tcp-close] [--ext-unix-sk] [--ghost-limit SIZE]\n"
	  "               [--prev-images-dir DIR] [-o FILE] [-W DIR] [-v[N]] [--pidfile FILE] [--status-fd N]\n"
	  "               [--state-dir DIR] [--json]" },
	{ "pre-dump", command_dump, "pre-dump -t PID -D DIR [--prev-images-dir DIR] [as dump]" },
	{ "restore", command_restore,
	  "restore -D DIR [-d [-S]] [-j] [--lazy-pages] [--tcp-established|--tcp-close] [--ext-unix-sk] [-o FILE] [-W DIR]\n"
	  "                  [-v[N]] [--pidfile FILE] [--state-dir DIR] [--json]" },
	{ "dedup", command_dedup, "dedup DIR" },
	{ "unlock", command_unlock, "unlock DIR" },
	{ "show", command_show, "show [--json] [--verify] DIR|FILE" },
	{ "core", command_core, "core DIR [-o FILE] [PID]" },
	{ "keys", run_keys, "keys --dir DIR [--name HOST]... [--client NAME]" },
	{ "status", run_session, "status [--state-dir DIR] [--json] [SESSION]" },
	{ "cancel", run_session, "cancel [--state-dir DIR] SESSION" },
	{ "resolve", run_session, "resolve [--state-dir DIR] SESSION [--thaw|--kill]" },
};

static int print_help(FILE *file)
{
	fprintf(file, "migrate moves a running process tree to another host, or to a directory and back.\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(file, "  migrate %s\n", commands[i].usage);
	fprintf(file, "\nExit status: 0 moved, or done; 1 not, and the process runs on; 2 usage; 3 in doubt, see migrate "
		      "resolve.\n");
	return file == stdout ? 0 : MIGRATE_USAGE;
}

int main(int argc, char **argv)
{
	struct log log = { .level = LOG_INFO, .fd = STDERR_FILENO, .name = "migrate" };

	lazy_keeper_enter(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	fdio_raise_limit(); /* several for each process of a tree, and one for each socket */
	if (argc < 2)
		return print_help(stderr);
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return print_help(stdout);
	if (strcmp(argv[1], "--version") == 0)
		return printf("migrate %s\n", PAGESTREAM_VERSION) < 0;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0) {
			if (argc == 3 && strcmp(argv[2], "--help") == 0)
				return printf("usage: migrate %s\n", commands[i].usage) < 0;
			return commands[i].run(argc - 1, argv + 1, &log);
		}
	log_error(&log, "there is no command '%s'; see migrate --help", argv[1]);
	return MIGRATE_USAGE;
}
