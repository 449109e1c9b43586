/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checksum of the Internet protocols (RFC 1071), over parts of an even size; the last one's may be odd. */
#pragma once

#include <arpa/inet.h>
#include <stddef.h>
#include <stdint.h>

/* In 16-bit words of the network's order, without carry; an odd byte is the first of a word. */
static inline uint64_t net_checksum_add(uint64_t sum, const void *data, size_t size)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint64_t)(bytes[i] << 8 | bytes[i + 1]);
	return size % 2 ? sum + (uint64_t)(bytes[size - 1] << 8) : sum;
}

/* As it stands in a packet. */
static inline uint16_t net_checksum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}
