/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of migrate's subcommands share: how a command line is read and a failure reported. */
#pragma once

#include <getopt.h>
#include <signal.h>

#include "util/error.h"
#include "util/log.h"

/* Options without a letter have numbers from here on. */
#define COMMAND_LONG 256

/* Each takes the command line from the subcommand's name on and returns the exit status. */
int command_check(int argc, char **argv, struct log *log);
int command_core(int argc, char **argv, struct log *log);
int command_dedup(int argc, char **argv, struct log *log);
int command_unlock(int argc, char **argv, struct log *log);
int command_dump(int argc, char **argv, struct log *log); /* pre-dump, too */
int command_restore(int argc, char **argv, struct log *log);
int command_show(int argc, char **argv, struct log *log);

/* Says what is wrong with the command line; returns the exit status for that. */
int command_fail_usage(const struct log *log, const struct error *error);
/* Says why it failed, if it did; returns the exit status. */
int command_report(const struct log *log, const struct error *error, int r);
/* -EPERM and a word on it: without root, each thing on the way would fail with a "permission denied" of its own. */
int command_check_root(const char *command, struct error *error);
/* getopt_long() gave ':' or '?': fills `error` with which word of the command line it did not like. */
int command_bad_option(int option, char **argv, struct error *error);
/* The value of the option `name`, which must not be empty. */
int command_take_text(const char *name, const char **ret, struct error *error);
/* Blocks SIGINT, SIGTERM and SIGHUP; returns a descriptor that is readable once one of them has come. */
int command_catch_stop(void);
/* Takes that back: from now on they do what they did before. */
void command_release_stop(void);
