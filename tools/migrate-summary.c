/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migrate-summary.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#define MIB (1024.0 * 1024.0)

void summary_print(const struct migrate_options *options, const struct migrate_summary *s)
{
	printf("PID %d moved to %s\n", options->pid, options->to);
	printf("  downtime     %.2f ms of %.0f ms in all, %u round%s before it", s->downtime_ms, s->total_ms, s->rounds,
	       s->rounds == 1 ? "" : "s");
	if (s->throttle_percent)
		printf(", slowed by up to %u%%", s->throttle_percent);
	printf("\n");
	printf("  tree         %u process%s, %u thread%s\n", s->processes, s->processes == 1 ? "" : "es", s->threads,
	       s->threads == 1 ? "" : "s");
	printf("  pages        %" PRIu64 " sent (%" PRIu64 " of them again), %" PRIu64 " zero, %" PRIu64
	       " that the target had\n",
	       s->pages_sent, s->pages_resent, s->pages_zero, s->pages_deduplicated);
	printf("  post-copy    %" PRIu64 " pages after the switch, %" PRIu64 " faults, p50 %" PRIu64 " us, p99 %" PRIu64
	       " us\n",
	       s->pages_postcopy, s->pages_faulted, s->fault_us_p50, s->fault_us_p99);
	printf("  bytes        %.1f MiB on the wire for %.1f MiB (%.2f), %.2f MiB of them while nobody ran\n",
	       (double)s->bytes_sent / MIB, (double)s->bytes_raw / MIB,
	       s->bytes_raw ? (double)s->bytes_sent / (double)s->bytes_raw : 1.0, (double)s->bytes_frozen / MIB);
	printf("  link         %.0f MiB/s; written meanwhile: %.1f MiB/s\n", s->link_bytes_per_s / MIB,
	       s->dirty_bytes_per_s / MIB);
}

void summary_print_json(const struct migrate_options *options, const struct migrate_summary *s, int outcome,
			const char *failure)
{
	static const char *const outcomes[] = { "moved", "not moved", "usage", "in doubt" };
	static const char *const modes[] = { "hybrid", "precopy", "postcopy" };
	json_t *object = json_object();

	json_object_set_new(object, "outcome", json_string(outcomes[outcome]));
	json_object_set_new(object, "error", failure ? json_string(failure) : json_null());
	json_object_set_new(object, "session", json_string(s->session));
	json_object_set_new(object, "pid", json_integer(options->pid));
	json_object_set_new(object, "to", json_string(options->to));
	json_object_set_new(object, "mode", json_string(modes[options->mode]));
	json_object_set_new(object, "downtime_ms", json_real(s->downtime_ms));
	json_object_set_new(object, "total_ms", json_real(s->total_ms));
	json_object_set_new(object, "rounds", json_integer(s->rounds));
	json_object_set_new(object, "throttle_percent_max", json_integer(s->throttle_percent));
	json_object_set_new(object, "processes", json_integer(s->processes));
	json_object_set_new(object, "threads", json_integer(s->threads));
	json_object_set_new(object, "bytes_sent", json_integer((json_int_t)s->bytes_sent));
	json_object_set_new(object, "bytes_frozen", json_integer((json_int_t)s->bytes_frozen));
	json_object_set_new(object, "bytes_raw", json_integer((json_int_t)s->bytes_raw));
	json_object_set_new(object, "pages_sent", json_integer((json_int_t)s->pages_sent));
	json_object_set_new(object, "pages_resent", json_integer((json_int_t)s->pages_resent));
	json_object_set_new(object, "pages_zero", json_integer((json_int_t)s->pages_zero));
	json_object_set_new(object, "pages_deduplicated", json_integer((json_int_t)s->pages_deduplicated));
	json_object_set_new(object, "pages_postcopy", json_integer((json_int_t)s->pages_postcopy));
	json_object_set_new(object, "pages_faulted", json_integer((json_int_t)s->pages_faulted));
	json_object_set_new(object, "fault_us_p50", json_integer((json_int_t)s->fault_us_p50));
	json_object_set_new(object, "fault_us_p99", json_integer((json_int_t)s->fault_us_p99));
	json_object_set_new(object, "link_bytes_per_s", json_real(s->link_bytes_per_s));
	json_object_set_new(object, "dirty_bytes_per_s", json_real(s->dirty_bytes_per_s));
	json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	printf("\n");
	json_decref(object);
}
