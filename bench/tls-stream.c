/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The yardstick: how fast does a plain TLS 1.3 stream run between two processes of this machine?
 *
 *	tls-stream serve ADDRESS PORT		prints "listening", takes one connection, reads all, answers with
 *						the number of bytes, ends
 *	tls-stream send ADDRESS PORT BYTES	sends so many bytes, waits for the answer, prints bytes a second
 *
 * The certificate is made on the spot and not checked: a handshake is no part of the measurement. The cipher suite is the
 * library's choice for this processor, unless TLS_STREAM_CIPHERS names one. The data comes from 4 MiB that do not
 * compress, written 256 KiB at a time. Both ends are blocking and have one thread. IPv4 addresses only.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WRITE_SIZE  (256 * 1024)
#define SOURCE_SIZE (4 * 1024 * 1024)

_Noreturn static void die(const char *what)
{
	perror(what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct sockaddr_in parse_address(const char *address, const char *port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (inet_pton(AF_INET, address, &in.sin_addr) != 1) {
		fprintf(stderr, "tls-stream: %s is no IPv4 address\n", address);
		exit(2);
	}
	return in;
}

static void make_certificate(SSL_CTX *context)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *certificate = X509_new();

	if (!key || !certificate)
		die("key");
	ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
	X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
	X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
	if (!X509_set_pubkey(certificate, key) || !X509_sign(certificate, key, EVP_sha256()) ||
	    SSL_CTX_use_certificate(context, certificate) != 1 || SSL_CTX_use_PrivateKey(context, key) != 1)
		die("certificate");
	X509_free(certificate);
	EVP_PKEY_free(key);
}

static SSL_CTX *make_context(const SSL_METHOD *method)
{
	SSL_CTX *context = SSL_CTX_new(method);
	const char *ciphers = getenv("TLS_STREAM_CIPHERS");

	if (!context || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1)
		die("TLS context");
	if (ciphers && SSL_CTX_set_ciphersuites(context, ciphers) != 1)
		die(ciphers);
	return context;
}

static SSL *make_stream(SSL_CTX *context, int fd)
{
	SSL *ssl = SSL_new(context);

	if (!ssl || SSL_set_fd(ssl, fd) != 1)
		die("TLS stream");
	return ssl;
}

static int serve(const char *address, const char *port)
{
	struct sockaddr_in in = parse_address(address, port);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, fd, got;
	SSL_CTX *context = make_context(TLS_server_method());
	char *data = malloc(WRITE_SIZE);
	uint64_t expected, total = 0;
	SSL *ssl;

	make_certificate(context);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!data || bind(listener, (struct sockaddr *)&in, sizeof(in)) < 0 || listen(listener, 1) < 0)
		die("listen");
	printf("listening\n");
	fflush(stdout);
	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		die("accept");
	ssl = make_stream(context, fd);
	if (SSL_accept(ssl) != 1 || SSL_read(ssl, &expected, sizeof(expected)) != sizeof(expected))
		die("TLS handshake");
	while (total < expected && (got = SSL_read(ssl, data, WRITE_SIZE)) > 0)
		total += (uint64_t)got;
	if (SSL_write(ssl, &total, sizeof(total)) != sizeof(total))
		die("answer");
	SSL_shutdown(ssl);
	return 0;
}

static int send_bytes(const char *address, const char *port, uint64_t bytes)
{
	struct sockaddr_in in = parse_address(address, port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	SSL *ssl = make_stream(make_context(TLS_client_method()), fd);
	uint8_t *data = malloc(SOURCE_SIZE);
	uint64_t sent = 0, answer = 0;
	double start, end;

	if (!data || RAND_bytes(data, SOURCE_SIZE) != 1)
		die("data");
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) < 0 || SSL_connect(ssl) != 1)
		die("connect");
	start = seconds_now();
	if (SSL_write(ssl, &bytes, sizeof(bytes)) != sizeof(bytes))
		die("write");
	while (sent < bytes) {
		int size = bytes - sent < WRITE_SIZE ? (int)(bytes - sent) : WRITE_SIZE;

		if (SSL_write(ssl, data + sent % SOURCE_SIZE, size) != size)
			die("write");
		sent += (uint64_t)size;
	}
	if (SSL_read(ssl, &answer, sizeof(answer)) != sizeof(answer) || answer != bytes)
		die("the other end did not get all");
	end = seconds_now();
	printf("%.0f %s\n", (double)bytes / (end - start), SSL_get_cipher_name(ssl));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "serve"))
		return serve(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "send"))
		return send_bytes(argv[2], argv[3], strtoull(argv[4], NULL, 10));
	fprintf(stderr, "usage: tls-stream serve ADDRESS PORT | send ADDRESS PORT BYTES\n");
	return 2;
}
