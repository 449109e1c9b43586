/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. A batch is one datagram: a begin, messages, an end. The kernel works it off within sendmsg(2) and answers each
 * message that failed, and those with NLM_F_ACK: here the last one, so that there is always an answer to be read. After a
 * failure nothing of the batch holds.
 */
#include "net/netlink.h"

#include <errno.h>
#include <netinet/in.h> /* before linux/netfilter.h, which has it otherwise from the kernel */

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/cleanup.h"

#define ANSWER_MAX (64u << 10)
#define SEND_SPARE (64u << 10) /* what the kernel charges besides the bytes */

int netlink_open(int *ret_fd, struct error *error)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	const int on = 1;

	if (fd < 0)
		return error_set_errno(error, -errno, "cannot talk to the packet filter of the kernel (nf_tables)");
	/* An answer does not repeat what it answers. */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	*ret_fd = fd;
	return 0;
}

static void *extend(struct netlink_batch *batch, size_t size)
{
	uint8_t *place = batch->failed ? NULL : buffer_extend(&batch->bytes, size);

	if (!place)
		batch->failed = -ENOMEM;
	else
		memset(place, 0, size);
	return place;
}

/* The last message is as long as what has been put. */
static void close_message(struct netlink_batch *batch)
{
	struct nlmsghdr *header;

	if (batch->failed || !batch->bytes.size)
		return;
	header = (struct nlmsghdr *)(void *)(batch->bytes.data + batch->last);
	header->nlmsg_len = (uint32_t)(batch->bytes.size - batch->last);
}

static void put_header(struct netlink_batch *batch, unsigned type, unsigned flags, uint8_t family, uint16_t id)
{
	struct nfgenmsg *general;
	struct nlmsghdr *header;
	size_t start = batch->bytes.size;

	close_message(batch);
	header = extend(batch, NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(*general)));
	if (!header)
		return;
	batch->last = start;
	header->nlmsg_type = (uint16_t)type;
	header->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	general = NLMSG_DATA(header);
	general->nfgen_family = family;
	general->version = NFNETLINK_V0;
	general->res_id = htons(id);
}

void netlink_batch_message(struct netlink_batch *batch, unsigned type, unsigned flags)
{
	if (!batch->bytes.size)
		put_header(batch, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	put_header(batch, NFNL_SUBSYS_NFTABLES << 8 | type, flags, NFPROTO_INET, 0);
}

void netlink_batch_put(struct netlink_batch *batch, unsigned attribute, const void *data, size_t size)
{
	struct nlattr *header = extend(batch, NLA_HDRLEN + NLA_ALIGN(size));

	if (!header)
		return;
	header->nla_len = (uint16_t)(NLA_HDRLEN + size);
	header->nla_type = (uint16_t)attribute;
	memcpy((uint8_t *)header + NLA_HDRLEN, data, size);
}

size_t netlink_batch_nest(struct netlink_batch *batch, unsigned attribute)
{
	size_t start = batch->bytes.size;
	struct nlattr *header = extend(batch, NLA_HDRLEN);

	if (header)
		header->nla_type = (uint16_t)(attribute | NLA_F_NESTED);
	return start;
}

void netlink_batch_end(struct netlink_batch *batch, size_t nest)
{
	if (!batch->failed)
		((struct nlattr *)(void *)(batch->bytes.data + nest))->nla_len = (uint16_t)(batch->bytes.size - nest);
}

/* The first error that the answers tell; all that has come is read. */
static int read_answers(int fd)
{
	_cleanup_free_ uint8_t *bytes = malloc(ANSWER_MAX);
	bool answered = false;
	int result = 0;

	if (!bytes)
		return -ENOMEM;
	for (;;) {
		ssize_t size = recv(fd, bytes, ANSWER_MAX, MSG_DONTWAIT);
		struct nlmsghdr *header = (struct nlmsghdr *)(void *)bytes;

		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0 && errno == EAGAIN)
			return result || answered ? result : -EPROTO;
		if (size <= 0)
			return result ? result : size < 0 ? -errno : -EPROTO;
		for (unsigned left = (unsigned)size; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			if (header->nlmsg_type != NLMSG_ERROR || header->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
				continue;
			answered = true;
			if (result == 0)
				result = ((struct nlmsgerr *)NLMSG_DATA(header))->error;
		}
	}
}

int netlink_batch_send(struct netlink_batch *batch, int fd)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int size;
	ssize_t n;

	if (batch->failed)
		return batch->failed;
	if (!batch->bytes.size)
		return 0;
	((struct nlmsghdr *)(void *)(batch->bytes.data + batch->last))->nlmsg_flags |= NLM_F_ACK;
	put_header(batch, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	close_message(batch);
	if (batch->failed)
		return batch->failed;
	size = (int)batch->bytes.size + (int)SEND_SPARE;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)); /* too small: sendto() says so */
	do
		n = sendto(fd, batch->bytes.data, batch->bytes.size, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : read_answers(fd);
}

void netlink_batch_deinit(struct netlink_batch *batch)
{
	buffer_deinit(&batch->bytes);
}

static int read_table(const struct nlmsghdr *header, int (*name)(void *context, const char *table), void *context)
{
	const struct nlattr *attribute;
	size_t left;

	if (header->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)))
		return -EPROTO;
	left = header->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
	attribute = (const void *)((const uint8_t *)header + NLMSG_LENGTH(sizeof(struct nfgenmsg)));
	while (left >= NLA_HDRLEN && attribute->nla_len >= NLA_HDRLEN && attribute->nla_len <= left) {
		const char *text = (const char *)attribute + NLA_HDRLEN;
		size_t step = NLA_ALIGN(attribute->nla_len), size = attribute->nla_len - (size_t)NLA_HDRLEN;

		if ((attribute->nla_type & NLA_TYPE_MASK) == NFTA_TABLE_NAME && memchr(text, '\0', size))
			return name(context, text);
		if (step >= left)
			break;
		left -= step;
		attribute = (const void *)((const uint8_t *)attribute + step);
	}
	return 0;
}

int netlink_list_tables(int fd, int (*name)(void *context, const char *table), void *context)
{
	struct {
		struct nlmsghdr header;
		struct nfgenmsg general;
	} request = {
		.header = { .nlmsg_len = sizeof(request),
			    .nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.general = { .nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0 },
	};
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	_cleanup_free_ uint8_t *bytes = malloc(ANSWER_MAX);
	int r = 0;

	if (!bytes)
		return -ENOMEM;
	if (sendto(fd, &request, sizeof(request), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	for (;;) {
		ssize_t size = recv(fd, bytes, ANSWER_MAX, 0);
		struct nlmsghdr *header = (struct nlmsghdr *)(void *)bytes;

		if (size < 0 && errno == EINTR)
			continue;
		if (size <= 0)
			return size < 0 ? -errno : -EPROTO;
		for (unsigned left = (unsigned)size; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return r;
			if (header->nlmsg_type == NLMSG_ERROR)
				return header->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nlmsgerr)) ?
					       ((struct nlmsgerr *)NLMSG_DATA(header))->error :
					       -EPROTO;
			if (r == 0)
				r = read_table(header, name, context);
		}
	}
}
