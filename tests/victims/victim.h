/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What all victims share. A victim is a small program that holds one kind of kernel state and can say at any time whether that
 * state is still what it should be:
 *
 *	NAME DIR [args]		sets its state up, then writes its PID into DIR/ready
 *	DIR/check		the test puts a new number here (by rename) ...
 *	DIR/result		... and the victim answers "N ok [notes]" or "N FAIL reason" (likewise)
 *	DIR/skip		instead of DIR/ready, with exit status 77: this machine lacks the feature
 *
 * Between checks a victim holds no descriptor of the protocol: it only calls stat(2) every two milliseconds. So a picture of
 * its descriptors taken at any time between checks is always the same.
 *
 * All functions may block for as long as the file system does. None is async-signal-safe.
 */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define VICTIM_PAGE ((size_t)4096)
#define VICTIM_PATH_MAX 200
#define VICTIM_TEXT_MAX 400

struct victim {
	char dir[VICTIM_PATH_MAX];    /* where the protocol's files are, no trailing slash */
	int argc;		      /* arguments after DIR */
	char **argv;		      /* the same, borrowed from main() */
	long number;		      /* number of the check being answered, 0 before the first */
	ino_t seen_inode;	      /* of DIR/check when it was last read */
	struct timespec seen_mtime;   /* likewise */
	char reason[VICTIM_TEXT_MAX]; /* why the running check failed; empty while it has not */
	char note[VICTIM_TEXT_MAX];   /* appended to "ok" */
};

/* A forked child that answers one-byte requests over a pair of pipes; the parent's side of it. */
struct victim_peer {
	pid_t pid; /* the child, to be reaped by the caller */
	int to;	   /* requests go in here; closing it makes the child exit with status 0 */
	int from;  /* answers come out here */
};

/* Returns true when the state is right; otherwise has called victim_fail(). */
typedef bool victim_verify_fn(struct victim *v, void *context);
/*
 * Runs in the child for every request other than 0; writes up to size bytes of text, "" meaning all
 * is well.
 */
typedef void victim_peer_fn(void *context, unsigned char request, char *text, size_t size);

void victim_start(struct victim *v, int argc, char **argv);
/* Argument i as a number, or the given default when there is no such argument. */
long victim_arg(const struct victim *v, int i, long otherwise);
bool victim_arg_is(const struct victim *v, const char *word);
/* DIR/name in a static ring of four buffers. */
const char *victim_path(const struct victim *v, const char *name);

/* Says that the state is set up and answers checks for ever. */
_Noreturn void victim_run(struct victim *v, victim_verify_fn *verify, void *context);
/* The two halves of victim_run(), for victims that do something of their own in between. */
void victim_ready(struct victim *v);
bool victim_asked(struct victim *v);
void victim_answer(struct victim *v, bool good);

/* Always false, so that a verifier can end with it. Only the first reason of a check is kept. */
bool victim_fail(struct victim *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
void victim_note(struct victim *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void victim_skip(struct victim *v, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
_Noreturn void victim_die(const char *file, int line, const char *what);

int64_t victim_now_ns(int clock);
void victim_sleep_us(int64_t us);

/*
 * Bytes that depend on the seed and the position, so that neither shifted nor swapped content
 * passes.
 */
void victim_fill(void *to, size_t size, uint64_t seed);
/* Offset of the first wrong byte, or -1. */
ssize_t victim_differs(const void *at, size_t size, uint64_t seed);
uint64_t victim_random(uint64_t *state);

/*
 * Reads a whole file of /proc, at most size - 1 bytes, and ends it with a NUL; returns the length
 * or -1.
 */
ssize_t victim_slurp(const char *path, char *to, size_t size);
/*
 * The mapping at an address: permissions as in "rw-p" and VmFlags with blanks around; false if
 * there is none.
 */
bool victim_mapping(const void *at, char ret_perms[5], char *ret_flags, size_t flags_size);
/* The value of a line "Name:\tvalue" of a /proc status file, or false. */
bool victim_status_line(const char *path, const char *name, char *ret_value, size_t size);

void victim_peer_fork(struct victim_peer *peer, victim_peer_fn *serve, void *context);
/* Sends a request (not 0) and waits up to five seconds for the answer; false after victim_fail().
 */
bool victim_peer_ask(struct victim *v, struct victim_peer *peer, unsigned char request);

/* Setting up: anything that fails is a fault of the test, not of the move. */
#define MUST(condition)                                             \
	do {                                                        \
		if (!(condition))                                   \
			victim_die(__FILE__, __LINE__, #condition); \
	} while (0)

/* Verifying: returns from the calling bool function when the condition does not hold. */
#define CHECK(v, condition, ...)                              \
	do {                                                  \
		if (!(condition))                             \
			return victim_fail((v), __VA_ARGS__); \
	} while (0)

/*
 * Waits until a condition holds, polling each millisecond; its value is whether it came to hold in
 * time.
 */
#define WAIT_FOR(condition, ms)                                                                 \
	({                                                                                      \
		int64_t wait_end = victim_now_ns(CLOCK_MONOTONIC) + (int64_t)(ms)*1000 * 1000;  \
		bool wait_good;                                                                 \
		while (!(wait_good = (condition)) && victim_now_ns(CLOCK_MONOTONIC) < wait_end) \
			victim_sleep_us(1000);                                                  \
		wait_good;                                                                      \
	})
