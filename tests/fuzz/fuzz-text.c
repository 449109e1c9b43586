/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: dump transport image util */
/*
 * Text: command lines, sessions, and files of /proc as the kernel or a process with an odd name might make them. The
 * first byte chooses the parser.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../unit/scratch.h"
#include "dump/parts.h"
#include "transport/wire.h"
#include "util/fdio.h"
#include "util/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_words(const char *text)
{
	uint8_t session[WIRE_SESSION_SIZE];
	char back[WIRE_SESSION_TEXT];
	struct parse_address address;
	uint64_t number;
	pid_t pid;

	if (parse_uint(text, 1000, "number", &number, NULL) == 0 && number > 1000)
		abort();
	(void)parse_size(text, "size", &number, NULL);
	if (parse_pid(text, &pid, NULL) == 0 && pid <= 0)
		abort();
	if (parse_host_port(text, 0, &address, NULL) == 0 && !address.host[0])
		abort();
	(void)parse_host_port(text, 1, &address, NULL);
	if (wire_session_parse(text, session, NULL) == 0) {
		wire_session_text(session, back);
		if (strcmp(back, text) != 0)
			abort();
	}
}

static void parse_maps(char *text)
{
	struct procfs_maps maps;

	if (procfs_parse_maps(text, &maps, NULL) < 0)
		return;
	array_for_each(map, &maps)
		(void)procfs_maps_find(&maps, map->start);
	procfs_maps_deinit(&maps);
}

/* smaps, from a directory that stands for the process's. */
static void parse_flags(const char *text, size_t size)
{
	char name[64];
	struct dump_process process = { .pid = getpid() };
	const struct procfs_map map = { .start = 0x1000, .end = 0x2000 };

	scratch_directory(name, sizeof(name), "fuzz-text");
	process.proc_fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fdio_replace_file(process.proc_fd, "smaps", text, size, 0600) == 0 &&
	    dump_mm_flags_update(&process, false, NULL) == 0)
		(void)dump_mm_flags_get(&process, &map);
	array_deinit(&process.map_flags);
	unlinkat(process.proc_fd, "smaps", 0);
	close(process.proc_fd);
	rmdir(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct procfs_stat stat;
	char *text;

	if (!size || size > 100000)
		return 0;
	text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] % 16 == 0)
		parse_flags(text, size - 1);
	else if (data[0] % 3 == 0)
		parse_words(text);
	else if (data[0] % 3 == 1)
		parse_maps(text);
	else
		(void)procfs_parse_stat(text, &stat, NULL);
	free(text);
	return 0;
}
