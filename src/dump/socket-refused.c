/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sockets of families and protocols that are refused, each by its name. */
#include <netinet/in.h>
#include <sys/socket.h>

#include "dump/file-kind.h"
#include "util/sockopt.h"

#define ANY (-1)

static const struct {
	int domain;
	int protocol;
	enum image_kind kind;
} refused[] = {
	{ AF_VSOCK, ANY, IMAGE_KIND_SOCKET_VSOCK },
	{ AF_XDP, ANY, IMAGE_KIND_SOCKET_XDP },
	{ AF_ALG, ANY, IMAGE_KIND_SOCKET_ALG },
	{ AF_INET, IPPROTO_SCTP, IMAGE_KIND_SOCKET_SCTP },
	{ AF_INET6, IPPROTO_SCTP, IMAGE_KIND_SOCKET_SCTP },
	{ AF_INET, IPPROTO_MPTCP, IMAGE_KIND_SOCKET_MPTCP },
	{ AF_INET6, IPPROTO_MPTCP, IMAGE_KIND_SOCKET_MPTCP },
	{ AF_INET, IPPROTO_DCCP, IMAGE_KIND_SOCKET_DCCP },
	{ AF_INET6, IPPROTO_DCCP, IMAGE_KIND_SOCKET_DCCP },
	{ AF_SMC, ANY, IMAGE_KIND_SOCKET_SMC },
	{ AF_BLUETOOTH, ANY, IMAGE_KIND_SOCKET_BLUETOOTH },
	{ AF_CAN, ANY, IMAGE_KIND_SOCKET_CAN },
	{ AF_KEY, ANY, IMAGE_KIND_SOCKET_KEY },
	{ AF_TIPC, ANY, IMAGE_KIND_SOCKET_TIPC },
	{ AF_RDS, ANY, IMAGE_KIND_SOCKET_RDS },
	{ AF_PPPOX, ANY, IMAGE_KIND_SOCKET_PPPOX },
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* The place in the table, or COUNT(refused). */
static size_t find(const struct dump_file *file)
{
	int domain = file->domain, protocol = 0;
	size_t i;

	if (domain < 0 || sockopt_read_int(file->fd, SOL_SOCKET, SO_PROTOCOL, &protocol) < 0)
		return COUNT(refused);
	for (i = 0; i < COUNT(refused); i++)
		if (refused[i].domain == domain && (refused[i].protocol == ANY || refused[i].protocol == protocol))
			break;
	return i;
}

static bool match(const struct dump_file *file)
{
	return find(file) < COUNT(refused);
}

static int dump(struct dump_context *ctx, const struct dump_file *file, struct error *error)
{
	(void)error;
	dump_file_refuse(ctx, file, refused[find(file)].kind);
	return 0;
}

const struct dump_file_kind dump_kind_socket_refused = {
	.name = "socket",
	.type = FILE_TYPE__FILE_UNKNOWN,
	.match = match,
	.dump = dump,
};
