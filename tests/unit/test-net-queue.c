/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* deps: util */
/* Connections put into the queue of a listening socket, as whoever accepts them and whoever is their peer sees them. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "net/queue.h"

static void probe(void **state)
{
	struct error error = ERROR_INIT;
	int r;
	struct timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	r = net_queue_probe(&error);
	clock_gettime(CLOCK_MONOTONIC, &b);
	print_message("%d %s %ld us\n", r, error.message, (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000);
	assert_int_equal(r, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(probe) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
