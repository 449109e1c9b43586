/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "parse.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int parse_uint(const char *text, uint64_t max, const char *what, uint64_t *ret, struct error *error)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end || errno || value > max)
		return error_set(error, -EINVAL, "%s: '%s' is not a number from 0 to %" PRIu64, what, text, max);
	*ret = value;
	return 0;
}

int parse_size(const char *text, const char *what, uint64_t *ret, struct error *error)
{
	static const char units[] = "KMGT";
	uint64_t value, factor = 1;
	const char *unit;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || errno)
		goto bad;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit)
			goto bad;
		factor = UINT64_C(1) << (10 * (unit - units + 1));
		end++;
		if (strcmp(end, "") != 0 && strcmp(end, "B") != 0 && strcmp(end, "iB") != 0)
			goto bad;
	}
	if (__builtin_mul_overflow(value, factor, &value))
		goto bad;
	*ret = value;
	return 0;
bad:
	return error_set(error, -EINVAL, "%s: '%s' is not a size; write a number, then K, M, G or T", what, text);
}

int parse_pid(const char *text, pid_t *ret, struct error *error)
{
	uint64_t value;

	if (parse_uint(text, INT32_MAX, "PID", &value, NULL) < 0 || value == 0)
		return error_set(error, -EINVAL, "'%s' is not a PID", text);
	*ret = (pid_t)value;
	return 0;
}

int parse_host_port(const char *text, int host_optional, struct parse_address *ret, struct error *error)
{
	const char *colon = strrchr(text, ':');
	const char *port = colon ? colon + 1 : text;
	const char *host = text;
	struct parse_address address = { 0 };
	size_t length = colon ? (size_t)(colon - text) : 0;
	uint64_t number;

	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		host++;
		length -= 2;
	} else if (memchr(text, ':', length)) {
		goto bad; /* an IPv6 address needs its brackets */
	}
	if ((!length && !host_optional) || length >= sizeof(address.host))
		goto bad;
	if (parse_uint(port, 65535, "port", &number, NULL) < 0 || strlen(port) >= sizeof(address.port))
		goto bad;
	memcpy(address.host, host, length);
	snprintf(address.port, sizeof(address.port), "%s", port);
	*ret = address;
	return 0;
bad:
	return error_set(error, -EINVAL, "'%s' is not %sHOST:PORT (an IPv6 address needs brackets: [::1]:7000)", text,
			 host_optional ? "PORT or " : "");
}
