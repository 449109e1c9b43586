/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* migrate check: a line a feature, then what of the tree is in the way; or the table of kinds. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "image/kinds.h"
#include "migrate/check.h"
#include "util/parse.h"

struct check {
	struct check_feature *features; /* owned */
	size_t count;
	struct image_blockers blockers;
	pid_t pid;     /* 0: no tree was asked for */
	bool kinds;    /* print what can be moved at all, and nothing else */
	bool json;
	bool is_ready; /* nothing that is needed is missing */
};

enum {
	OPTION_JSON = COMMAND_LONG,
	OPTION_KINDS,
};

static int parse(int argc, char **argv, struct check *check, struct error *error)
{
	static const struct option table[] = {
		{ "json", no_argument, NULL, OPTION_JSON },
		{ "kinds", no_argument, NULL, OPTION_KINDS },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, ":", table, NULL)) != -1) {
		if (option == OPTION_JSON)
			check->json = true;
		else if (option == OPTION_KINDS)
			check->kinds = true;
		else
			return command_bad_option(option, argv, error);
	}
	if (check->kinds && optind < argc)
		return error_set(error, -EINVAL, "--kinds goes without a PID, and '%s' is there", argv[optind]);
	if (optind < argc - 1)
		return error_set(error, -EINVAL, "check takes one PID, and '%s' is another one", argv[optind + 1]);
	return optind < argc ? parse_pid(argv[optind], &check->pid, error) : 0;
}

static void print_text(const struct check *check)
{
	size_t number = 0;

	for (size_t i = 0; i < check->count; i++) {
		const struct check_feature *feature = &check->features[i];

		printf("%-3s  %s", feature->works ? "yes" : "no", feature->name);
		if (!feature->works)
			printf(": %s%s%s; without it %s%s", strerror(-feature->code), feature->since ? ", Linux " : "",
			       feature->since ? feature->since : "", feature->cost, feature->needed ? " (needed)" : "");
		printf("\n");
	}
	array_for_each(blocker, &check->blockers.list)
		printf("%zu. PID %d: %s %s: %s; %s\n", ++number, blocker->pid, blocker->kind, blocker->object,
		       blocker->cause, blocker->remedy);
	array_for_each(note, &check->blockers.notes)
		printf("note: PID %d: %s\n", note->pid, note->text);
	if (check->pid && !number)
		printf("PID %d: nothing is in the way\n", check->pid);
	printf("%s\n", check->is_ready ? "all that is needed is there" : "not ready: see above");
}

static void print_json(const struct check *check)
{
	json_t *object = json_object(), *features = json_array(), *blockers = json_array();

	for (size_t i = 0; i < check->count; i++) {
		const struct check_feature *feature = &check->features[i];

		json_array_append_new(features, json_pack("{s:s, s:s?, s:b, s:b, s:s, s:s?}", "name", feature->name, "since",
							  feature->since, "needed", feature->needed, "works",
							  feature->works, "cost", feature->cost, "error",
							  feature->works ? NULL : strerror(-feature->code)));
	}
	array_for_each(blocker, &check->blockers.list)
		json_array_append_new(blockers, json_pack("{s:i, s:s, s:s, s:s, s:s}", "pid", blocker->pid, "kind",
							  blocker->kind, "object", blocker->object, "cause",
							  blocker->cause, "remedy", blocker->remedy));
	json_object_set_new(object, "ready", json_boolean(check->is_ready));
	json_object_set_new(object, "features", features);
	if (check->pid)
		json_object_set_new(object, "pid", json_integer(check->pid));
	json_object_set_new(object, "blockers", blockers);
	json_dumpf(object, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(object);
}

static void print_kinds_text(void)
{
	const char *group = "";

	for (unsigned i = 0; i < IMAGE_KIND_COUNT; i++) {
		struct image_kind_facts facts = image_kind_get(i);

		if (strcmp(group, facts.group) != 0)
			printf("%s%s\n", i ? "\n" : "", facts.group);
		group = facts.group;
		if (image_kind_is_restored(&facts))
			printf("  yes  %s\n", facts.name);
		else
			printf("  no   %s: %s; %s\n", facts.name, facts.cause, facts.remedy);
	}
}

static void print_kinds_json(void)
{
	json_t *kinds = json_array();

	for (unsigned i = 0; i < IMAGE_KIND_COUNT; i++) {
		struct image_kind_facts facts = image_kind_get(i);

		json_array_append_new(kinds, json_pack("{s:s, s:s, s:b, s:s?, s:s?}", "group", facts.group, "name",
						       facts.name, "restored", image_kind_is_restored(&facts), "cause",
						       facts.cause, "remedy", facts.remedy));
	}
	json_dumpf(kinds, stdout, JSON_INDENT(2));
	printf("\n");
	json_decref(kinds);
}

int command_check(int argc, char **argv, struct log *log)
{
	struct check check = { .is_ready = true };
	struct error error = ERROR_INIT;
	int r;

	image_blockers_init(&check.blockers);
	if (parse(argc, argv, &check, &error) < 0)
		return command_fail_usage(log, &error);
	if (check.kinds) {
		if (check.json)
			print_kinds_json();
		else
			print_kinds_text();
		return 0;
	}
	r = check_features(&check.features, &check.count, &error);
	if (r == 0 && check.pid)
		r = check_tree(check.pid, log, &check.blockers, &error);
	for (size_t i = 0; r == 0 && i < check.count; i++)
		check.is_ready &= check.features[i].works || !check.features[i].needed;
	check.is_ready &= image_blockers_empty(&check.blockers);
	if (r == 0 && check.json)
		print_json(&check);
	else if (r == 0)
		print_text(&check);
	free(check.features);
	image_blockers_deinit(&check.blockers);
	return r < 0 ? command_report(log, &error, r) : !check.is_ready;
}
