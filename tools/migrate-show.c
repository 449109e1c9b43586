/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* migrate show: what is in a checkpoint directory, or in one of its files, as text or JSON. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/show.h"
#include "command.h"

#define KIB 1024.0
#define BYTES_SHOWN 64 /* digits of a field of bytes */

enum { OPT_JSON = COMMAND_LONG, OPT_VERIFY };

struct show_command {
	const char *path;
	bool json;
	bool verify;
};

static int parse(int argc, char **argv, struct show_command *command, struct error *error)
{
	static const struct option table[] = {
		{ "images-dir", required_argument, NULL, 'D' },
		{ "json", no_argument, NULL, OPT_JSON },
		{ "verify", no_argument, NULL, OPT_VERIFY },
		{ NULL, 0, NULL, 0 },
	};
	int option, r = 0;

	while (r == 0 && (option = getopt_long(argc, argv, ":D:", table, NULL)) != -1) {
		switch (option) {
		case 'D': r = command_take_text("-D", &command->path, error); break;
		case OPT_JSON: command->json = true; break;
		case OPT_VERIFY: command->verify = true; break;
		default: r = command_bad_option(option, argv, error); break;
		}
	}
	if (r == 0 && !command->path && optind < argc)
		command->path = argv[optind++];
	if (r == 0 && (!command->path || !*command->path))
		r = error_set(error, -EINVAL, "show needs DIR or FILE: a checkpoint, or an image of it");
	if (r == 0 && optind < argc)
		r = error_set(error, -EINVAL, "show takes one directory or file, and '%s' is another one", argv[optind]);
	return r;
}

/* ---- pieces */

static const char *text(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value ? value : "";
}

static json_int_t number(const json_t *object, const char *name)
{
	return json_integer_value(json_object_get(object, name));
}

static bool has(const json_t *object, const char *name)
{
	return json_object_get(object, name) != NULL;
}

/* Bytes for a person. */
struct size_text {
	char text[24];
};

static struct size_text size_of(json_int_t bytes)
{
	static const char units[] = "KMGTPE";
	struct size_text ret;
	double value = (double)bytes / KIB;
	size_t unit = 0;

	for (; value >= KIB && unit + 2 < sizeof(units); unit++)
		value /= KIB;
	snprintf(ret.text, sizeof(ret.text), value < 10 ? "%.1f %ciB" : "%.0f %ciB", value, units[unit]);
	return ret;
}

static const char *plural(json_int_t count)
{
	return count == 1 ? "" : "s";
}

/* ---- a directory */

static void print_problems(const json_t *object)
{
	const json_t *problem;
	size_t i;

	json_array_foreach(json_object_get(object, "problems"), i, problem)
		printf("  wrong: %s\n", json_string_value(problem));
}

static void print_chain(const json_t *chain)
{
	const json_t *directory;
	size_t i;

	json_array_foreach(chain, i, directory) {
		if (i > 0)
			printf("  builds upon %s: ", text(directory, "path"));
		else
			printf("  ");
		printf("%" JSON_INTEGER_FORMAT " files, %s, of which %s are pages%s%s\n", number(directory, "files"),
		       size_of(number(directory, "bytes")).text, size_of(number(directory, "page_bytes")).text,
		       json_is_true(json_object_get(directory, "edited")) ? "; edited" : "",
		       json_is_true(json_object_get(directory, "deduplicated")) ? "; deduplicated, part of those upon it" : "");
	}
}

static void print_head(const json_t *object)
{
	const json_t *top = json_array_get(json_object_get(object, "chain"), 0);
	bool complete = json_is_true(json_object_get(object, "complete"));
	bool good = json_array_size(json_object_get(object, "problems")) == 0;

	printf("%s: %s\n", text(object, "directory"),
	       !complete ? "not a complete checkpoint" : !good ? "a damaged checkpoint" :
	       json_array_size(json_object_get(object, "processes")) ? "a complete checkpoint" :
								       "a round of pre-copy, complete");
	print_problems(object);
	printf("  written %s", text(object, "written"));
	if (*text(top, "writer"))
		printf(" by %s", text(top, "writer"));
	if (has(object, "host"))
		printf(" on host %s", text(object, "host"));
	if (has(object, "kernel"))
		printf(", Linux %s", text(object, "kernel"));
	printf("\n");
	print_chain(json_object_get(object, "chain"));
}

/* How many of its ancestors are in the tree; parents come first. */
static int depth_of(const json_t *processes, size_t index)
{
	json_int_t parent = number(json_array_get(processes, index), "parent");
	int depth = 0;

	while (index-- > 0)
		if (number(json_array_get(processes, index), "pid") == parent) {
			parent = number(json_array_get(processes, index), "parent");
			depth++;
		}
	return depth;
}

static void print_tree(const json_t *processes)
{
	const json_t *process;
	size_t i;

	if (json_array_size(processes))
		printf("\nTree\n");
	json_array_foreach(processes, i, process) {
		json_int_t threads = (json_int_t)json_array_size(json_object_get(process, "threads"));
		const json_t *creds = json_object_get(process, "credentials");

		printf("  %*s%" JSON_INTEGER_FORMAT " %s, %s", 2 * depth_of(processes, i), "", number(process, "pid"),
		       text(process, "name"), text(process, "state"));
		printf(", %" JSON_INTEGER_FORMAT " thread%s, uid %" JSON_INTEGER_FORMAT "\n", threads, plural(threads),
		       number(creds, "uid"));
	}
}

static void print_threads(const json_t *threads)
{
	const json_t *thread;
	size_t i;

	printf("  Threads\n");
	json_array_foreach(threads, i, thread) {
		const json_t *creds = json_object_get(thread, "credentials");

		printf("    %7" JSON_INTEGER_FORMAT "  %-16s ip %s, sp %s", number(thread, "tid"), text(thread, "name"),
		       text(thread, "ip"), text(thread, "sp"));
		if (creds)
			printf(", uid %" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT " gid %" JSON_INTEGER_FORMAT
			       "/%" JSON_INTEGER_FORMAT ", capabilities %s", number(creds, "uid"), number(creds, "euid"),
			       number(creds, "gid"), number(creds, "egid"), text(creds, "capabilities"));
		if (number(thread, "pending_signals"))
			printf(", %" JSON_INTEGER_FORMAT " pending signals", number(thread, "pending_signals"));
		printf("\n");
	}
}

static void print_timers(const json_t *timers)
{
	const json_t *timer;
	size_t i;

	if (json_array_size(timers))
		printf("  Timers\n");
	json_array_foreach(timers, i, timer)
		printf("    %s, signal %" JSON_INTEGER_FORMAT ", in %.6f s, then each %.6f s\n", text(timer, "kind"),
		       number(timer, "signal"), json_real_value(json_object_get(timer, "left_seconds")),
		       json_real_value(json_object_get(timer, "interval_seconds")));
}

static void print_mapping(const json_t *mapping)
{
	const json_t *pages = json_object_get(mapping, "pages");

	printf("    %14s-%-14s %9s %s %-13s", text(mapping, "start") + 2, text(mapping, "end") + 2,
	       size_of(number(mapping, "bytes")).text, text(mapping, "protection"), text(mapping, "kind"));
	if (pages)
		printf(" %7" JSON_INTEGER_FORMAT " %7" JSON_INTEGER_FORMAT, number(pages, "here"), number(pages, "parents"));
	else
		printf(" %7s %7s", "-", "-");
	if (has(mapping, "object"))
		printf("  object %" JSON_INTEGER_FORMAT, number(mapping, "object"));
	if (has(mapping, "file"))
		printf("  %s", text(mapping, "file"));
	if (has(mapping, "name"))
		printf("  [%s]", text(mapping, "name"));
	if (number(mapping, "offset"))
		printf(" from %s", size_of(number(mapping, "offset")).text);
	printf("\n");
}

static void print_memory(const json_t *memory)
{
	const json_t *pages = json_object_get(memory, "pages"), *mapping;
	size_t i;

	if (!json_is_object(memory)) {
		printf("  No memory\n");
		return;
	}
	printf("  Memory: %s mapped; %" JSON_INTEGER_FORMAT " pages here, %" JSON_INTEGER_FORMAT " in directories below\n",
	       size_of(number(memory, "bytes")).text, number(pages, "here"), number(pages, "parents"));
	printf("    %14s-%-14s %9s %4s %-13s %7s %7s\n", "from", "to", "size", "prot", "kind", "here", "below");
	json_array_foreach(json_object_get(memory, "mappings"), i, mapping)
		print_mapping(mapping);
}

static void print_list(const char *before, const json_t *list, const char *between)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) {
		printf("%s", i ? between : before);
		if (json_is_string(item))
			printf("%s", json_string_value(item));
		else
			printf("%" JSON_INTEGER_FORMAT, json_integer_value(item));
	}
}

static void print_descriptor(const json_t *descriptor)
{
	static const char *const words[] = { "path", "type", "state", "end", "name", "local", "signals" };
	static const char *const numbers[] = { "pipe", "inode", "peer", "counter", "object", "offset" };

	printf("    %5" JSON_INTEGER_FORMAT "  %-9s", number(descriptor, "fd"), text(descriptor, "kind"));
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (has(descriptor, words[i]))
			printf(" %s", text(descriptor, words[i]));
	if (has(descriptor, "remote"))
		printf(" -> %s", text(descriptor, "remote"));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (has(descriptor, numbers[i]))
			printf(", %s %" JSON_INTEGER_FORMAT, numbers[i], number(descriptor, numbers[i]));
	print_list(", watches ", json_object_get(descriptor, "watches"), " ");
	if (has(descriptor, "left_seconds"))
		printf(", in %.6f s, then each %.6f s", json_real_value(json_object_get(descriptor, "left_seconds")),
		       json_real_value(json_object_get(descriptor, "interval_seconds")));
	if (number(descriptor, "unread"))
		printf(", %" JSON_INTEGER_FORMAT " bytes unread", number(descriptor, "unread"));
	print_list(", ", json_object_get(descriptor, "flags"), "|");
	if (json_is_true(json_object_get(descriptor, "close_on_exec")))
		printf(", close on exec");
	if (has(descriptor, "locks"))
		printf(", %zu locks", json_array_size(json_object_get(descriptor, "locks")));
	printf("\n");
}

static void print_process(const json_t *process)
{
	const json_t *descriptors = json_object_get(process, "descriptors"), *descriptor;
	size_t i;

	printf("\nProcess %" JSON_INTEGER_FORMAT ": %s, %s", number(process, "pid"), text(process, "name"),
	       text(process, "state"));
	if (has(process, "stop_signal"))
		printf(" by signal %" JSON_INTEGER_FORMAT, number(process, "stop_signal"));
	printf("\n  program %s, directory %s, root %s, umask %03" PRIo64 "\n", text(process, "program"),
	       text(process, "directory"), text(process, "root"), (uint64_t)number(process, "umask"));
	printf("  parent %" JSON_INTEGER_FORMAT ", group %" JSON_INTEGER_FORMAT ", session %" JSON_INTEGER_FORMAT "\n",
	       number(process, "parent"), number(process, "group"), number(process, "session"));
	print_threads(json_object_get(process, "threads"));
	print_timers(json_object_get(process, "timers"));
	print_memory(json_object_get(process, "memory"));
	printf("  Descriptors\n");
	json_array_foreach(descriptors, i, descriptor)
		print_descriptor(descriptor);
}

static void print_objects(const json_t *objects)
{
	const json_t *object;
	size_t i;

	if (json_array_size(objects))
		printf("\nShared memory and deleted files\n");
	json_array_foreach(objects, i, object) {
		const json_t *pages = json_object_get(object, "pages");

		printf("  %" JSON_INTEGER_FORMAT ": %s %s%s, %s", number(object, "id"), text(object, "kind"),
		       text(object, "name"), text(object, "path"), size_of(number(object, "bytes")).text);
		if (pages)
			printf("; %" JSON_INTEGER_FORMAT " pages here, %" JSON_INTEGER_FORMAT " in directories below",
			       number(pages, "here"), number(pages, "parents"));
		printf("\n");
	}
}

static void print_directory(const json_t *object)
{
	const json_t *processes = json_object_get(object, "processes"), *process;
	size_t i;

	print_head(object);
	print_tree(processes);
	json_array_foreach(processes, i, process)
		print_process(process);
	print_objects(json_object_get(object, "objects"));
}

/* ---- a file */

static void print_string(const char *name, const json_t *value, int indent)
{
	size_t length = json_string_length(value);
	bool is_long = strcmp(name, "bytes") == 0 && length > BYTES_SHOWN;

	printf("%*s%s: %.*s%s\n", indent, "", name, is_long ? BYTES_SHOWN : (int)length, json_string_value(value),
	       is_long ? "..." : "");
}

static void print_value(const char *name, const json_t *value, int indent)
{
	const char *key;
	const json_t *item;
	size_t i;

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		printf("%*s%s\n", indent, "", name);
		json_object_foreach((json_t *)value, key, item)
			print_value(key, item, indent + 2);
		break;
	case JSON_ARRAY:
		if (!json_is_object(json_array_get(value, 0))) {
			printf("%*s%s", indent, "", name);
			print_list(": ", value, " ");
			printf("\n");
			break;
		}
		json_array_foreach(value, i, item)
			print_value(name, item, indent);
		break;
	case JSON_STRING: print_string(name, value, indent); break;
	case JSON_INTEGER:
		printf("%*s%s: %" JSON_INTEGER_FORMAT, indent, "", name, json_integer_value(value));
		if (json_integer_value(value) > UINT16_MAX)
			printf(" (0x%" PRIx64 ")", (uint64_t)json_integer_value(value));
		printf("\n");
		break;
	default: printf("%*s%s: %s\n", indent, "", name, json_is_true(value) ? "yes" : "no"); break;
	}
}

static void print_file(const json_t *object)
{
	size_t count = json_array_size(json_object_get(object, "entries")), i;
	const json_t *entry;
	char title[96];

	printf("%s: %s%s%" JSON_INTEGER_FORMAT " bytes, %zu entr%s\n", text(object, "file"), text(object, "kind"),
	       *text(object, "kind") ? ", " : "", number(object, "bytes"), count, count == 1 ? "y" : "ies");
	json_array_foreach(json_object_get(object, "entries"), i, entry) {
		snprintf(title, sizeof(title), "%s %" JSON_INTEGER_FORMAT, text(entry, "kind"), number(entry, "id"));
		print_value(number(entry, "id") ? title : text(entry, "kind"), json_object_get(entry, "entry"), 2);
	}
	print_problems(object);
}

/* ---- both */

static int run(const struct show_command *command, bool *ret_good, struct error *error)
{
	json_t *object;
	struct stat info;
	bool is_file;
	int r;

	if (stat(command->path, &info) < 0)
		return error_set_errno(error, -errno, "%s", command->path);
	is_file = !S_ISDIR(info.st_mode);
	r = is_file ? checkpoint_show_file(command->path, &object, error) :
		      checkpoint_show_directory(command->path, command->verify, &object, error);
	if (r < 0)
		return r;
	*ret_good = json_array_size(json_object_get(object, "problems")) == 0;
	if (command->json) {
		json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
		printf("\n");
	} else if (is_file) {
		print_file(object);
	} else {
		print_directory(object);
	}
	json_decref(object);
	return 0;
}

int command_show(int argc, char **argv, struct log *log)
{
	struct show_command command = { .path = NULL };
	struct error error = ERROR_INIT;
	bool good = true;
	int r;

	if (parse(argc, argv, &command, &error) < 0)
		return command_fail_usage(log, &error);
	r = run(&command, &good, &error);
	if (r == 0 && !good)
		r = error_set(&error, -EBADMSG, "%s: not all of it can be used, see what is wrong above", command.path);
	return command_report(log, &error, r);
}
