/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "command.h"

#include <errno.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "migrate/send.h"

int command_fail_usage(const struct log *log, const struct error *error)
{
	log_error(log, "%s; see migrate --help", error->message);
	return MIGRATE_USAGE;
}

int command_report(const struct log *log, const struct error *error, int r)
{
	if (r < 0)
		log_error(log, "%s", error_text(error, r));
	return r < 0 ? 1 : 0;
}

int command_check_root(const char *command, struct error *error)
{
	return geteuid() == 0 ? 0 : error_set(error, -EPERM, "migrate %s needs root: run it as root", command);
}

int command_bad_option(int option, char **argv, struct error *error)
{
	const char *word = argv[optind - 1];
	bool is_long = strncmp(word, "--", 2) == 0 && (option == ':' || strchr(word, '='));

	if (optopt > 0 && optopt < COMMAND_LONG && !is_long)
		return error_set(error, -EINVAL, "-%c is no option of migrate %s%s", optopt, argv[0],
				 option == ':' ? " without a value" : "");
	if (option == ':')
		return error_set(error, -EINVAL, "%s needs a value", word);
	return error_set(error, -EINVAL, "%s is no option of migrate %s%s", word, argv[0],
			 optopt ? " that takes a value" : "");
}

int command_take_text(const char *name, const char **ret, struct error *error)
{
	if (!*optarg)
		return error_set(error, -EINVAL, "%s: '' names nothing", name);
	*ret = optarg;
	return 0;
}

/*
 * What asks for an end, but for what is ignored from the start (nohup(1)), which stays so: a blocked signal that is ignored
 * can be read from a descriptor all the same.
 */
static void stop_signals(sigset_t *ret)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action;

	sigemptyset(ret);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (sigaction(numbers[i], NULL, &action) < 0 || action.sa_handler != SIG_IGN)
			sigaddset(ret, numbers[i]);
}

int command_catch_stop(void)
{
	sigset_t stop;

	stop_signals(&stop);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	return signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK);
}

void command_release_stop(void)
{
	sigset_t stop;

	stop_signals(&stop);
	sigprocmask(SIG_UNBLOCK, &stop, NULL);
}
