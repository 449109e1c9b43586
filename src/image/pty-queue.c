/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. What is written to the master goes, by a worker of the kernel, through the slave's line discipline, which makes
 * input of it: it edits lines, translates, echoes, sends signals. When its buffer is full (4095 bytes), the rest waits in front
 * of it as it was typed. What is written to the slave goes through output processing and then lies there for the master.
 *
 * Input is taken with settings that leave every byte as it is. Before, when the buffer is far from full, whole lines are read
 * with the program's own settings: a read that finds nothing waits for the worker, which so has done its work in the way that
 * the program wanted. What comes after the buffer's 4095 bytes is what was waiting in front of it.
 *
 * In lines (ICANON) a read ends at a newline, or at an EOF character, which is not in the data. The line that has not been
 * sent off yet is only given out when the mode is left.
 *
 * Input is put back by typing it, again with settings that leave it alone; in lines, bytes with a meaning are quoted (LNEXT),
 * lines end where they ended, and the last one stays open. A STOP character is typed behind it: when the slave does not take
 * output any more, the worker is through. Output is written to the slave without output processing.
 *
 * What cannot be read, and is lost: the column of the cursor (for tabs and erasing), a quote or an ECHOPRT erasure that has
 * just begun. An echo that waits because output is stopped goes out. Where the master has not yet read that queues were
 * flushed (TIOCPKT_FLUSH*), it also reads that output has started (TIOCPKT_START), and perhaps what the settings are
 * (TIOCPKT_DOSTOP).
 */
#include "pty-queue.h"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "util/clock.h"

#define BUFFER_FULL  (IMAGE_PTY_LINE_MAX - 1) /* bytes that the line discipline takes */
#define BUFFER_MOST  3000                     /* so many bytes of lines are far from that */
#define WAIT_NS      CLOCK_S
#define PAUSE_NS     20000
#define FULL_PAUSES  20
#define PIECE_MUCH   4096 /* more than that may need all the room that there is */
#define PIECE_SMALL  64

/* Characters with a meaning while lines are put back. */
#define PUT_EOF   0x04
#define PUT_START 0x11
#define PUT_STOP  0x13
#define PUT_QUOTE 0x16

static bool in_lines(const struct image_terminal_settings *settings)
{
	return settings->lflag & ICANON && !(settings->lflag & EXTPROC);
}

/* Settings that leave every byte alone, in the same mode: leaving that changes what is in the buffer. */
static struct image_terminal_settings neutral(const struct image_terminal_settings *settings)
{
	struct image_terminal_settings result = *settings;

	result.iflag = result.oflag = 0;
	result.lflag &= ICANON | EXTPROC;
	memset(result.cc, 0, sizeof(result.cc));
	result.cc[VMIN] = 1;
	return result;
}

static bool is_ready(int fd, short event)
{
	struct pollfd look = { .fd = fd, .events = event };

	return poll(&look, 1, 0) == 1 && look.revents & event;
}

static void pause_shortly(void)
{
	const struct timespec time = { .tv_nsec = PAUSE_NS };

	nanosleep(&time, NULL);
}

static int unlock(int slave, const struct image_terminal_settings *lock)
{
	static const struct image_terminal_settings none = { 0 };

	return memcmp(lock, &none, sizeof(none)) == 0 ? 0 : image_terminal_write_lock(slave, &none);
}

/* ---- taking */

static int take_waiting(int master, struct image_pty_queue *queue)
{
	while (is_ready(master, POLLIN)) {
		ssize_t n;

		if (queue->output_size == IMAGE_PTY_QUEUE_MAX)
			return -EFBIG;
		n = read(master, queue->output + queue->output_size, IMAGE_PTY_QUEUE_MAX - queue->output_size);
		if (n <= 0)
			return n < 0 && errno != EIO ? -errno : 0;
		queue->output_size += (uint32_t)n;
	}
	return 0;
}

/* An echo that found no room goes out before the next byte that is written, or none. */
static int take_output(int master, int slave, struct image_pty_queue *queue)
{
	int r = take_waiting(master, queue);

	if (r == 0 && write(slave, "", 0) < 0 && errno != EAGAIN)
		r = -errno;
	return r < 0 ? r : take_waiting(master, queue);
}

/* One read: its size, 0 for an EOF character (or the end of it all), -EAGAIN: nothing is there. */
static ssize_t take_piece(int slave, struct image_pty_queue *queue)
{
	ssize_t n;

	if (queue->input_size == IMAGE_PTY_QUEUE_MAX)
		return -EFBIG;
	n = read(slave, queue->input + queue->input_size, IMAGE_PTY_QUEUE_MAX - queue->input_size);
	if (n < 0)
		return -errno;
	queue->input_size += (uint32_t)n;
	return n;
}

/* `slots`: what the lines took in the buffer, where an EOF character has a place. */
static int take_lines(int slave, struct image_pty_queue *queue, uint32_t *slots)
{
	for (unsigned i = 0; i < IMAGE_PTY_QUEUE_MAX; i++) {
		uint32_t begin = queue->input_size, size;
		ssize_t n = take_piece(slave, queue);

		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		size = (uint32_t)n + (n == 0 || queue->input[queue->input_size - 1] != '\n');
		if (*slots + size <= BUFFER_FULL && queue->end_count < IMAGE_PTY_LINE_MAX)
			queue->ends[queue->end_count++] = queue->cooked = queue->input_size;
		else if (*slots < BUFFER_FULL)
			queue->cooked = begin + (BUFFER_FULL - *slots);
		*slots += size;
	}
	return -EFBIG;
}

/* The line that has not been sent off, or all input without lines. */
static int take_bytes(int slave, struct image_pty_queue *queue, uint32_t room)
{
	ssize_t n;

	do {
		n = take_piece(slave, queue);
		if (n > 0) {
			uint32_t part = (uint32_t)n < room ? (uint32_t)n : room;

			queue->cooked += part;
			room -= part;
		}
	} while (n > 0);
	return n == 0 || n == -EAGAIN ? 0 : (int)n;
}

static int take_input(int slave, struct image_pty_queue *queue, uint32_t slots)
{
	struct image_terminal_settings settings = neutral(&queue->settings);
	int waiting = 0, r;

	if (ioctl(slave, FIONREAD, &waiting) < 0)
		return -errno;
	if (!in_lines(&queue->settings))
		return take_bytes(slave, queue, (uint32_t)waiting);
	r = take_lines(slave, queue, &slots);
	settings.lflag &= ~(uint32_t)ICANON;
	if (r == 0)
		r = image_terminal_write(slave, &settings);
	return r < 0 ? r : take_bytes(slave, queue, slots < BUFFER_FULL ? BUFFER_FULL - slots : 0);
}

/* Lines as the program would read them. To find nothing, be it by reading or asking, waits for the worker. */
static int take_first_lines(int slave, struct image_pty_queue *queue, uint32_t *slots)
{
	int waiting = 0;

	(void)is_ready(slave, POLLIN);
	if (ioctl(slave, FIONREAD, &waiting) < 0)
		return -errno;
	return in_lines(&queue->settings) && waiting < BUFFER_MOST ? take_lines(slave, queue, slots) : 0;
}

/* Stops being in packet mode; what was to be told is noted. */
static int take_status(int master, struct image_pty_queue *queue)
{
	static const int off = 0;
	int packet = 0;

	if (ioctl(master, TIOCGPKT, &packet) < 0)
		return -errno;
	queue->packet = packet;
	if (packet && is_ready(master, POLLPRI) && read(master, &queue->packet_status, 1) < 0)
		return -errno;
	return packet && ioctl(master, TIOCPKT, &off) < 0 ? -errno : 0;
}

/* To leave IXON starts what the STOP character has stopped. */
static int take_flow(int slave, struct image_pty_queue *queue)
{
	struct image_terminal_settings settings = neutral(&queue->settings);
	bool stopped = !is_ready(slave, POLLOUT);
	int r = image_terminal_write(slave, &settings);

	if (r < 0 || !stopped)
		return r;
	queue->flow = IMAGE_PTY_STOPPED_BY_CHAR;
	if (is_ready(slave, POLLOUT))
		return 0;
	queue->flow = IMAGE_PTY_STOPPED_BY_CALL;
	return ioctl(slave, TCXONC, TCOON) < 0 ? -errno : 0;
}

int image_pty_take(int master, int slave, struct image_pty_queue *queue)
{
	uint32_t slots = 0;
	int r = image_terminal_read(slave, &queue->settings);

	if (r == 0)
		r = image_terminal_read_lock(slave, &queue->lock);
	if (r == 0)
		r = unlock(slave, &queue->lock);
	if (r == 0)
		r = take_status(master, queue);
	if (r == 0)
		r = take_first_lines(slave, queue, &slots);
	if (r == 0)
		r = take_output(master, slave, queue);
	if (r == 0)
		r = take_flow(slave, queue);
	if (r == 0)
		r = take_input(slave, queue, slots);
	/* Once more, for output that was stopped. */
	return r < 0 ? r : take_output(master, slave, queue);
}

/* ---- putting */

/* In small pieces most fits in: each write takes room of its own. */
static int put_bytes(int fd, const uint8_t *data, size_t size)
{
	size_t piece = size > PIECE_MUCH ? PIECE_SMALL : size;
	int64_t deadline = clock_deadline(WAIT_NS);

	while (size > 0) {
		ssize_t n = write(fd, data, size < piece ? size : piece);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		} else if (clock_now_ns() > deadline) {
			return -ENOSPC;
		} else {
			pause_shortly();
		}
	}
	return 0;
}

static bool is_special(uint8_t byte)
{
	return byte == '\n' || byte == PUT_EOF || byte == PUT_START || byte == PUT_STOP || byte == PUT_QUOTE;
}

static int put_line(int master, const uint8_t *data, size_t size, bool closed)
{
	bool newline = closed && size > 0 && data[size - 1] == '\n';
	size_t plain = newline ? size - 1 : size, used = 0;
	uint8_t text[256];
	int r = 0;

	for (size_t i = 0; r == 0 && i < plain; i++) {
		if (is_special(data[i]))
			text[used++] = PUT_QUOTE;
		text[used++] = data[i];
		if (used + 2 > sizeof(text)) {
			r = put_bytes(master, text, used);
			used = 0;
		}
	}
	if (closed)
		text[used++] = newline ? '\n' : PUT_EOF;
	return r < 0 ? r : put_bytes(master, text, used);
}

/* Until the slave takes output, or takes none. */
static int wait_output(int slave, bool ready)
{
	int64_t deadline = clock_deadline(WAIT_NS);

	while (is_ready(slave, POLLOUT) != ready) {
		if (clock_now_ns() > deadline)
			return -ETIMEDOUT;
		pause_shortly();
	}
	return 0;
}

/* Until so much can be read: all that has been sent off. */
static int wait_input(int slave, uint32_t wanted)
{
	int64_t deadline = clock_deadline(WAIT_NS);
	int there = 0;

	for (;;) {
		if (ioctl(slave, FIONREAD, &there) < 0)
			return -errno;
		if ((uint32_t)there >= wanted)
			return 0;
		if (clock_now_ns() > deadline)
			return -ETIMEDOUT;
		pause_shortly();
	}
}

/* A full buffer takes no STOP character; what is in it can be counted, but for the open line at its end. */
static int wait_worker(int master, int slave, uint32_t slots, uint32_t sent)
{
	static const uint8_t stop = PUT_STOP;
	int r;

	if (slots >= BUFFER_FULL) {
		r = wait_input(slave, sent);
		for (int i = 0; i < FULL_PAUSES; i++)
			pause_shortly();
		return r;
	}
	r = put_bytes(master, &stop, 1);
	return r < 0 ? r : wait_output(slave, false);
}

static int put_lines(int master, int slave, const struct image_pty_queue *queue)
{
	struct image_terminal_settings settings = neutral(&queue->settings);
	uint32_t begin = 0, slots = queue->cooked;
	int r;

	settings.iflag = IXON;
	settings.lflag |= IEXTEN;
	settings.cc[VEOF] = PUT_EOF;
	settings.cc[VSTART] = PUT_START;
	settings.cc[VSTOP] = PUT_STOP;
	settings.cc[VLNEXT] = PUT_QUOTE;
	r = image_terminal_write(slave, &settings);
	for (uint32_t i = 0; r == 0 && i < queue->end_count; i++) {
		r = put_line(master, queue->input + begin, queue->ends[i] - begin, true);
		slots += queue->ends[i] == begin || queue->input[queue->ends[i] - 1] != '\n';
		begin = queue->ends[i];
	}
	if (r == 0)
		r = put_line(master, queue->input + begin, queue->cooked - begin, false);
	return r < 0 ? r : wait_worker(master, slave, slots, begin);
}

/* Without lines, all that has come can be counted. */
static int put_plain(int master, int slave, const struct image_pty_queue *queue)
{
	int r = put_bytes(master, queue->input, queue->cooked);

	return r < 0 ? r : wait_input(slave, queue->cooked);
}

static int put_input(int master, int slave, const struct image_pty_queue *queue)
{
	struct image_terminal_settings settings = neutral(&queue->settings);
	int r = image_terminal_write(slave, &settings), back;

	if (r < 0 || (queue->cooked == 0 && queue->end_count == 0))
		return r;
	if (!in_lines(&queue->settings))
		return put_plain(master, slave, queue);
	r = put_lines(master, slave, queue);
	/* To leave IXON starts it, also when not all input could be put back. */
	back = image_terminal_write(slave, &settings);
	r = r < 0 ? r : back;
	return r < 0 ? r : wait_output(slave, true);
}

static int set_packet(int master, bool on)
{
	int value = on;

	return ioctl(master, TIOCPKT, &value) < 0 ? -errno : 0;
}

/* Flushes while there is nothing to be flushed. */
static int put_flushes(int master, int slave, unsigned status)
{
	int r;

	if (!(status & (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE)))
		return 0;
	r = set_packet(master, true);
	if (r == 0 && status & TIOCPKT_FLUSHREAD && ioctl(slave, TCFLSH, TCIFLUSH) < 0)
		r = -errno;
	if (r == 0 && status & TIOCPKT_FLUSHWRITE && ioctl(slave, TCFLSH, TCOFLUSH) < 0)
		r = -errno;
	return r;
}

static int put_flow(int master, int slave, const struct image_pty_queue *queue)
{
	uint8_t stop = queue->settings.cc[VSTOP];
	bool ready = is_ready(slave, POLLOUT);
	int r;

	if (queue->flow == IMAGE_PTY_RUNS)
		return 0;
	/* Typed, as the START character does not start what a call has stopped. */
	if (queue->flow == IMAGE_PTY_STOPPED_BY_CHAR && queue->settings.iflag & IXON && stop) {
		r = put_bytes(master, &stop, 1);
		return r == 0 && ready ? wait_output(slave, false) : r;
	}
	return ioctl(slave, TCXONC, TCOOFF) < 0 ? -errno : 0;
}

/* Does again what the master has not yet been told of. */
static int put_status(int slave, const struct image_pty_queue *queue)
{
	struct image_terminal_settings settings = queue->settings;
	int r = 0;

	if (queue->packet_status & TIOCPKT_START && queue->flow == IMAGE_PTY_RUNS &&
	    (ioctl(slave, TCXONC, TCOOFF) < 0 || ioctl(slave, TCXONC, TCOON) < 0))
		return -errno;
	if (queue->packet_status & (TIOCPKT_DOSTOP | TIOCPKT_NOSTOP | TIOCPKT_IOCTL)) {
		settings.iflag ^= IXON;
		if (queue->packet_status & (TIOCPKT_DOSTOP | TIOCPKT_NOSTOP))
			r = image_terminal_write(slave, &settings);
		if (r == 0)
			r = image_terminal_write(slave, &queue->settings);
	}
	return r;
}

/* Whatever fails, what can be put back is: the first failure is told. */
static void keep(int *first, int r)
{
	if (*first == 0 && r < 0)
		*first = r;
}

int image_pty_put(int master, int slave, const struct image_pty_queue *queue)
{
	bool told = queue->packet_status & TIOCPKT_STOP;
	int r = unlock(slave, &queue->lock);

	keep(&r, put_flushes(master, slave, queue->packet_status));
	keep(&r, put_input(master, slave, queue));
	keep(&r, put_bytes(slave, queue->output, queue->output_size));
	keep(&r, image_terminal_write(slave, &queue->settings));
	keep(&r, put_bytes(master, queue->input + queue->cooked, queue->input_size - queue->cooked));
	if (!told)
		keep(&r, put_flow(master, slave, queue));
	if (queue->packet && !(queue->packet_status & (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE)))
		keep(&r, set_packet(master, true));
	if (queue->packet)
		keep(&r, put_status(slave, queue));
	if (told)
		keep(&r, put_flow(master, slave, queue));
	keep(&r, image_terminal_write_lock(slave, &queue->lock));
	return r;
}
