/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kinds of open files, target side: the mirror of dump/file-kind.h. A kind makes the open file in
 * this process; files.c installs it in the shells.
 */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "fdinfo.pb-c.h"
#include "restore/memory-file.h"
#include "restore/restore.h"
#include "util/array.h"

struct restore_file_kind;

/* An open file description, or a file that is only mapped. */
struct restore_file {
	uint32_t id;
	OpenFile *message; /* owned */
	const struct restore_file_kind *kind;
	int fd;	      /* ours, owned; -1: not opened (yet) */
	int other_fd; /* UNIX sockets whose peer has closed: the peer, until its data is sent */
	bool paired; /* UNIX datagram sockets: made together with its peer */
	uint32_t ghost_id; /* deleted file: the object of its content; 0: none */
};

struct restore_file_kind {
	const char *name; /* for messages: "pipe" */
	FileType type;
	/* Sets file->fd. It may be set already when another file's open() made both. */
	int (*open)(struct restore_tree *tree, struct restore_file *file, struct error *error);
	/* After all files were opened; may be NULL. */
	int (*finish)(struct restore_tree *tree, struct restore_file *file, struct error *error);
};

extern const struct restore_file_kind restore_kind_regular;
extern const struct restore_file_kind restore_kind_memfd;
extern const struct restore_file_kind restore_kind_mqueue; /* for a regular file that has a queue */
extern const struct restore_file_kind restore_kind_terminal;
extern const struct restore_file_kind restore_kind_pipe;
extern const struct restore_file_kind restore_kind_fifo;
extern const struct restore_file_kind restore_kind_unix;
extern const struct restore_file_kind restore_kind_inet;
extern const struct restore_file_kind restore_kind_netlink;
extern const struct restore_file_kind restore_kind_packet;
extern const struct restore_file_kind restore_kind_tun;
extern const struct restore_file_kind restore_kind_eventfd;
extern const struct restore_file_kind restore_kind_epoll;
extern const struct restore_file_kind restore_kind_timerfd;
extern const struct restore_file_kind restore_kind_signalfd;
extern const struct restore_file_kind restore_kind_inotify;
extern const struct restore_file_kind restore_kind_fanotify;
extern const struct restore_file_kind restore_kind_io_uring;
extern const struct restore_file_kind restore_kind_pidfd;
extern const struct restore_file_kind restore_kind_namespace;

/* pipe.c: a pipe or FIFO while its ends are opened. */
struct restore_pipe {
	uint32_t id; /* pipe_id */
	bool fifo;
	int read_fd; /* owned; -1: given away. A FIFO is held by this one, O_RDWR */
	int write_fd; /* owned; -1: given away, or a FIFO */
	char *path; /* leads to an end that stays open, to open further ones by; owned */
};

/* pipe.c: unread data, found by pipe. */
struct restore_pipe_data {
	uint32_t id; /* pipe_id */
	bool fifo;
	size_t order;			 /* among all */
	PipeData *message;		 /* owned */
	const struct image_record *data; /* the bytes; NULL without */
};

/* unix-socket.c: sockets by their inode number on the source. */
struct restore_unix_inode {
	uint32_t ino;
	uint32_t id; /* of the file */
};

/* unix-socket.c: a socket file that waits for its place. */
struct restore_staged {
	char *directory; /* temporary directory beside the place, owned */
	char *staged;	 /* path of the socket file in there, owned */
	char *final;	 /* where it belongs, owned */
	uint32_t ino;	 /* of the socket, on the source */
	bool deleted;	 /* it belongs nowhere: removed when all are connected */
};

/* unix-creds.c: pairs of sockets, as one process under one user makes them. */
struct restore_unix_pairs {
	int type;
	uint32_t pid, uid, gid;
	size_t ends; /* that will be wanted */
	ARRAY(int) stock; /* both ends of each pair, one after the other; owned */
};

/* A lock to be taken in a process. */
struct restore_lock {
	pid_t pid;
	int number; /* descriptor */
	FileLock__Kind kind;
	bool write;
	uint64_t start, end; /* first and last byte; all ones: to the end of the file */
};

/*
 * file-lock.c: adds the call; its index. What a result means: 1 held, 0 taken by someone else,
 * negative: failed.
 */
int restore_lock_call(struct tracee_batch *batch, const struct restore_lock *lock);
int restore_lock_result(int64_t result, struct error *error);

/* inet-socket.c: a socket's address. */
union restore_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct restore_connection; /* tcp.h */
struct net_queue;	   /* net/queue.h */

/* What files.c knows. */
struct restore_files {
	ARRAY(struct restore_file) list; /* files of the newest image set, by id */
	const struct image_set
		*loaded;     /* the set that restore_files_prepare() has read; only compared */
	size_t loaded_count; /* its records at that time */
	ARRAY(struct restore_pipe) pipes;   /* during restore_files_apply() */
	ARRAY(struct restore_pipe_data)
	pipe_data; /* during restore_files_apply(), ordered by pipe */
	ARRAY(struct restore_unix_inode)
	inodes;				     /* during restore_files_apply(), ordered by number */
	ARRAY(uint32_t) listeners;	     /* likewise: ids of listening UNIX sockets */
	ARRAY(struct restore_staged) staged; /* until restore_files_commit() */
	ARRAY(struct restore_unix_pairs) unix_pairs; /* during restore_files_apply() */
	ARRAY(struct restore_memory_file) memory; /* until restore_files_commit() */
	ARRAY(struct restore_lock)
	locks;	      /* that the source still held when we asked for them, by process */
	int loopback; /* inet-socket.c: listens for connections to be closed; -1: not yet */
	uint16_t loopback_port;
	ARRAY(struct restore_connection) connections; /* tcp.c: in repair mode until the go */
	struct net_queue *queue; /* accept-queue.c: made on first use, owned */
};

/* tree->files, made on first use. NULL without memory. */
struct restore_files *restore_files_get(struct restore_tree *tree);

/* The file of that id, or NULL. */
struct restore_file *restore_file_find(struct restore_files *files, uint32_t id);

/*
 * file-load.c: reads the file records of a set, in place of those of an earlier one. Forgets them;
 * closes one file.
 */
int restore_files_load(struct restore_tree *tree, const struct image_set *images,
		       struct error *error);
void restore_files_clear(struct restore_files *files);
void restore_file_close(struct restore_file *file);

/* Opens the file unless it is open. */
int restore_file_open(struct restore_tree *tree, struct restore_file *file, struct error *error);

/* Sets the flags that fcntl(F_SETFL) can set, and who gets signals. */
int restore_file_set(int fd, uint32_t flags, const FileOwner *owner, struct error *error);

/* regular-file.c: opens a path, or the ghost of the file, with `flags` of open(2). */
int restore_regular_open(struct restore_tree *tree, const struct restore_file *file, int flags,
			 int *ret_fd, struct error *error);
/*
 * Compares an IMAGE_FILE_CHECK record with what is here; 1: equal, 0: differs, `cause` says how.
 * `final`: it cannot change any more on the source.
 */
int restore_regular_compare(const FileCheck *check, bool final, char *cause, size_t size);

/* ghost.c: makes the deleted files of an image set; their content is shared-memory.c's. */
int restore_ghosts_load(struct restore_tree *tree, const struct image_set *images,
			struct error *error);

/* pipe.c: reads what is unread in pipes; frees what is left of pipes. */
int restore_pipes_load(struct restore_files *files, const struct image_set *images,
		       struct error *error);
void restore_pipes_clear(struct restore_files *files);

/*
 * epoll.c: adds the calls that fill the sets of epoll descriptors which belong to the table
 * `files_id`.
 */
struct restore_install;
int restore_epoll_calls(struct restore_tree *tree, uint32_t files_id,
			struct restore_install *install, struct error *error);

/* unix-socket.c: notes which sockets there are, before any is opened. */
int restore_unix_load(struct restore_files *files, struct error *error);
/* Connects, opens what is on its way, puts unread data back, then shuts down; after all descriptors' files were opened. */
int restore_unix_queues(struct restore_tree *tree, const struct image_set *images,
			struct error *error);
/* Puts socket files in place; or removes them. */
int restore_unix_commit(struct restore_files *files, struct error *error);
void restore_unix_discard(struct restore_files *files);

/* inet-socket.c: a socket's own address or its peer's. Its size, or 0 when the words do not fit the family. */
socklen_t restore_inet_address(const InetSocket *message, bool peer, union restore_address *ret);
/* A TCP socket that has, or had, a peer. */
bool restore_inet_is_connection(const InetSocket *message);
/* io-uring.c: can such a ring be made here (1) or not (0)? Maps rings where processes had them mapped. */
int restore_io_uring_try(const IoUring *message, struct error *error);
int restore_io_uring_map(struct restore_tree *tree, struct error *error);

/* inet-socket.c: can the listening address be had? As restore_regular_compare(). */
int restore_inet_try(const InetSocket *message, char *cause, size_t size);

/* ---- install.c: the calls that a shell makes */

/* A call that takes a lock. */
struct restore_lock_try {
	const struct tracee_batch *batch; /* borrowed from the install */
	int index;			  /* of the call in it */
	struct restore_lock lock;
};

/* Descriptors of one table, being put into a shell. */
struct restore_install {
	struct restore_process *process;      /* borrowed */
	ARRAY(struct tracee_batch *) batches; /* owned, run one after the other */
	int pidfd_number;		      /* number of our pidfd in the shell until the end */
	ARRAY(struct restore_lock_try) tries; /* of locks */
	int lowest; /* lowest free number in the shell, but for the pidfd's */
};

int restore_install_begin(struct restore_install *install, struct restore_process *process,
			  const int *numbers, size_t count, struct error *error);
/* In ascending order of `number`. */
int restore_install_add(struct restore_install *install, int number, int our_fd, bool cloexec);
/* The batch to add `calls` more calls to. NULL without memory. */
struct tracee_batch *restore_install_batch(struct restore_install *install, size_t calls);
int restore_install_end(struct restore_install *install);
/* Runs all of them, the n-th batches of all processes at the same time. */
int restore_install_run(struct restore_tree *tree, struct restore_install *installs, size_t count,
			struct error *error);
void restore_install_deinit(struct restore_install *install);
