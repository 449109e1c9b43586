/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "net/waiting.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#ifndef TCPI_OPT_USEC_TS
#define TCPI_OPT_USEC_TS 64 /* Linux 6.7 */
#endif

int net_waiting_read(const TcpStream *stream, uint32_t state, sa_family_t family, const uint8_t *data, struct net_waiting *ret,
		     struct error *error)
{
	uint32_t mss_min = family == AF_INET ? NET_QUEUE_MSS_MIN4 : NET_QUEUE_MSS_MIN6;
	bool finished = state == TCP_CLOSE_WAIT;

	if (stream->outq_len || (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_CLOSE))
		return error_set(error, -EOPNOTSUPP, "something was sent already on a connection that nobody has accepted");
	if (stream->mss_clamp < mss_min || stream->mss_clamp > UINT16_MAX)
		return error_set(error, -EOPNOTSUPP, "its segments hold %u bytes, at least %u are needed", stream->mss_clamp,
				 mss_min);
	ret->sent = stream->outq_seq;
	ret->received = stream->inq_seq - stream->inq_len - finished;
	ret->window = stream->snd_wnd;
	ret->clock = stream->timestamp;
	ret->mss = (uint16_t)stream->mss_clamp;
	ret->scales = stream->opt_mask & TCPI_OPT_WSCALE;
	ret->sacks = stream->opt_mask & TCPI_OPT_SACK;
	ret->timestamps = stream->opt_mask & TCPI_OPT_TIMESTAMPS;
	ret->ecn = stream->opt_mask & TCPI_OPT_ECN;
	ret->microseconds = stream->opt_mask & TCPI_OPT_USEC_TS;
	ret->send_scale = ret->scales ? (uint8_t)stream->snd_wscale : 0;
	ret->receive_scale = ret->scales ? (uint8_t)stream->rcv_wscale : 0;
	ret->has_urgent = stream->has_urgent;
	ret->urgent = stream->urgent;
	ret->finished = finished;
	ret->reset = state == TCP_CLOSE;
	ret->data = data;
	ret->size = stream->inq_len;
	return 0;
}
