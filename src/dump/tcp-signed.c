/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether the segments of a TCP connection are signed: TCP-AO says it of the socket, TCP-MD5 (RFC 2385) says it by
 * inet_diag(7) only. Keys cannot be read back, or only some, and without them the peer would drop all that comes.
 */
#include <errno.h>
#include <linux/inet_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "dump/sock-diag.h"
#include "dump/tcp.h"

#ifndef TCP_AO_INFO
#define TCP_AO_INFO 40 /* Linux 6.7 */
#endif
#define AO_INFO_SIZE 48
#define DIAG_MD5SIG 18 /* INET_DIAG_MD5SIG, Linux 4.14 */

static int take_message(struct nlmsghdr *header, void *argument)
{
	bool *is_signed = argument;

	*is_signed = nlmsg_find_attr(header, sizeof(struct inet_diag_msg), DIAG_MD5SIG) != NULL;
	return 0;
}

static bool fill_id(int fd, struct inet_diag_req_v2 *request)
{
	struct sockaddr_in6 own = { 0 }, peer = { 0 };
	socklen_t size = sizeof(own), peer_size = sizeof(peer);
	bool six;

	if (getsockname(fd, (struct sockaddr *)&own, &size) < 0 || getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0)
		return false;
	six = own.sin6_family == AF_INET6;
	request->sdiag_family = (uint8_t)own.sin6_family;
	request->id.idiag_sport = own.sin6_port; /* in the same place for IPv4 */
	request->id.idiag_dport = peer.sin6_port;
	memcpy(request->id.idiag_src, six ? (void *)&own.sin6_addr : &((struct sockaddr_in *)&own)->sin_addr, six ? 16 : 4);
	memcpy(request->id.idiag_dst, six ? (void *)&peer.sin6_addr : &((struct sockaddr_in *)&peer)->sin_addr, six ? 16 : 4);
	request->id.idiag_cookie[0] = request->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	return true;
}

static bool has_md5(int fd)
{
	/* Keys come with the information on the connection. */
	struct inet_diag_req_v2 request = { .sdiag_protocol = IPPROTO_TCP, .idiag_states = UINT32_MAX,
					    .idiag_ext = 1 << (INET_DIAG_INFO - 1) };
	bool is_signed = false;

	if (fill_id(fd, &request)) /* a socket that is not listed has no connection, and none that is signed */
		(void)dump_sock_diag(&request, sizeof(request), false, take_message, &is_signed, "a TCP socket", NULL);
	return is_signed;
}

bool dump_tcp_is_signed(int fd)
{
	uint8_t info[AO_INFO_SIZE] = { 0 };
	socklen_t size = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_AO_INFO, info, &size) == 0 || has_md5(fd);
}
