/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The other side's certificate: whether it is good, who it names, and what to say when something about it (or about
 * the connection) is not as it must be. OpenSSL checks chain, dates, purpose and name; its default lets a certificate
 * pass that states no extended key usage at all, so that is checked here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "tls-internal.h"

/* ---- names ---- */

static char *string_copy(const ASN1_STRING *string)
{
	const unsigned char *data = ASN1_STRING_get0_data(string);
	size_t length = (size_t)ASN1_STRING_length(string);

	/* A NUL inside a name has no honest use. */
	if (memchr(data, '\0', length))
		return strdup("");
	return strndup((const char *)data, length);
}

static char *common_name(const X509 *certificate)
{
	X509_NAME *subject = X509_get_subject_name(certificate);
	int index = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	unsigned char *text = NULL;
	char *copy;
	int length;

	if (index < 0)
		return strdup("");
	length = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, index)));
	if (length < 0)
		return strdup("");
	copy = memchr(text, '\0', (size_t)length) ? strdup("") : strdup((const char *)text);
	OPENSSL_free(text);
	return copy;
}

static char *general_name(const GENERAL_NAME *name)
{
	char address[INET6_ADDRSTRLEN];
	const ASN1_OCTET_STRING *bytes;
	int length;

	if (name->type == GEN_DNS)
		return string_copy(name->d.dNSName);
	bytes = name->d.iPAddress;
	length = ASN1_STRING_length(bytes);
	if (length != 4 && length != 16)
		return strdup("");
	inet_ntop(length == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(bytes), address, sizeof(address));
	return strdup(address);
}

struct tls_peer *tls_peer_new(X509 *certificate)
{
	struct tls_peer *peer = calloc(1, sizeof(*peer));
	GENERAL_NAMES *names;

	if (!peer)
		return NULL;
	peer->common_name = common_name(certificate);
	names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		char *text;

		if (name->type != GEN_DNS && name->type != GEN_IPADD)
			continue;
		text = general_name(name);
		if (!text || array_append(&peer->names, text) < 0) {
			free(text);
			free(peer->common_name);
			peer->common_name = NULL;
			break;
		}
	}
	GENERAL_NAMES_free(names);
	if (!peer->common_name) {
		tls_peer_free(peer);
		return NULL;
	}
	return peer;
}

void tls_peer_free(struct tls_peer *peer)
{
	if (!peer)
		return;
	array_for_each(name, &peer->names)
		free(*name);
	array_deinit(&peer->names);
	free(peer->common_name);
	free(peer);
}

bool tls_peer_is(const struct tls_peer *peer, const char *name)
{
	if (!peer || !*name)
		return false;
	if (strcasecmp(peer->common_name, name) == 0)
		return true;
	array_for_each(own, &peer->names)
		if (strcasecmp(*own, name) == 0)
			return true;
	return false;
}

/* ---- refusing ---- */

static void names_text(X509 *certificate, char *text, size_t size)
{
	struct tls_peer *peer = tls_peer_new(certificate);

	snprintf(text, size, "%s", peer && peer->names.count ? "" : "no name at all");
	if (peer)
		array_for_each(name, &peer->names) {
			size_t used = strlen(text);

			snprintf(text + used, size - used, "%s%s", used ? ", " : "", *name);
		}
	tls_peer_free(peer);
}

void tls_time_text(const ASN1_TIME *time, char text[TLS_TIME_MAX])
{
	struct tm tm = { 0 };

	if (ASN1_TIME_to_tm(time, &tm) != 1 || !strftime(text, TLS_TIME_MAX, "%Y-%m-%d %H:%M UTC", &tm))
		snprintf(text, TLS_TIME_MAX, "an unknown time");
}

static void refuse(struct stream_tls *tls, X509 *certificate, int why)
{
	char *reason = tls->reason;
	char text[TLS_REASON_MAX / 2];

	if (*reason)
		return;
	switch (why) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		tls_time_text(X509_get0_notAfter(certificate), text);
		snprintf(reason, TLS_REASON_MAX, "it expired on %s", text);
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		tls_time_text(X509_get0_notBefore(certificate), text);
		snprintf(reason, TLS_REASON_MAX, "it is not valid before %s; are both clocks right?", text);
		break;
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		names_text(certificate, text, sizeof(text));
		snprintf(reason, TLS_REASON_MAX,
			 "it is for %s, not for %.100s: connect by one of its names, or make keys with that name "
			 "('migrate keys --name')",
			 text, tls->expected_name ? tls->expected_name : "this name");
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:
		snprintf(reason, TLS_REASON_MAX,
			 "it is not signed by the CA in ca.pem (unknown CA): both sides need files of the same "
			 "'migrate keys'");
		break;
	case X509_V_ERR_INVALID_PURPOSE:
		snprintf(reason, TLS_REASON_MAX, "it is not made for a %s (extended key usage)",
			 tls->context->role == TLS_SERVER ? "client" : "server");
		break;
	default:
		snprintf(reason, TLS_REASON_MAX, "%s", X509_verify_cert_error_string(why));
	}
}

int tls_verify(int ok, X509_STORE_CTX *store)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct stream_tls *tls = tls_of(ssl);
	X509 *certificate = X509_STORE_CTX_get_current_cert(store);
	uint32_t wanted = tls->context->role == TLS_SERVER ? XKU_SSL_CLIENT : XKU_SSL_SERVER;

	if (ok && X509_STORE_CTX_get_error_depth(store) == 0) {
		uint32_t usage = X509_get_extended_key_usage(certificate);

		if (usage == UINT32_MAX || !(usage & wanted)) {
			X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
			ok = 0;
		}
	}
	if (!ok)
		refuse(tls, certificate, X509_STORE_CTX_get_error(store));
	return ok;
}

/* ---- reasons ---- */

struct failure {
	int reason;           /* SSL_R_... */
	int code;             /* negative errno */
	const char *sentence; /* goes after "LABEL " */
};

static const struct failure failures[] = {
	{ SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, -EACCES, "showed no certificate; both sides need one" },
	{ SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, -EACCES, "demands a certificate, and was shown none" },
	{ SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, -EACCES, "refuses our certificate: it has expired" },
	{ SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, -EACCES, "refuses our certificate: it is revoked" },
	{ SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, -EACCES, "refuses our certificate" },
	{ SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, -EACCES, "refuses our certificate: its name or its dates do not fit there" },
	{ SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE, -EACCES, "refuses our certificate: it is for another purpose" },
	{ SSL_R_SSLV3_ALERT_NO_CERTIFICATE, -EACCES, "demands a certificate, and was shown none" },
	{ SSL_R_TLSV1_ALERT_UNKNOWN_CA, -EACCES, "refuses our certificate: it is from a CA unknown there (its ca.pem)" },
	{ SSL_R_TLSV1_ALERT_ACCESS_DENIED, -EACCES, "refuses us" },
	{ SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, -EPROTO, "does not speak TLS 1.3" },
	{ SSL_R_UNSUPPORTED_PROTOCOL, -EPROTO, "does not speak TLS 1.3" },
	{ SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, -EPROTO, "shares no way to encrypt with us" },
	{ SSL_R_NO_SHARED_CIPHER, -EPROTO, "shares no way to encrypt with us" },
	{ SSL_R_UNEXPECTED_EOF_WHILE_READING, -ECONNRESET, "is gone: the connection was cut without a goodbye" },
	{ SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, -EBADMSG, "sent data that arrived damaged" },
	{ SSL_R_BAD_RECORD_TYPE, -EBADMSG, "sent data that arrived damaged" },
	{ SSL_R_WRONG_VERSION_NUMBER, -EBADMSG, "sent data that arrived damaged" },
	{ SSL_R_ENCRYPTED_LENGTH_TOO_LONG, -EBADMSG, "sent data that arrived damaged" },
	{ SSL_R_PACKET_LENGTH_TOO_LONG, -EBADMSG, "sent data that arrived damaged" },
	{ SSL_R_SSLV3_ALERT_BAD_RECORD_MAC, -EBADMSG, "says that our data arrived damaged" },
	{ SSL_R_TLSV1_ALERT_DECRYPT_ERROR, -EACCES, "refuses our certificate: its signature is wrong" },
};

/* Content types of TLS records, RFC 8446 5.1 (23: application data, 24: heartbeat of earlier versions). */
static bool is_record_type(uint8_t byte)
{
	return byte >= 20 && byte <= 24;
}

int tls_failure(struct stream_tls *tls, const char *what, struct error *error)
{
	const char *label = stream_label(&tls->base);
	unsigned long first = ERR_peek_error();
	int reason = ERR_GET_REASON(first);

	ERR_clear_error();
	if (tls->reason[0])
		return error_set(error, -EACCES, "the certificate of %s is refused: %s", label, tls->reason);
	if (tls->received && !is_record_type(tls->first_byte))
		return error_set(error, -EPROTO, "%s does not speak TLS: it sent plain bytes", label);
	if (!tls->received && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return error_set(error, -ECONNRESET, "%s closed the connection before a TLS handshake", label);
	for (size_t i = 0; i < sizeof(failures) / sizeof(failures[0]) && ERR_GET_LIB(first) == ERR_LIB_SSL; i++)
		if (failures[i].reason == reason)
			return error_set(error, failures[i].code, "%s %s", label, failures[i].sentence);
	return error_set(error, -EPROTO, "%s %s: %s", what, label,
			 first ? ERR_reason_error_string(first) : "TLS failed without a reason");
}
