/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* pageserver: options, then the library. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/journal.h"
#include "lazy/lazy.h"
#include "pageserver/pageserver.h"
#include "transport/tls.h"
#include "util/parse.h"

#define EXIT_USAGE 2

enum { OPTION_LISTEN = 256, OPTION_TLS_DIR, OPTION_ALLOW, OPTION_HOOK, OPTION_MAX_MEMORY, OPTION_STATE_DIR, OPTION_VERSION };

static const struct option long_options[] = {
	{ "listen", required_argument, NULL, OPTION_LISTEN },
	{ "tls-dir", required_argument, NULL, OPTION_TLS_DIR },
	{ "allow", required_argument, NULL, OPTION_ALLOW },
	{ "hook", required_argument, NULL, OPTION_HOOK },
	{ "max-memory", required_argument, NULL, OPTION_MAX_MEMORY },
	{ "state-dir", required_argument, NULL, OPTION_STATE_DIR },
	{ "verbose", no_argument, NULL, 'v' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPTION_VERSION },
	{ 0 },
};

static void print_help(void)
{
	printf("usage: pageserver --listen [HOST:]PORT [options]\n"
	       "\n"
	       "Takes processes that `migrate send` moves to this host, and runs them here.\n"
	       "\n"
	       "  --listen [HOST:]PORT  where to listen; port 0: the kernel picks one\n"
	       "  --tls-dir DIR         ca.pem, server.pem and server-key.pem (default: %s)\n"
	       "  --allow NAME          a client's certificate must have this name; may be repeated\n"
	       "  --max-memory SIZE     most that all processes being received may need, as 8G\n"
	       "  --hook PROGRAM        run at each turning point: prepare, running, aborted\n"
	       "  --state-dir DIR       journals (default: %s)\n"
	       "  -v, --verbose         say more\n"
	       "  --help, --version\n",
	       TLS_DIR_DEFAULT, JOURNAL_STATE_DIR_DEFAULT);
}

struct arguments {
	struct pageserver_options options;
	const char **allow; /* owned */
	bool verbose;
};

static int take_text(const char *name, const char **ret, struct error *error)
{
	if (!*optarg)
		return error_set(error, -EINVAL, "%s: '' names nothing", name);
	*ret = optarg;
	return 0;
}

static int take_program(const char *name, const char **ret, struct error *error)
{
	int r = take_text(name, ret, error);

	if (r == 0 && access(optarg, X_OK) < 0)
		r = error_set_errno(error, -errno, "%s: cannot run '%s'", name, optarg);
	return r;
}

static int take_memory(uint64_t *ret, struct error *error)
{
	int r = parse_size(optarg, "--max-memory", ret, error);

	if (r == 0 && *ret == 0)
		r = error_set(error, -EINVAL, "--max-memory: nothing fits into '%s'", optarg);
	return r;
}

static int check_listen(const char *listen, struct error *error)
{
	struct parse_address address;
	int r;

	if (!listen)
		return error_set(error, -EINVAL, "--listen [HOST:]PORT is missing");
	r = parse_host_port(listen, 1, &address, error);
	return r < 0 ? error_wrap(error, r, "--listen") : 0;
}

/* Negative: go on; otherwise the exit status. */
static int parse(int argc, char **argv, struct arguments *ret)
{
	struct error error = ERROR_INIT;
	int option, r = 0;

	ret->allow = calloc((size_t)argc, sizeof(*ret->allow));
	if (!ret->allow)
		return EXIT_FAILURE;
	ret->options.tls_dir = TLS_DIR_DEFAULT;
	ret->options.state_dir = JOURNAL_STATE_DIR_DEFAULT;
	while (r == 0 && (option = getopt_long(argc, argv, "hv", long_options, NULL)) != -1) {
		switch (option) {
		case OPTION_LISTEN:
			ret->options.listen = optarg;
			break;
		case OPTION_TLS_DIR:
			r = take_text("--tls-dir", &ret->options.tls_dir, &error);
			break;
		case OPTION_ALLOW:
			r = take_text("--allow", &ret->allow[ret->options.allow_count++], &error);
			break;
		case OPTION_MAX_MEMORY:
			r = take_memory(&ret->options.max_memory, &error);
			break;
		case OPTION_HOOK:
			r = take_program("--hook", &ret->options.hook, &error);
			break;
		case OPTION_STATE_DIR:
			r = take_text("--state-dir", &ret->options.state_dir, &error);
			break;
		case 'v':
			ret->verbose = true;
			break;
		case 'h':
			print_help();
			return EXIT_SUCCESS;
		case OPTION_VERSION:
			printf("pageserver %s\n", PAGESTREAM_VERSION);
			return EXIT_SUCCESS;
		default:
			return EXIT_USAGE;
		}
	}
	ret->options.allow = ret->allow;
	if (r == 0 && optind < argc)
		r = error_set(&error, -EINVAL, "'%s' is one argument too many", argv[optind]);
	if (r == 0)
		r = check_listen(ret->options.listen, &error);
	if (r < 0)
		fprintf(stderr, "pageserver: %s; see pageserver --help\n", error_text(&error, r));
	return r < 0 ? EXIT_USAGE : -1;
}

static void ready(const char *address, void *data)
{
	(void)data;
	printf("listening on %s\n", address);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct arguments arguments = { 0 };
	struct log log = { .fd = STDERR_FILENO, .name = "pageserver", .level = LOG_INFO };
	struct error error = ERROR_INIT;
	int r;

	lazy_keeper_enter(argc, argv);
	r = parse(argc, argv, &arguments);
	if (r < 0) {
		if (arguments.verbose)
			log.level = LOG_DEBUG;
		log.timestamps = arguments.verbose;
		/* Without it, each thing on the way fails with a "permission denied" of its own. */
		r = geteuid() == 0 ? 0 : error_set(&error, -EPERM, "it needs root: run it as root");
		if (r == 0)
			r = pageserver_run(&arguments.options, &log, ready, NULL, &error);
		if (r < 0)
			log_error(&log, "%s", error_text(&error, r));
		r = r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	}
	free(arguments.allow);
	return r;
}
