/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Kinds of open files, source side: the table in files.c asks each kind whether a file is its own,
 * and the first that says yes describes it. A new kind is one pair of files here and in restore/,
 * and one entry in each table.
 */
#pragma once

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "dump/dump.h"
#include "dump/parts.h"
#include "fdinfo.pb-c.h"
#include "fsnotify.pb-c.h"
#include "image/build-id.h"
#include "util/buffer.h"
#include "util/pidmap.h"

#define DUMP_LINK_MAX 4352 /* PATH_MAX and " (deleted)" */

/* A number in a descriptor table. */
struct dump_number {
	int number;
	bool cloexec; /* known at the freeze only */
};

struct dump_files;

/* The descriptor table of a process, while it is read: file-facts.c. */
struct dump_reader {
	struct dump_process *process;	   /* borrowed */
	int link_dir;			   /* /proc/PID/fd, owned */
	int info_dir;			   /* /proc/PID/fdinfo, owned */
	const struct dump_files *files;	   /* borrowed */
	ARRAY(struct dump_number) numbers; /* ascending */
	struct buffer *info;		   /* for the text of fdinfo; borrowed */
	int info_number;		   /* whose text it is, -1: nobody's */
};

/* An open file description as it is being looked at. Valid only during the call of a kind. */
struct dump_file {
	struct dump_reader *reader;   /* borrowed */
	struct dump_process *process; /* who has it open, or a socket that it is on its way through; borrowed */
	int number;		      /* under this number, */
	pid_t table;		      /* in the descriptor table of this process: ours for one on its way */
	bool cloexec;		      /* that number is closed on exec */
	int fd;			      /* our descriptor of the same open file; borrowed */
	struct stat st;		      /* of `fd` */
	char link[DUMP_LINK_MAX];     /* what /proc/PID/fd/NUMBER leads to */
	uint32_t flags;		      /* fcntl(F_GETFL) */
	int domain;		      /* AF_* of a socket; -1 for what is none, or was opened as a path */
	uint64_t pos;		      /* files with a position */
	uint64_t serial; /* tells files of one inode apart where the kernel numbers them; else 0 */
	uint32_t id;	 /* id of its IMAGE_FILES record */
	FileOwner owner; /* F_GETOWN_EX, F_GETSIG */
	bool frozen;	 /* the process is stopped */
};

struct dump_file_kind {
	const char *name; /* for messages: "pipe" */
	FileType type;
	bool (*match)(const struct dump_file *file);
	/* Adds the record with dump_file_add(), or a blocker with dump_file_block(). */
	int (*dump)(struct dump_context *ctx, const struct dump_file *file, struct error *error);
	/* After all descriptors were seen, and before any finish(): may find further open files; may be NULL. */
	int (*spread)(struct dump_context *ctx, struct error *error);
	/* After all open files were seen; may be NULL. */
	int (*finish)(struct dump_context *ctx, struct error *error);
};

extern const struct dump_file_kind dump_kind_memfd;
extern const struct dump_file_kind dump_kind_mqueue;
extern const struct dump_file_kind dump_kind_terminal;
extern const struct dump_file_kind dump_kind_regular;
extern const struct dump_file_kind dump_kind_pipe;
extern const struct dump_file_kind dump_kind_fifo;
extern const struct dump_file_kind dump_kind_unix;
extern const struct dump_file_kind dump_kind_datagram;
extern const struct dump_file_kind dump_kind_inet;
extern const struct dump_file_kind dump_kind_netlink;
extern const struct dump_file_kind dump_kind_packet;
extern const struct dump_file_kind dump_kind_tun;
extern const struct dump_file_kind dump_kind_socket_refused;
extern const struct dump_file_kind dump_kind_eventfd;
extern const struct dump_file_kind dump_kind_epoll;
extern const struct dump_file_kind dump_kind_timerfd;
extern const struct dump_file_kind dump_kind_signalfd;
extern const struct dump_file_kind dump_kind_inotify;
extern const struct dump_file_kind dump_kind_fanotify;
extern const struct dump_file_kind dump_kind_io_uring;
extern const struct dump_file_kind dump_kind_pidfd;
extern const struct dump_file_kind dump_kind_namespace;

/* A descriptor, once it is known which open file it stands for. */
struct dump_descriptor {
	struct dump_process *process; /* borrowed */
	int number;
	uint32_t file_id;
	dev_t dev; /* of the file */
	ino_t ino;
	FileType type;
};

/* A file that is known by its inode: mapped, linked, deleted or checked. */
struct dump_inode {
	dev_t dev;
	ino_t ino;
	uint32_t variant; /* distinguishes several entries of one inode */
	uint32_t id;	  /* what the entry stands for */
	bool added;	  /* its records are in the present image set */
};

/*
 * Where the descriptors of a process are in the list: ordered by number, which is the order of
 * /proc.
 */
struct dump_table {
	struct dump_process *process; /* borrowed */
	size_t first;
	size_t count;
};

/* The build-id of a file, kept from round to round. */
struct dump_build_id {
	uint64_t size;	       /* of the file when it was read, */
	struct timespec mtime; /* ... and its time: with both unchanged it is still right */
	uint8_t bytes[IMAGE_BUILD_ID_MAX];
	int length; /* 0: none */
};

/* Ordered by (dev, ino, variant). */
struct dump_inodes {
	ARRAY(struct dump_inode) list;
};

/* An open file of this collection; it is the same as another one when kcmp(2) says so. */
struct dump_open {
	dev_t dev;
	ino_t ino;
	uint32_t flags;
	uint64_t pos; /* compared at the freeze only */
	uint64_t serial;
	pid_t table; /* whose descriptor table has it, */
	int number;  /* under this number */
	uint32_t id;
	FileType type;
};

/* What a new socket of a kind is like on this host. */
struct dump_socket_reference {
	int domain, type, protocol;
	struct image_socket_options *options; /* owned */
};

/* A name of a file whose own one leads elsewhere: other-name.c. */
struct dump_name {
	dev_t dev;
	ino_t ino;
	char *path; /* owned */
};

struct dump_pipes;
struct dump_unix;
struct dump_epolls;
struct dump_mounts;
struct dump_inet;
struct dump_ptys;
struct dump_rings;
struct dump_ring_kernel;

/* pty.c: a pseudo-terminal of the tree, for finding who else uses it. */
struct dump_pty_identity {
	uint32_t index;
	dev_t dev;  /* of the slave's file; 0: not known */
	pid_t pid;  /* has the master open, */
	int number; /* under this number */
};

/* A descriptor of a terminal that does not move by itself, until it is known whether its master is in the tree. */
struct dump_terminal {
	pid_t pid;
	int number;
	uint32_t index; /* of a pseudo-terminal; UINT32_MAX: it is none */
	unsigned int device; /* as /proc/PID/stat has it */
	char link[64];
};

/* A listening TCP socket, as the preflight has met it. */
struct dump_listener {
	pid_t pid;
	int number;
	bool holds_back; /* it accepts no connection before there is data (TCP_DEFER_ACCEPT), and has such ones */
};

/* What files.c knows. */
struct dump_files {
	uint32_t next_id;	      /* ids of open and mapped files, from 1 */
	ARRAY(struct dump_open) open; /* open files of this collection, ordered by identity */
	ARRAY(struct dump_descriptor) descriptors; /* of this collection, by process and number */
	ARRAY(int) in_flight; /* our copies of those that no process has, of this collection; owned */
	ARRAY(struct dump_table) tables;	   /* whose are which */
	struct dump_inodes mapped; /* dump_file_map() and dump_file_link(); ids stay */
	struct dump_inodes checked; /* files with an IMAGE_FILE_CHECK record in this set; the id */
				    /* is 1 + the index in `build_ids`, or 0 */
	ARRAY(struct dump_name) names;			/* found so far */
	ARRAY(struct dump_build_id) build_ids;		/* of programs and libraries */
	ARRAY(struct dump_socket_reference) references; /* socket-options.c */
	struct image_socket_options *options; /* of the socket at hand; owned, NULL at first */
	struct dump_pipes *pipes;   /* pipe.c, of this collection */
	struct dump_unix *sockets;  /* unix-socket.c, of this collection */
	struct dump_epolls *epolls; /* epoll.c, of this collection */
	struct dump_mounts *mounts; /* watched.c, of this collection */
	struct dump_inet *inet;     /* inet-socket.c, of this collection */
	ARRAY(struct dump_listener) listeners; /* listeners.c */
	struct pidmap unsigned_tcp; /* inet-socket.c: inode numbers of connections that were found to have no keys; owned */
	struct dump_ptys *ptys;	    /* pty.c, of this collection */
	struct dump_rings *rings;   /* io-uring.c, of this collection */
	struct dump_ring_kernel *ring_kernel; /* io-uring.c; NULL: there is none, */
	bool ring_kernel_tried;		      /* ... or it was not wanted until now */
	ARRAY(struct dump_pty_identity) pairs; /* pty.c: of the last collection */
	ARRAY(uint32_t) masters;    /* pty.c: numbers of pseudo-terminals whose masters dump_ptys_find() has found */
	ARRAY(struct dump_terminal) slaves; /* tty.c, of this collection */
	ARRAY(uint32_t) terminals; /* tty.c: ids of its IMAGE_TTY_INFO records of this collection */
	ARRAY(struct stat) queues;  /* mqueue.c, of this image set */
	struct buffer info;	    /* text of the fdinfo at hand */
	dev_t pipe_device;	    /* st_dev of pipes; 0: not known yet */
};

/* ctx->files, made on first use. NULL without memory. */
struct dump_files *dump_files_get(struct dump_context *ctx);

/*
 * The id of an open file that is on its way through a socket of `process`; adds its records if it is new. `fd` is our
 * descriptor of it, which this takes over whatever happens. At the freeze only.
 */
int dump_file_in_flight(struct dump_context *ctx, struct dump_process *process, int fd, uint32_t *ret_id,
			struct error *error);

/* Adds an IMAGE_FILES record. */
int dump_file_add(struct dump_context *ctx, const OpenFile *message, struct error *error);

/* "fd N -> LINK cannot be moved because..." */
void dump_file_block(struct dump_context *ctx, const struct dump_file *file, const char *cause,
		     const char *remedy);
/* The same for a kind that image/kinds.def refuses. */
void dump_file_refuse(struct dump_context *ctx, const struct dump_file *file, enum image_kind kind);

/* Processes may share a descriptor table (CLONE_FILES); it is read once: has an earlier process the same one? */
bool dump_table_seen(const struct dump_process *process);

/* Lists the descriptors of a process. */
int dump_reader_open(struct dump_context *ctx, struct dump_process *process,
		     struct dump_reader *ret, struct error *error);
/* The same of our own descriptors, of which some stand for files on their way through a socket of `process`. */
int dump_reader_open_own(struct dump_context *ctx, struct dump_process *process, struct dump_reader *ret,
			 struct error *error);
void dump_reader_close(struct dump_reader *reader);
/*
 * Fills in all but `id`; 1: done, the caller closes ret->fd; 0: there is no such descriptor (any
 * more).
 */
int dump_reader_read(struct dump_reader *reader, size_t index, struct dump_file *ret,
		     struct error *error);

/* Fills in all but `id` of a file that our own descriptor `fd` stands for. */
int dump_reader_look(struct dump_reader *reader, int fd, struct dump_file *ret, struct error *error);

/* Reads /proc/PID/fdinfo/NUMBER; "" when that fails. Valid until the next call. */
const char *dump_file_text(const struct dump_file *file);
/* The value behind "name:" (and blanks) at the start of a line of it, or NULL. */
const char *dump_file_info(const char *info, const char *name);

/* file-lock.c: the locks that go with a descriptor. */
int dump_locks_collect(struct dump_context *ctx, const struct dump_file *file,
		       struct dump_arena *arena, Descriptor *message);

/* Finds an entry, or makes it with id 0. NULL without memory. Valid until the next call. */
struct dump_inode *dump_inodes_find(struct dump_inodes *inodes, dev_t dev, ino_t ino,
				    uint32_t variant);
void dump_inodes_begin(struct dump_inodes *inodes);

/* The first descriptor of that number in a process, or NULL. */
const struct dump_descriptor *dump_descriptor_find(const struct dump_files *files,
						   const struct dump_process *process, int number);

/*
 * regular-file.c: describes a file that has a path: the RegularFile record `message` (id, flags and
 * pos set by the caller) is filled in and added, with its check or its content.
 */
struct dump_regular {
	struct dump_process *process; /* who uses it; borrowed */
	int fd;			      /* any descriptor of it, O_PATH too; borrowed */
	const struct stat *st;	      /* of `fd`; borrowed */
	const char *link;	      /* what /proc says; borrowed */
	const char *kind;	      /* for blockers: "descriptor", "mapping", ... */
	const char *what;	      /* for blockers: "fd 7" */
	bool may_change;	      /* open for writing */
	bool mapped_writable;	      /* mapped shared, and may be written there */
	bool private_map;	      /* mapped private */
	bool program;		      /* may be an ELF file: compare build-ids */
	bool path_only;		      /* opened with O_PATH: its content does not matter */
};
/* `ret_added` becomes false with a blocker. */
int dump_regular_add(struct dump_context *ctx, const struct dump_regular *file,
		     RegularFile *message, bool *ret_added, struct error *error);

/* other-name.c: replaces a name that leads elsewhere by another one of the file; false when none is found. */
bool dump_other_name(struct dump_files *files, const struct stat *st, bool frozen, char name[DUMP_LINK_MAX]);
void dump_names_free(struct dump_files *files);

/* Does the link end as that of a deleted file does? It may as well be the name. */
bool dump_link_is_deleted(const char *name);
/*
 * regular-file.c: the records of a deleted file, or of one in memory, that is open, while the tree runs: under an id of its
 * own, as for a mapping.
 * `fd` is our descriptor of it, `link` what /proc says.
 */
int dump_deleted_ahead(struct dump_context *ctx, struct dump_process *process, int fd, const char *link,
		       const struct stat *st, struct error *error);

/*
 * ghost.c: adds IMAGE_REMAP_PATH for `file_id` and, once an image set, the deleted file itself; or one in memory, of which
 * `path` is the name (else NULL).
 */
int dump_ghost_add(struct dump_context *ctx, const struct dump_regular *file, const char *path, uint32_t file_id,
		   bool *ret_added, struct error *error);
/* memory-file.c: a file with one name, on a file system that is in memory only. */
bool dump_memory_file_is(const struct dump_regular *file);
/* Where file systems are mounted that are in memory only; whether a path may lead there. */
struct dump_memory_mounts {
	ARRAY(char *) points; /* owned; with a slash at the end */
};
int dump_memory_mounts_read(struct dump_memory_mounts *ret, struct error *error);
bool dump_memory_file_may_be(const struct dump_memory_mounts *mounts, const char *path);
void dump_memory_mounts_deinit(struct dump_memory_mounts *mounts);

/*
 * socket-options.c: the options of a socket, without those that a new one has anyway. `*ret` is owned by the collection and
 * valid until the next call. 1 when the file has been refused because of a filter that cannot be read.
 */
int dump_socket_options(struct dump_context *ctx, const struct dump_file *file, int domain, int type, int protocol,
			struct image_socket_options **ret, struct error *error);
/*
 * What it compares with, made once; NULL while that was not done. For those who read options in several threads: looking it
 * up changes nothing.
 */
int dump_socket_reference_make(struct dump_files *files, int domain, int type, int protocol, struct error *error);
const struct image_socket_options *dump_socket_reference(const struct dump_files *files, int domain, int type, int protocol);
void dump_socket_options_free(struct dump_files *files);

/* watched.c: what inotify and fanotify watch. */
#define DUMP_HANDLE_MAX 128
struct dump_handle {
	struct file_handle handle;
	uint8_t bytes[DUMP_HANDLE_MAX]; /* of the handle, which ends in an array without a size */
};
_Static_assert(offsetof(struct dump_handle, bytes) == offsetof(struct dump_handle, handle) + sizeof(struct file_handle),
	       "bytes follow the handle");
/* `text` begins with "fhandle-bytes:"; false when it is no handle. */
bool dump_handle_parse(const char *text, struct dump_handle *ret);
/* The path of a handle on a device as the kernel counts them inside; -ENOENT when no path leads there. */
int dump_handle_path(struct dump_files *files, unsigned int device, struct dump_handle *handle, char path[DUMP_LINK_MAX]);
/* In the arena; NULL without memory. */
FileHandle *dump_handle_message(const struct dump_handle *handle, const char *path, struct dump_arena *arena);
/* Where a mount is: the one of that number, or, with `id` 0, the first one of that device. */
int dump_mount_path(unsigned int id, unsigned int device, char path[DUMP_LINK_MAX]);

/* Frees what the kinds keep for one collection. */
void dump_pipes_free(struct dump_pipes *pipes);
void dump_unix_free(struct dump_unix *sockets);
void dump_epolls_free(struct dump_epolls *epolls);
void dump_mounts_free(struct dump_mounts *mounts);
void dump_inet_free(struct dump_inet *inet);

/* accept-queue.c: while the tree runs, so that a freeze can take what waits in the queues of listening sockets. */
void dump_accept_queue_prepare(struct dump_context *ctx);

/* listeners.c: for dump_listeners_settle(). -ENOMEM. */
int dump_listener_note(struct dump_files *files, pid_t pid, int number);
bool dump_listener_holds_back(const struct dump_files *files, pid_t pid, int number);
void dump_ptys_free(struct dump_ptys *ptys);
void dump_rings_free(struct dump_rings *rings);
