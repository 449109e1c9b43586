/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options of sockets: image/socket-options.h, with a new socket of each kind to compare with, made
 * once a context.
 */
#include "image/socket-options.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dump/file-kind.h"
#include "util/cleanup.h"

static int add_reference(struct dump_files *files, int domain, int type, int protocol, struct error *error)
{
	struct dump_socket_reference reference = { .domain = domain,
						   .type = type,
						   .protocol = protocol };
	_cleanup_fd_ int fd = socket(domain, type | SOCK_CLOEXEC, protocol);
	int r;

	if (fd < 0)
		return error_set_errno(error, -errno, "making a socket to compare with");
	reference.options = calloc(1, sizeof(*reference.options));
	r = reference.options ? image_socket_options_read(fd, domain, type, protocol, NULL,
							  reference.options, error)
			      : error_set(error, -ENOMEM, "no memory for socket options");
	if (r == 0 && array_append(&files->references, reference) < 0)
		r = error_set(error, -ENOMEM, "no memory for socket options");
	if (r < 0)
		free(reference.options);
	return r;
}

const struct image_socket_options *dump_socket_reference(const struct dump_files *files, int domain, int type, int protocol)
{
	array_for_each (reference, &files->references)
		if (reference->domain == domain && reference->type == type &&
		    reference->protocol == protocol)
			return reference->options;
	return NULL;
}

int dump_socket_reference_make(struct dump_files *files, int domain, int type, int protocol, struct error *error)
{
	return dump_socket_reference(files, domain, type, protocol) ? 0 : add_reference(files, domain, type, protocol, error);
}

int dump_socket_options(struct dump_context *ctx, const struct dump_file *file, int domain, int type, int protocol,
			struct image_socket_options **ret, struct error *error)
{
	struct dump_files *files = ctx->files;
	int r;

	if (!files->options)
		files->options = calloc(1, sizeof(*files->options));
	if (!files->options)
		return error_set(error, -ENOMEM, "no memory for socket options");
	r = dump_socket_reference_make(files, domain, type, protocol, error);
	if (r < 0)
		return r;
	image_socket_options_deinit(files->options);
	r = image_socket_options_read(file->fd, domain, type, protocol, dump_socket_reference(files, domain, type, protocol),
				      files->options, error);
	if (r == -EOPNOTSUPP) {
		error_clear(error);
		dump_file_refuse(ctx, file, IMAGE_KIND_SOCKET_FILTER_EXTENDED);
		return 1;
	}
	if (r == 0)
		*ret = files->options;
	return r;
}

void dump_socket_options_free(struct dump_files *files)
{
	array_for_each (reference, &files->references) {
		image_socket_options_deinit(reference->options);
		free(reference->options);
	}
	array_deinit(&files->references);
	if (files->options)
		image_socket_options_deinit(files->options);
	free(files->options);
	files->options = NULL;
}
