/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The frames that migrate and pageserver exchange: their numbers, their limits, and typed sending and receiving of their
 * messages (wire.proto). The order in which they come is in docs/protocol.md. Blocking, deadlines and errors are those of
 * frame.h; a FAILURE frame received in place of what was expected becomes an error with the peer's code and sentence.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "frame.h"
#include "stream.h"
#include "util/buffer.h"
#include "util/error.h"

#define WIRE_VERSION 1u
#define WIRE_SESSION_SIZE 16
#define WIRE_TOKEN_SIZE 32
#define WIRE_PAGE 4096u
#define WIRE_RUN_PAGES_MAX 64u /* pages in one PAGES frame */
#define WIRE_HASH_SIZE 32      /* SHA-256 */
#define WIRE_BULK_MAX 16u      /* bulk streams of a session */

enum wire_role {
	WIRE_CONTROL = 1, /* opens a session */
	WIRE_URGENT = 2,  /* page requests and their answers */
	WIRE_BULK = 3,    /* pages */
	WIRE_ASK = 4,     /* asks what became of a session; may then resume it */
};

enum wire_type {
	WIRE_HELLO = 1,
	WIRE_WELCOME = 2,
	WIRE_FAILURE = 3,
	WIRE_IMAGE = 4,           /* struct wire_image_header, then the record's bytes */
	WIRE_PREFLIGHT = 5,
	WIRE_PREFLIGHT_REPLY = 6,
	WIRE_LAYOUT = 7,
	WIRE_LAID_OUT = 8,        /* WireRound */
	WIRE_ROUND_END = 9,       /* WireRound */
	WIRE_ROUND_DONE = 10,
	WIRE_DROP = 11,           /* WireRanges */
	WIRE_PREPARE = 12,
	WIRE_PREPARED = 13,       /* empty */
	WIRE_COMMIT = 14,         /* empty */
	WIRE_RUNNING = 15,        /* empty */
	WIRE_ABORT = 16,          /* empty: the source gives up before the commit */
	WIRE_ASK_STATE = 17,      /* empty */
	WIRE_ANSWER = 18,
	WIRE_COMPLETE = 19,
	WIRE_ENDED = 20,          /* empty: the source's copy is gone */
	WIRE_FINISHED = 21,       /* empty: the target needs the source no more */
	WIRE_PACKETS = 22,
	WIRE_PAGES = 32,          /* struct wire_pages_header, then data by its kind */
	WIRE_MARK = 33,           /* WireRound: all pages of the round that this stream carries have been sent */
	WIRE_PAGE_REQUEST = 34,   /* struct wire_page_request */
};

enum wire_answer {
	WIRE_STATE_UNKNOWN = 1,  /* no record of such a session */
	WIRE_STATE_ABORTED = 2,  /* it will never run here */
	WIRE_STATE_PREPARED = 3, /* ready, not committed: only while its control stream lives */
	WIRE_STATE_RUNNING = 4,  /* it runs here */
};

enum wire_pages_kind {
	WIRE_PAGES_DATA = 1, /* `pages` * 4096 bytes follow */
	WIRE_PAGES_ZERO = 2, /* nothing follows: they read as zeros */
	WIRE_PAGES_HASH = 3, /* one page; struct wire_page_copy follows */
};

/* All integers little-endian, as the processor has them. */
struct wire_image_header {
	uint32_t type; /* enum image_type */
	uint32_t id;
};

struct wire_pages_header {
	uint32_t pid;     /* process; 0: a shared memory object */
	uint32_t shared;  /* id of the shared memory object, if pid is 0 */
	uint64_t address; /* first page; byte offset in a shared memory object */
	uint32_t pages;   /* 1 .. WIRE_RUN_PAGES_MAX */
	uint32_t kind;    /* enum wire_pages_kind */
};

/* The page has the content that the target holds at this place, if the hash says so. */
struct wire_page_copy {
	uint64_t address;
	uint32_t pid;
	uint32_t reserved; /* 0 */
	uint8_t hash[WIRE_HASH_SIZE];
};

struct wire_page_request {
	uint64_t address;
	uint32_t pid;
	uint32_t pages; /* 1 .. WIRE_RUN_PAGES_MAX: the first is waited for, the rest may come later or not at all */
};

/* What each kind of stream accepts, by direction. */
extern const struct frame_table wire_table_client;  /* control: from the target */
extern const struct frame_table wire_table_server;  /* control: from the source */
extern const struct frame_table wire_table_hello;   /* before anybody is known: HELLO only */
extern const struct frame_table wire_table_pages;   /* bulk and urgent: from the source */
extern const struct frame_table wire_table_request; /* urgent: from the target */

/* Sends a message, or an empty frame for NULL, and flushes. */
int wire_send(struct stream *stream, enum wire_type type, const ProtobufCMessage *message, int64_t deadline,
	      struct error *error);

/* Sends an image record; does not flush. */
int wire_send_image(struct stream *stream, uint32_t type, uint32_t id, const void *data, size_t size, int64_t deadline,
		    struct error *error);

/* Tells the peer why we give up. Tries for a second, keeps quiet about its own failure. */
void wire_send_failure(struct stream *stream, int code, const char *message);

/*
 * Waits for one frame of type `type`; anything else is -EPROTO, a FAILURE the peer's error. `descriptor` and `ret` may be
 * NULL for frames without a message. The caller frees the message.
 */
int wire_expect(struct stream *stream, const struct frame_table *table, enum wire_type type,
		const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret, int64_t deadline,
		struct error *error);

/* wire_unpack(): a payload as a message; -EPROTO if it is none. */
int wire_unpack(const struct buffer *payload, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret,
		struct error *error);

/* Sends a run of pages (not flushed). `data` as the kind says: pages, nothing, or a struct wire_page_copy. */
int wire_send_pages(struct stream *stream, const struct wire_pages_header *header, const void *data, int64_t deadline,
		    struct error *error);

/*
 * Checks a PAGES payload: number of pages, alignment, kind, size. On success `ret_data` points to what follows the
 * header inside the payload.
 */
int wire_parse_pages(const struct buffer *payload, struct wire_pages_header *ret, const uint8_t **ret_data,
		     struct error *error);

/* The name of a frame type, for messages. */
const char *wire_type_name(unsigned type);

/* A session's id as 32 hexadecimal digits and back. */
#define WIRE_SESSION_TEXT 33
void wire_session_text(const uint8_t session[WIRE_SESSION_SIZE], char ret[WIRE_SESSION_TEXT]);
int wire_session_parse(const char *text, uint8_t ret[WIRE_SESSION_SIZE], struct error *error);

/* SHA-256. -ENOMEM. */
int wire_hash(const void *data, size_t size, uint8_t ret[WIRE_HASH_SIZE]);
/* Bytes from the kernel's random generator. */
int wire_random(void *data, size_t size, struct error *error);
