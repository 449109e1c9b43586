/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A private CA and the certificates of the two sides, made in memory, then written.
 *
 * Writing: first all six names must be free. Each file is written under a temporary name, synced, and renamed with
 * RENAME_NOREPLACE, so that even a racing second run cannot lose somebody's key. Failing midway removes what this run
 * has put there.
 */
#include "keys.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/fdio.h"

#define CA_DAYS 3650
#define DAY 86400
#define CLOCK_SLACK 3600
#define COMMON_NAME_MAX 64 /* ub-common-name of RFC 5280 */
#define NAME_MAX_DNS 253

struct pair {
	EVP_PKEY *key; /* owned */
	X509 *x509;    /* owned */
};

enum { PAIR_CA, PAIR_SERVER, PAIR_CLIENT, PAIRS };

static const struct {
	const char *certificate; /* file name */
	const char *key;         /* file name */
} pair_files[PAIRS] = {
	[PAIR_CA] = { "ca.pem", "ca-key.pem" },
	[PAIR_SERVER] = { "server.pem", "server-key.pem" },
	[PAIR_CLIENT] = { "client.pem", "client-key.pem" },
};

static void cleanup_pairs(struct pair (*pairs)[PAIRS])
{
	for (int i = 0; i < PAIRS; i++) {
		EVP_PKEY_free((*pairs)[i].key);
		X509_free((*pairs)[i].x509);
	}
}

static void cleanup_bio(BIO **bio)
{
	BIO_free(*bio);
}

/* ---- names ---- */

static bool is_address(const char *name)
{
	uint8_t bytes[16];

	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* Host names as they are in use, underscores included. Wildcards are not: a certificate names hosts. */
static bool is_host_name(const char *name)
{
	size_t length = strlen(name);

	if (!length || length > NAME_MAX_DNS || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-._", name[i]))
			return false;
	return true;
}

static int names_check(const struct keys_options *options, struct error *error)
{
	for (size_t i = 0; i < options->name_count; i++)
		if (!is_address(options->names[i]) && !is_host_name(options->names[i]))
			return error_set(error, -EINVAL, "'%s' is neither a host name nor an IP address",
					 options->names[i]);
	if (options->client && (!is_host_name(options->client) || strlen(options->client) > COMMON_NAME_MAX))
		return error_set(error, -EINVAL,
				 "'%s' cannot be the name of a client: up to %d letters, digits, dots, dashes",
				 options->client, COMMON_NAME_MAX);
	return 0;
}

static bool add_name(GENERAL_NAMES *names, const char *text)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	bool address = is_address(text);
	ASN1_STRING *value = NULL;

	if (name)
		value = address ? a2i_IPADDRESS(text) : ASN1_IA5STRING_new();
	if (!value || (!address && !ASN1_STRING_set(value, text, -1))) {
		ASN1_STRING_free(value);
		GENERAL_NAME_free(name);
		return false;
	}
	GENERAL_NAME_set0_value(name, address ? GEN_IPADD : GEN_DNS, value);
	if (!sk_GENERAL_NAME_push(names, name)) {
		GENERAL_NAME_free(name);
		return false;
	}
	return true;
}

static bool add_names(X509 *x509, const char *const *texts, size_t count)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	bool good = names != NULL;

	for (size_t i = 0; i < count && good; i++)
		good = add_name(names, texts[i]);
	if (good)
		good = X509_add1_ext_i2d(x509, NID_subject_alt_name, names, 0, 0) == 1;
	GENERAL_NAMES_free(names);
	return good;
}

/* ---- certificates ---- */

static bool add_extension(X509 *x509, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX context;
	X509_EXTENSION *extension;
	bool good;

	X509V3_set_ctx(&context, issuer, x509, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	good = extension && X509_add_ext(x509, extension, -1);
	X509_EXTENSION_free(extension);
	return good;
}

static bool set_serial(X509 *x509)
{
	uint8_t bytes[16];
	BIGNUM *number;
	bool good;

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return false;
	bytes[0] = (bytes[0] & 0x7f) | 0x40; /* positive, and always of 16 bytes */
	number = BN_bin2bn(bytes, sizeof(bytes), NULL);
	good = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x509));
	BN_free(number);
	return good;
}

/* Key and certificate, all but the extensions that tell the kinds apart, and the signature. */
static bool pair_begin(struct pair *pair, const char *common_name, const struct pair *issuer, time_t start,
		       uint32_t days)
{
	X509_NAME *subject;

	pair->key = EVP_EC_gen("P-256");
	pair->x509 = X509_new();
	if (!pair->key || !pair->x509)
		return false;
	subject = X509_get_subject_name(pair->x509);
	return X509_set_version(pair->x509, X509_VERSION_3) && set_serial(pair->x509) &&
	       X509_time_adj_ex(X509_getm_notBefore(pair->x509), 0, 0, &start) &&
	       X509_time_adj_ex(X509_getm_notAfter(pair->x509), (int)days, 0, &start) &&
	       X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1,
					  0) &&
	       X509_set_issuer_name(pair->x509, X509_get_subject_name(issuer->x509)) &&
	       X509_set_pubkey(pair->x509, pair->key) &&
	       add_extension(pair->x509, issuer->x509, NID_subject_key_identifier, "hash");
}

static bool pair_sign(struct pair *pair, const struct pair *issuer)
{
	return X509_sign(pair->x509, issuer->key, EVP_sha256()) > 0;
}

static bool make_ca(struct pair *ca, time_t start)
{
	uint8_t random[4];
	char name[COMMON_NAME_MAX];

	if (RAND_bytes(random, sizeof(random)) != 1)
		return false;
	/* Names of different CAs differ, so that a mix-up shows in `openssl x509 -text`. */
	snprintf(name, sizeof(name), "pagestream CA %02x%02x%02x%02x", random[0], random[1], random[2], random[3]);
	return pair_begin(ca, name, ca, start, CA_DAYS) &&
	       add_extension(ca->x509, ca->x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	       add_extension(ca->x509, ca->x509, NID_key_usage, "critical,keyCertSign,cRLSign") && pair_sign(ca, ca);
}

static bool make_leaf(struct pair *leaf, const struct pair *ca, const char *common_name, const char *usage,
		      const char *const *names, size_t count, const struct keys_options *options)
{
	uint32_t days = options->days ? options->days : KEYS_DAYS_DEFAULT;

	return pair_begin(leaf, common_name, ca, options->start, days) &&
	       add_extension(leaf->x509, ca->x509, NID_authority_key_identifier, "keyid:always") &&
	       add_extension(leaf->x509, ca->x509, NID_basic_constraints, "critical,CA:FALSE") &&
	       add_extension(leaf->x509, ca->x509, NID_key_usage, "critical,digitalSignature") &&
	       add_extension(leaf->x509, ca->x509, NID_ext_key_usage, usage) && add_names(leaf->x509, names, count) &&
	       pair_sign(leaf, ca);
}

static int pairs_make(struct pair pairs[PAIRS], const struct keys_options *options, struct error *error)
{
	const char *server = options->names[0];
	unsigned long reason;

	if (strlen(server) > COMMON_NAME_MAX)
		server = "pagestream server";
	ERR_clear_error();
	if (make_ca(&pairs[PAIR_CA], options->start) &&
	    make_leaf(&pairs[PAIR_SERVER], &pairs[PAIR_CA], server, "serverAuth", options->names, options->name_count,
		      options) &&
	    make_leaf(&pairs[PAIR_CLIENT], &pairs[PAIR_CA], options->client, "clientAuth", &options->client, 1, options))
		return 0;
	reason = ERR_peek_error();
	ERR_clear_error();
	return error_set(error, -EIO, "making keys: %s",
			 reason ? ERR_reason_error_string(reason) : "OpenSSL gave no reason");
}

/* ---- files ---- */

/* Makes the directory and what is missing above it. */
static int directory_make(const char *dir, struct error *error)
{
	_cleanup_free_ char *path = strdup(dir);

	if (!path)
		return error_set_errno(error, -ENOMEM, "%s", dir);
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return error_set_errno(error, -errno, "cannot make directory %s", path);
		*slash = '/';
	}
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_set_errno(error, -errno, "cannot make directory %s", dir);
	return 0;
}

static int directory_open(const char *dir, int *ret_fd, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	struct stat st;
	int r;

	r = directory_make(dir, error);
	if (r < 0)
		return r;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(error, -errno, "cannot open directory %s", dir);
	if (st.st_mode & 022)
		return error_set(error, -EACCES, "others may write to directory %s: chmod 700 it, or name another", dir);
	for (int i = 0; i < PAIRS; i++) {
		const char *taken = NULL;

		if (faccessat(fd, pair_files[i].certificate, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			taken = pair_files[i].certificate;
		else if (faccessat(fd, pair_files[i].key, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			taken = pair_files[i].key;
		if (taken)
			return error_set(error, -EEXIST, "%s/%s exists and is not replaced: remove the old keys, or "
					 "name another directory", dir, taken);
	}
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int file_write(int dir_fd, const char *name, const void *data, size_t size, mode_t mode)
{
	_cleanup_fd_ int fd = -1;
	char temporary[64];
	int r;

	snprintf(temporary, sizeof(temporary), ".%s.%d", name, (int)getpid());
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	r = fdio_write(fd, data, size);
	if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
		r = -errno;
	if (r == 0 && renameat2(dir_fd, temporary, dir_fd, name, RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temporary, 0);
	return r;
}

static int pair_write(int dir_fd, const struct pair *pair, int which, bool key)
{
	_cleanup_(cleanup_bio) BIO *bio = BIO_new(key ? BIO_s_secmem() : BIO_s_mem());
	char *data;
	long size;

	if (!bio)
		return -ENOMEM;
	if (key ? !PEM_write_bio_PrivateKey(bio, pair->key, NULL, NULL, 0, NULL, NULL)
		: !PEM_write_bio_X509(bio, pair->x509))
		return -ENOMEM;
	size = BIO_get_mem_data(bio, &data);
	return file_write(dir_fd, key ? pair_files[which].key : pair_files[which].certificate, data, (size_t)size,
			  key ? 0600 : 0644);
}

static int pairs_write(int dir_fd, const char *dir, const struct pair pairs[PAIRS], struct error *error)
{
	int written = 0, r = 0;

	for (; written < 2 * PAIRS && r == 0; written += r == 0)
		r = pair_write(dir_fd, &pairs[written / 2], written / 2, written % 2);
	if (r == 0 && fsync(dir_fd) < 0)
		r = -errno;
	if (r == 0)
		return 0;
	error_set_errno(error, r, "cannot write %s/%s", dir,
			written % 2 ? pair_files[written / 2 % PAIRS].key
				    : pair_files[written / 2 % PAIRS].certificate);
	while (written-- > 0)
		unlinkat(dir_fd, written % 2 ? pair_files[written / 2].key : pair_files[written / 2].certificate, 0);
	return r;
}

int keys_generate(const char *dir, const struct keys_options *options, struct error *error)
{
	char host[NAME_MAX_DNS + 3] = "";
	const char *const usual[] = { "localhost", "127.0.0.1", "::1", host };
	_cleanup_(cleanup_pairs) struct pair pairs[PAIRS] = { 0 };
	struct keys_options full = *options;
	_cleanup_fd_ int dir_fd = -1;
	int r;

	if (gethostname(host, sizeof(host) - 1) < 0 || !is_host_name(host))
		host[0] = '\0';
	if (!full.name_count) {
		full.names = usual;
		full.name_count = host[0] ? 4 : 3;
	}
	if (!full.client)
		full.client = host[0] && strlen(host) <= COMMON_NAME_MAX ? host : "client";
	if (!full.start)
		full.start = time(NULL) - CLOCK_SLACK;
	r = names_check(&full, error);
	if (r == 0)
		r = directory_open(dir, &dir_fd, error);
	if (r == 0)
		r = pairs_make(pairs, &full, error);
	if (r == 0)
		r = pairs_write(dir_fd, dir, pairs, error);
	return r;
}
