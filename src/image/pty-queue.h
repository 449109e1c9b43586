/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies in a pseudo-terminal and was not read yet: taken out on the source and put back there, put in on the target.
 *
 * The kernel has no way to look without taking. So image_pty_take() is always followed by image_pty_put(), also when it has
 * failed: then what was taken so far is put back. Both only make system calls, so that a forked child of a program with
 * threads can run them. They wait for the kernel's workers, at most a second each.
 *
 * Nobody else may use the terminal meanwhile. Relies on tty_ioctl(4), termios(3), and on what the line discipline of Linux
 * (5.12 and later) does.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "terminal.h"

#define IMAGE_PTY_QUEUE_MAX 32768 /* bytes in one direction: the kernel holds some 12 KiB */
#define IMAGE_PTY_LINE_MAX  4096  /* the line discipline's own buffer */

/* How the output of a slave was stopped. */
enum image_pty_flow {
	IMAGE_PTY_RUNS,
	IMAGE_PTY_STOPPED_BY_CALL, /* tcflow(TCOOFF) */
	IMAGE_PTY_STOPPED_BY_CHAR, /* STOP was typed */
};

struct image_pty_queue {
	struct image_terminal_settings settings, lock; /* of the slave, when nobody interferes */
	bool packet;           /* packet mode */
	uint8_t packet_status; /* TIOCPKT_* that wait to be read; 0: none */
	uint8_t flow;          /* enum image_pty_flow */
	uint32_t cooked;       /* bytes of the input that are past the line discipline; the rest is as it was typed */
	uint32_t end_count;
	uint32_t ends[IMAGE_PTY_LINE_MAX]; /* input in lines: offsets at which a read ends; ascending, up to `cooked` */
	uint32_t input_size, output_size;
	uint8_t input[IMAGE_PTY_QUEUE_MAX];
	uint8_t output[IMAGE_PTY_QUEUE_MAX]; /* that the master has not read */
};

/*
 * `slave` is an open file of our own, O_RDWR and O_NONBLOCK; `queue` is zeroed. 0 or a negative errno: -EFBIG when there is
 * more than `queue` takes.
 */
int image_pty_take(int master, int slave, struct image_pty_queue *queue);
/*
 * Into empty queues. Afterwards the terminal has the settings, mode and flow of `queue`, also when not all bytes found room:
 * that is a negative errno. Else 0.
 */
int image_pty_put(int master, int slave, const struct image_pty_queue *queue);
