/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * io-uring-objects.c: what is registered with rings, made again in three steps.
 */
#pragma once

#include "restore/file-kind.h"

/* Are the numbers in the message such as a ring can have? */
int restore_io_uring_check(const IoUring *message, struct error *error);

/* When all files are open: files and the eventfd. A kind's finish(). */
int restore_io_uring_files(struct restore_tree *tree, struct restore_file *file, struct error *error);

/* When all descriptors are installed, and pages that rings want are there: buffers. */
int restore_io_uring_buffers(struct restore_tree *tree, struct error *error);

/* When all processes have their threads: numbers. */
int restore_io_uring_numbers(struct restore_tree *tree, struct error *error);
