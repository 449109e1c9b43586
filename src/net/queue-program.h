/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The BPF program of queue.c: at the entrance of the loopback device it makes one packet of ours the end of a handshake
 * (bpf_sk_assign_tcp_reqsk(), Linux 6.9, tcx 6.6, CONFIG_DEBUG_INFO_BTF, CONFIG_BPF_STREAM_PARSER, CONFIG_SYN_COOKIES). Needs
 * CAP_BPF and CAP_NET_ADMIN. All that is made goes with the descriptors: nothing is left behind by who dies.
 */
#pragma once

#include <stdint.h>

#include "util/error.h"

/* What was negotiated; the kernel's struct bpf_tcp_req_attrs. */
struct net_queue_attributes {
	uint32_t peer_clock; /* last timestamp of the peer; 0: not known */
	uint32_t clock;	     /* our timestamp as of now */
	uint16_t mss;	     /* largest segment of ours */
	uint8_t rcv_wscale, snd_wscale;
	uint8_t ecn_ok, wscale_ok, sack_ok, tstamp_ok, usec_ts_ok;
	uint8_t reserved[3];
};

struct net_queue_program {
	int order_map;	/* owned, as the others; -1: none */
	int listener_map;
	int program;
	int link; /* to the loopback device of a network namespace; -1: not there yet */
	uint32_t cookie; /* SO_PRIORITY of the packets that are meant */
};

#define NET_QUEUE_PROGRAM_INIT { .order_map = -1, .listener_map = -1, .program = -1, .link = -1 }

/* Makes the program: some 20 ms, most of it for the kernel's types. `mark`: of the packets meant. */
int net_queue_program_load(struct net_queue_program *program, uint32_t mark, struct error *error);
/* The same program, to be put elsewhere: the two are not used at the same time. */
int net_queue_program_clone(const struct net_queue_program *program, struct net_queue_program *ret, struct error *error);
/* Puts it at the loopback device of the caller's network namespace, unless it is there. */
int net_queue_program_attach(struct net_queue_program *program, struct error *error);
void net_queue_program_deinit(struct net_queue_program *program);

/* The next packet that carries mark and cookie ends a handshake of `listener`. */
int net_queue_program_arm(struct net_queue_program *program, int listener, const struct net_queue_attributes *attributes);
/* What has become of it: -EINPROGRESS while it has not come; 0, or why the kernel would not. */
int net_queue_program_result(const struct net_queue_program *program);
/* The listener is as it was before. */
void net_queue_program_disarm(struct net_queue_program *program);
