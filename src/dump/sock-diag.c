/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "dump/sock-diag.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netlink/netlink.h>

/* libnl knows numbers of its own, so what `take` has returned is kept beside them. */
struct answer {
	dump_sock_diag_fn *take;
	void *argument; /* of take */
	int result;
};

static int take_message(struct nl_msg *message, void *argument)
{
	struct answer *answer = argument;

	answer->result = answer->take(nlmsg_hdr(message), answer->argument);
	return answer->result < 0 ? NL_STOP : NL_OK;
}

int dump_sock_diag(const void *request, size_t size, bool all, dump_sock_diag_fn *take, void *argument, const char *what,
		   struct error *error)
{
	struct answer answer = { .take = take, .argument = argument };
	struct nl_sock *socket = nl_socket_alloc();
	int r;

	if (!socket)
		return error_set(error, -ENOMEM, "no memory for a netlink socket");
	nl_socket_disable_auto_ack(socket); /* one socket is answered by its message alone */
	r = nl_connect(socket, NETLINK_SOCK_DIAG);
	if (r == 0)
		r = nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, take_message, &answer);
	if (r == 0)
		r = nl_send_simple(socket, SOCK_DIAG_BY_FAMILY, all ? NLM_F_DUMP : 0, (void *)request, size);
	if (r >= 0)
		r = nl_recvmsgs_default(socket);
	nl_socket_free(socket);
	if (r < 0)
		return error_set(error, -EIO, "listing %s (sock_diag): %s", what, nl_geterror(r));
	return answer.result < 0 ? error_set_errno(error, answer.result, "listing %s", what) : 0;
}
