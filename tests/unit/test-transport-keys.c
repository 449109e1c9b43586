/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* keys_generate() and what tls_context_new() says about files that are not as they must be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>

#include "transport-keys.h"

static char dir[KEYS_PATH_MAX];

static int setup(void **state)
{
	keys_dir_make(dir);
	return 0;
}

static int teardown(void **state)
{
	keys_dir_remove(dir);
	return 0;
}

static mode_t mode_of(const char *name)
{
	char path[KEYS_PATH_MAX * 2];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 0777;
}

static void test_files(void **state)
{
	char nested[KEYS_PATH_MAX * 2], path[KEYS_PATH_MAX * 3];
	struct tls_context *context;
	const struct keys_options none = { 0 };
	struct error error = ERROR_INIT;
	struct stat st;

	keys_dir_fill(dir, 0, 0);
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(mode_of(key_files[i]), strstr(key_files[i], "-key") ? 0600 : 0644);
	assert_int_equal(tls_context_new(TLS_SERVER, dir, &context, &error), 0);
	assert_in_range(tls_context_expires_in(context), 824 * 86400, 825 * 86400);
	tls_context_unref(context);
	assert_int_equal(tls_context_new(TLS_CLIENT, dir, &context, &error), 0);
	tls_context_unref(context);
	tls_context_unref(NULL);

	/* A directory that is not there, and no names. */
	snprintf(nested, sizeof(nested), "%s/a", dir);
	snprintf(path, sizeof(path), "%s/b", nested);
	assert_int_equal(keys_generate(path, &none, &error), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	keys_dir_remove(path);
	rmdir(nested);
}

static void test_existing(void **state)
{
	const struct keys_options none = { 0 };
	struct error error = ERROR_INIT;
	struct buffer before = BUFFER_INIT, after = BUFFER_INIT;
	char path[KEYS_PATH_MAX * 2];
	int files = 0;
	DIR *list;

	keys_dir_fill(dir, 0, 0);
	for (size_t i = 0; i < 6; i++) {
		if (strcmp(key_files[i], "client-key.pem") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, key_files[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/client-key.pem", dir);
	assert_int_equal(fdio_read_file(AT_FDCWD, path, 10000, &before), 0);
	assert_int_equal(keys_generate(dir, &none, &error), -EEXIST);
	assert_non_null(strstr(error.message, "client-key.pem exists"));
	assert_int_equal(fdio_read_file(AT_FDCWD, path, 10000, &after), 0);
	assert_int_equal(before.size, after.size);
	assert_memory_equal(before.data, after.data, before.size);
	list = opendir(dir);
	while (readdir(list))
		files++;
	closedir(list);
	assert_int_equal(files, 3); /* ".", "..", and the old key */
	buffer_deinit(&before);
	buffer_deinit(&after);
}

static void test_bad_names(void **state)
{
	const char *const bad[] = { "", "a b", "*.x.org", "x,DNS:y", "-x", "1.2.3.4/8" };
	struct keys_options options = { .name_count = 1 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error error = ERROR_INIT;

		options.names = &bad[i];
		assert_int_equal(keys_generate(dir, &options, &error), -EINVAL);
		assert_non_null(strstr(error.message, bad[i]));
	}
	options = (struct keys_options){ .client = "a\nb" };
	assert_int_equal(keys_generate(dir, &options, NULL), -EINVAL);
	assert_int_equal(chmod(dir, 0777), 0);
	options.client = NULL;
	assert_int_equal(keys_generate(dir, &options, NULL), -EACCES);
}

static void expect(enum tls_role role, int code, const char *words)
{
	struct error error = ERROR_INIT;
	struct tls_context *context;

	assert_int_equal(tls_context_new(role, dir, &context, &error), code);
	if (!strstr(error.message, words))
		fail_msg("'%s' does not say '%s'", error.message, words);
	assert_non_null(strstr(error.message, dir));
}

static void test_loading(void **state)
{
	char other[KEYS_PATH_MAX], path[KEYS_PATH_MAX * 2];

	expect(TLS_CLIENT, -ENOENT, "migrate keys");
	keys_dir_fill(dir, 0, 0);
	keys_dir_make(other);
	keys_dir_fill(other, 0, 0);

	keys_copy(other, "client-key.pem", dir, "client-key.pem");
	expect(TLS_CLIENT, -EINVAL, "client-key.pem does not belong to the certificate");
	keys_copy(dir, "server.pem", dir, "client.pem");
	expect(TLS_CLIENT, -EINVAL, "is not a client's certificate");
	keys_copy(other, "client.pem", dir, "server.pem");
	expect(TLS_SERVER, -EINVAL, "is not a server's certificate");
	keys_copy(dir, "ca-key.pem", dir, "client.pem");
	expect(TLS_CLIENT, -EINVAL, "client.pem holds no certificate");

	keys_copy(other, "server.pem", dir, "server.pem");
	keys_copy(other, "server-key.pem", dir, "server-key.pem");
	snprintf(path, sizeof(path), "%s/server-key.pem", dir);
	assert_int_equal(chmod(path, 0640), 0);
	expect(TLS_SERVER, -EACCES, "chmod 600");
	assert_int_equal(chmod(path, 0600), 0);
	keys_copy(other, "server.pem", dir, "server-key.pem");
	expect(TLS_SERVER, -EINVAL, "holds no private key");
	snprintf(path, sizeof(path), "%s/ca.pem", dir);
	assert_int_equal(truncate(path, 0), 0);
	expect(TLS_SERVER, -EINVAL, "ca.pem holds no certificate");
	keys_dir_remove(other);
}

static void test_expired(void **state)
{
	keys_dir_fill(dir, 10, 30);
	expect(TLS_SERVER, -EACCES, "expired on 20");
	expect(TLS_CLIENT, -EACCES, "expired on 20");
}

static void test_not_yet(void **state)
{
	keys_dir_fill(dir, 10, -30);
	expect(TLS_SERVER, -EACCES, "is not valid before 20");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_existing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loading, setup, teardown),
		cmocka_unit_test_setup_teardown(test_expired, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_yet, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
