/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the tests of TLS: directories with keys, mixed as each case needs them. Include cmocka.h first. */
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"

#include "transport/keys.h"
#include "transport/tls.h"
#include "util/buffer.h"
#include "util/fdio.h"

#define KEYS_PATH_MAX 256

static const char *const key_files[] = {
	"ca.pem", "ca-key.pem", "server.pem", "server-key.pem", "client.pem", "client-key.pem",
};

static inline void keys_dir_make(char path[KEYS_PATH_MAX])
{
	scratch_directory(path, KEYS_PATH_MAX, "transport-keys");
}

/* Keys for server.test, 127.0.0.1 and ::1, and the client mover.test; valid for `days` from `age` days ago. */
static inline void keys_dir_fill(const char *path, uint32_t days, int age)
{
	static const char *const names[] = { "server.test", "127.0.0.1", "::1" };
	const struct keys_options options = {
		.names = names,
		.name_count = 3,
		.client = "mover.test",
		.days = days,
		.start = age ? time(NULL) - (time_t)age * 86400 : 0,
	};
	struct error error = ERROR_INIT;

	if (keys_generate(path, &options, &error) < 0)
		fail_msg("%s", error.message);
}

static inline void keys_copy(const char *from, const char *from_name, const char *to, const char *to_name)
{
	char source[KEYS_PATH_MAX * 2], target[KEYS_PATH_MAX * 2];
	struct buffer content = BUFFER_INIT;
	int fd;

	snprintf(source, sizeof(source), "%s/%s", from, from_name);
	snprintf(target, sizeof(target), "%s/%s", to, to_name);
	assert_int_equal(fdio_read_file(AT_FDCWD, source, 100000, &content), 0);
	fd = open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fdio_write(fd, content.data, content.size), 0);
	close(fd);
	buffer_deinit(&content);
}

static inline void keys_dir_remove(const char *path)
{
	char name[KEYS_PATH_MAX * 4];

	for (size_t i = 0; i < sizeof(key_files) / sizeof(key_files[0]); i++) {
		snprintf(name, sizeof(name), "%s/%s", path, key_files[i]);
		unlink(name);
	}
	assert_int_equal(rmdir(path), 0);
}
