/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "session.h"
#include "util/fdio.h"

#define MEMINFO_MAX (64u << 10)

/* MemAvailable of proc(5): what can be had without swapping. Bytes; 0 if the kernel does not tell. */
uint64_t memory_available(void)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	unsigned long long kib;
	const char *line;

	if (fdio_read_file(AT_FDCWD, "/proc/meminfo", MEMINFO_MAX, &text) < 0)
		return 0;
	line = strstr((const char *)text.data, "MemAvailable:");
	return line && sscanf(line, "MemAvailable: %llu", &kib) == 1 ? kib * 1024 : 0;
}
