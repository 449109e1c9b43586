/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <openssl/evp.h>

#include "wire.h"

int wire_hash(const void *data, size_t size, uint8_t ret[WIRE_HASH_SIZE])
{
	return EVP_Digest(data, size, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}
