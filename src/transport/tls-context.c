/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Certificates and keys: read from the directory, and checked when they are loaded, so that what is wrong with one's
 * own files shows at the start and not as the peer's complaint.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tls-internal.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define FILE_MAX (1024 * 1024)
#define CIPHERS "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define READ_AHEAD (128 * 1024)
#define VERIFY_DEPTH 4

struct pem_file {
	const char *dir;  /* borrowed */
	const char *name; /* borrowed */
	BIO *bio;         /* owned; the content */
	uint8_t *data;    /* owned; what the BIO reads from; wiped at the end, it may be a key */
	size_t size;      /* bytes of data */
};

static void pem_close(struct pem_file *file)
{
	BIO_free(file->bio);
	if (file->data)
		explicit_bzero(file->data, file->size);
	free(file->data);
}

#define _cleanup_pem_ __attribute__((cleanup(pem_close)))

static int pem_fail(const struct pem_file *file, int code, const char *what, struct error *error)
{
	ERR_clear_error();
	return error_set(error, code, "%s/%s %s", file->dir, file->name, what);
}

static int pem_check_mode(const struct pem_file *file, const struct stat *st, bool secret, struct error *error)
{
	if (!S_ISREG(st->st_mode) || st->st_size > FILE_MAX)
		return pem_fail(file, -EINVAL, "is not a PEM file", error);
	if (secret && (st->st_mode & 077))
		return error_set(error, -EACCES,
				 "%s/%s may be read by others (mode %03o), so it is not a secret any more: "
				 "chmod 600 it, or better make new keys",
				 file->dir, file->name, st->st_mode & 0777);
	return 0;
}

static int pem_open(const char *dir, const char *name, bool secret, struct pem_file *file, struct error *error)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_fd_ int fd = -1;
	struct stat st;
	ssize_t n;
	int r;

	*file = (struct pem_file){ .dir = dir, .name = name };
	if (asprintf(&path, "%s/%s", dir, name) < 0) {
		path = NULL;
		return error_set_errno(error, -ENOMEM, "%s/%s", dir, name);
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return error_set(error, -ENOENT,
				 "%s does not exist: run 'migrate keys --dir DIR' once, and copy ca.pem and this "
				 "side's two files to %s",
				 path, dir);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(error, -errno, "cannot open %s", path);
	r = pem_check_mode(file, &st, secret, error);
	if (r < 0)
		return r;
	file->data = malloc((size_t)st.st_size + 1);
	file->size = (size_t)st.st_size;
	if (!file->data)
		return error_set_errno(error, -ENOMEM, "%s", path);
	n = fdio_read(fd, file->data, file->size);
	if (n < 0)
		return error_set_errno(error, (int)n, "cannot read %s", path);
	file->bio = BIO_new_mem_buf(file->data, (int)n);
	if (!file->bio)
		return error_set_errno(error, -ENOMEM, "%s", path);
	return 0;
}

/* A key with a pass phrase would ask for it on the terminal. */
static int no_pass_phrase(char *buffer, int size, int writing, void *data)
{
	(void)buffer;
	(void)size;
	(void)writing;
	(void)data;
	return -1;
}

static int load_ca(SSL_CTX *ssl_context, const char *dir, struct error *error)
{
	_cleanup_pem_ struct pem_file file = { 0 };
	X509_STORE *store = SSL_CTX_get_cert_store(ssl_context);
	X509 *certificate;
	int count = 0, r;

	r = pem_open(dir, "ca.pem", false, &file, error);
	if (r < 0)
		return r;
	while ((certificate = PEM_read_bio_X509(file.bio, NULL, no_pass_phrase, NULL))) {
		r = X509_STORE_add_cert(store, certificate);
		X509_free(certificate);
		if (r != 1)
			return pem_fail(&file, -EINVAL, "holds a certificate that cannot be used", error);
		count++;
	}
	ERR_clear_error();
	return count ? 0 : pem_fail(&file, -EINVAL, "holds no certificate in PEM form", error);
}

static int check_own(struct tls_context *context, const struct pem_file *file, X509 *certificate, struct error *error)
{
	uint32_t usage = X509_get_extended_key_usage(certificate);
	uint32_t wanted = context->role == TLS_SERVER ? XKU_SSL_SERVER : XKU_SSL_CLIENT;
	char when[TLS_TIME_MAX];
	int days = 0, seconds = 0;

	if (usage == UINT32_MAX || !(usage & wanted))
		return pem_fail(file, -EINVAL,
				context->role == TLS_SERVER ? "is not a server's certificate (no key usage serverAuth)"
							    : "is not a client's certificate (no key usage clientAuth)",
				error);
	if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(certificate)) != 1)
		return pem_fail(file, -EINVAL, "does not say when it expires", error);
	context->expires = (int64_t)time(NULL) + (int64_t)days * 86400 + seconds;
	if (days < 0 || seconds < 0) {
		tls_time_text(X509_get0_notAfter(certificate), when);
		return error_set(error, -EACCES, "%s/%s expired on %s: make new keys with 'migrate keys'", file->dir,
				 file->name, when);
	}
	if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
		tls_time_text(X509_get0_notBefore(certificate), when);
		return error_set(error, -EACCES, "%s/%s is not valid before %s: is the clock right?", file->dir,
				 file->name, when);
	}
	return 0;
}

static int load_certificate(struct tls_context *context, const char *dir, struct error *error)
{
	_cleanup_pem_ struct pem_file file = { 0 };
	X509 *certificate, *next;
	int r;

	r = pem_open(dir, context->role == TLS_SERVER ? "server.pem" : "client.pem", false, &file, error);
	if (r < 0)
		return r;
	certificate = PEM_read_bio_X509(file.bio, NULL, no_pass_phrase, NULL);
	if (!certificate)
		return pem_fail(&file, -EINVAL, "holds no certificate in PEM form", error);
	r = check_own(context, &file, certificate, error);
	if (r == 0 && SSL_CTX_use_certificate(context->ssl_context, certificate) != 1)
		r = pem_fail(&file, -EINVAL, "holds a certificate that cannot be used", error);
	X509_free(certificate);
	/* Whatever follows is the way to the CA. */
	while (r == 0 && (next = PEM_read_bio_X509(file.bio, NULL, no_pass_phrase, NULL))) {
		if (SSL_CTX_add1_chain_cert(context->ssl_context, next) != 1)
			r = pem_fail(&file, -EINVAL, "holds a further certificate that cannot be used", error);
		X509_free(next);
	}
	ERR_clear_error();
	return r;
}

static int load_key(struct tls_context *context, const char *dir, struct error *error)
{
	_cleanup_pem_ struct pem_file file = { 0 };
	EVP_PKEY *key;
	int r;

	r = pem_open(dir, context->role == TLS_SERVER ? "server-key.pem" : "client-key.pem", true, &file, error);
	if (r < 0)
		return r;
	key = PEM_read_bio_PrivateKey(file.bio, NULL, no_pass_phrase, NULL);
	if (!key)
		return pem_fail(&file, -EINVAL, "holds no private key in PEM form (without pass phrase)", error);
	if (SSL_CTX_use_PrivateKey(context->ssl_context, key) != 1 ||
	    SSL_CTX_check_private_key(context->ssl_context) != 1)
		r = pem_fail(&file, -EINVAL, "does not belong to the certificate beside it", error);
	EVP_PKEY_free(key);
	return r;
}

static int configure(struct tls_context *context)
{
	SSL_CTX *ssl_context = context->ssl_context;

	if (SSL_CTX_set_min_proto_version(ssl_context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_max_proto_version(ssl_context, TLS1_3_VERSION) != 1 ||
	    SSL_CTX_set_ciphersuites(ssl_context, CIPHERS) != 1 || SSL_CTX_set_num_tickets(ssl_context, 0) != 1)
		return -EPROTO;
	SSL_CTX_set_options(ssl_context, SSL_OP_NO_TICKET);
	SSL_CTX_set_session_cache_mode(ssl_context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify_depth(ssl_context, VERIFY_DEPTH);
	SSL_CTX_set_read_ahead(ssl_context, 1);
	SSL_CTX_set_default_read_buffer_len(ssl_context, READ_AHEAD);
	return 0;
}

int tls_context_new(enum tls_role role, const char *dir, struct tls_context **ret, struct error *error)
{
	struct tls_context *context = calloc(1, sizeof(*context));
	int r;

	if (!context)
		return error_set_errno(error, -ENOMEM, "TLS");
	atomic_init(&context->references, 1);
	context->role = role;
	context->ssl_context = SSL_CTX_new(role == TLS_SERVER ? TLS_server_method() : TLS_client_method());
	context->bio_method = tls_bio_method_new();
	if (!context->ssl_context || !context->bio_method)
		r = error_set_errno(error, -ENOMEM, "TLS");
	else if (configure(context) < 0)
		r = error_set(error, -EPROTO, "this OpenSSL cannot do TLS 1.3 as it is needed");
	else
		r = load_ca(context->ssl_context, dir, error);
	if (r == 0)
		r = load_certificate(context, dir, error);
	if (r == 0)
		r = load_key(context, dir, error);
	if (r < 0) {
		tls_context_unref(context);
		return r;
	}
	*ret = context;
	return 0;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
	atomic_fetch_add(&context->references, 1);
	return context;
}

void tls_context_unref(struct tls_context *context)
{
	if (!context || atomic_fetch_sub(&context->references, 1) != 1)
		return;
	SSL_CTX_free(context->ssl_context);
	BIO_meth_free(context->bio_method);
	free(context);
}

int64_t tls_context_expires_in(const struct tls_context *context)
{
	return context->expires - (int64_t)time(NULL);
}
