/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Requests that a ring may have done: on the target, requests that do nothing are done as often, some ten million a second. */
#define IMAGE_IO_URING_LIMIT 8000000u
