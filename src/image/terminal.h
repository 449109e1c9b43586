/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Settings of terminals, for both sides: what the kernel has, as a message and back. The layout is the kernel's struct
 * termios2, which cannot stand beside <termios.h>. Nothing here blocks. TCGETS2 is of Linux 2.6.20, the lock of 2.0.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "tty.pb-c.h"

#define IMAGE_TERMINAL_CC 19 /* control characters that the kernel knows of */

struct image_terminal_settings {
	uint32_t iflag, oflag, cflag, lflag;
	uint8_t line; /* discipline */
	uint8_t cc[IMAGE_TERMINAL_CC];
	uint32_t ispeed, ospeed; /* bauds */
};

/* What the message points to, beside the message. */
struct image_terminal_message {
	TerminalSettings message;
	uint32_t cc[IMAGE_TERMINAL_CC];
};

/* The ids of the two ends of a pseudo-terminal in IMAGE_TTY_INFO, as CRIU numbers them. */
static inline uint32_t image_terminal_slave_id(uint32_t index)
{
	return index << 1;
}

static inline uint32_t image_terminal_master_id(uint32_t index)
{
	return index << 1 | 1;
}

/* 0 or a negative errno. On a master they are about its slave. */
int image_terminal_read(int fd, struct image_terminal_settings *ret);
int image_terminal_write(int fd, const struct image_terminal_settings *settings);
/* Bits that only root may change (TIOCGLCKTRMIOS). Speeds have none. */
int image_terminal_read_lock(int fd, struct image_terminal_settings *ret);
int image_terminal_write_lock(int fd, const struct image_terminal_settings *lock);

/* `ret` must not be moved afterwards. */
void image_terminal_pack(const struct image_terminal_settings *settings, struct image_terminal_message *ret);
/* Characters that the message lacks are off. */
void image_terminal_unpack(const TerminalSettings *message, struct image_terminal_settings *ret);
