/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "error.h"

#include <stdio.h>
#include <string.h>

static void append(struct error *error, const char *text)
{
	size_t used = strlen(error->message);

	snprintf(error->message + used, sizeof(error->message) - used, "%s", text);
}

int error_set(struct error *error, int code, const char *format, ...)
{
	va_list ap;

	if (!error || error->code)
		return code;
	error->code = code;
	va_start(ap, format);
	vsnprintf(error->message, sizeof(error->message), format, ap);
	va_end(ap);
	return code;
}

int error_set_errno(struct error *error, int code, const char *format, ...)
{
	va_list ap;

	if (!error || error->code)
		return code;
	error->code = code;
	va_start(ap, format);
	vsnprintf(error->message, sizeof(error->message), format, ap);
	va_end(ap);
	append(error, ": ");
	append(error, strerror(-code));
	return code;
}

int error_wrap(struct error *error, int code, const char *format, ...)
{
	char inner[ERROR_MESSAGE_MAX];
	va_list ap;

	if (!error)
		return code;
	if (!error->code) {
		error->code = code;
		snprintf(inner, sizeof(inner), "%s", strerror(-code));
	} else {
		snprintf(inner, sizeof(inner), "%s", error->message);
	}
	va_start(ap, format);
	vsnprintf(error->message, sizeof(error->message), format, ap);
	va_end(ap);
	append(error, ": ");
	append(error, inner);
	return error->code;
}

void error_clear(struct error *error)
{
	if (!error)
		return;
	error->code = 0;
	error->message[0] = '\0';
}

const char *error_text(const struct error *error, int code)
{
	if (error && error->code)
		return error->message;
	return strerror(-code);
}
