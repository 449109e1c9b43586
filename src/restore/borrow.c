/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

int restore_borrow_begin(struct tracee_batch *batch)
{
	return tracee_batch_call(batch, SYS_pidfd_open, getpid(), 0);
}

int restore_borrow(struct tracee_batch *batch, int pidfd_index, int fd)
{
	return tracee_batch_call(batch, SYS_pidfd_getfd, TRACEE_RESULT(pidfd_index), fd, 0);
}

void restore_borrow_end(struct tracee_batch *batch, int pidfd_index)
{
	tracee_batch_call(batch, SYS_close, TRACEE_RESULT(pidfd_index));
}

int restore_message(const struct image_set *images, enum image_type type, uint32_t id,
		    const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret, struct error *error)
{
	const struct image_record *record = image_set_find(images, type, id);

	if (!record)
		return error_set(error, -EPROTO, "the %s record of %u is missing", image_type_name(type), id);
	return image_record_unpack(record, descriptor, ret, error);
}
