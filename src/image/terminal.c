/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "terminal.h"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

_Static_assert(sizeof(struct image_terminal_settings) == sizeof(struct termios2), "the kernel's layout");
_Static_assert(offsetof(struct image_terminal_settings, ispeed) == offsetof(struct termios2, c_ispeed), "the kernel's layout");
_Static_assert(sizeof(struct termios) == offsetof(struct termios2, c_ispeed), "a lock is settings without speeds");

int image_terminal_read(int fd, struct image_terminal_settings *ret)
{
	struct image_terminal_settings settings;

	if (ioctl(fd, TCGETS2, &settings) < 0)
		return -errno;
	*ret = settings;
	return 0;
}

int image_terminal_write(int fd, const struct image_terminal_settings *settings)
{
	return ioctl(fd, TCSETS2, settings) < 0 ? -errno : 0;
}

int image_terminal_read_lock(int fd, struct image_terminal_settings *ret)
{
	struct image_terminal_settings lock = { 0 };

	if (ioctl(fd, TIOCGLCKTRMIOS, &lock) < 0)
		return -errno;
	*ret = lock;
	return 0;
}

int image_terminal_write_lock(int fd, const struct image_terminal_settings *lock)
{
	return ioctl(fd, TIOCSLCKTRMIOS, lock) < 0 ? -errno : 0;
}

void image_terminal_pack(const struct image_terminal_settings *settings, struct image_terminal_message *ret)
{
	terminal_settings__init(&ret->message);
	ret->message.c_iflag = settings->iflag;
	ret->message.c_oflag = settings->oflag;
	ret->message.c_cflag = settings->cflag;
	ret->message.c_lflag = settings->lflag;
	ret->message.c_line = settings->line;
	ret->message.c_ispeed = settings->ispeed;
	ret->message.c_ospeed = settings->ospeed;
	for (size_t i = 0; i < IMAGE_TERMINAL_CC; i++)
		ret->cc[i] = settings->cc[i];
	ret->message.c_cc = ret->cc;
	ret->message.n_c_cc = IMAGE_TERMINAL_CC;
}

void image_terminal_unpack(const TerminalSettings *message, struct image_terminal_settings *ret)
{
	*ret = (struct image_terminal_settings){
		.iflag = message->c_iflag,
		.oflag = message->c_oflag,
		.cflag = message->c_cflag,
		.lflag = message->c_lflag,
		.line = (uint8_t)message->c_line,
		.ispeed = message->c_ispeed,
		.ospeed = message->c_ospeed,
	};
	for (size_t i = 0; i < message->n_c_cc && i < IMAGE_TERMINAL_CC; i++)
		ret->cc[i] = (uint8_t)message->c_cc[i];
}
