/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A chain of checkpoint directories with every kind of record, and helpers to look at it. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "scratch.h"

#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fs.pb-c.h"
#include "ghost-file.pb-c.h"
#include "image/directory.h"
#include "image/mapping.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "pagestream-core.pb-c.h"
#include "pagestream-files.pb-c.h"
#include "pipe.pb-c.h"
#include "pstree.pb-c.h"
#include "regfile.pb-c.h"
#include "sk-packet.pb-c.h"
#include "timens.pb-c.h"
#include "util/cleanup.h"

#define PID          100
#define TID          101
#define SHARED_ID    1
#define MEMFD_ID     2
#define GHOST_ID     30
#define GHOST_SIZE   (4 * 4096 + 100)
#define GHOST_PAGES  5
#define BASE         UINT64_C(0x7f0000000000)
#define CHAIN_PAGES  630
#define SHARED_PAGES 6

static inline void must(int r, const struct error *error)
{
	if (r < 0)
		fail_msg("%s", error_text(error, r));
}

/* ---- places; what path_of() gives is freed with the test */

static char *paths[65536];
static size_t path_count;

static inline char *path_of(const char *base, const char *name)
{
	char *path = NULL;

	if (asprintf(&path, "%s/%s", base, name) < 0 || path_count == 65536)
		abort();
	paths[path_count++] = path;
	return path;
}

static inline void remove_tree(const char *path)
{
	DIR *list = opendir(path);
	struct dirent *entry;

	while (list && (entry = readdir(list))) {
		char *name = NULL;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (asprintf(&name, "%s/%s", path, entry->d_name) < 0)
			abort();
		if (entry->d_type == DT_DIR)
			remove_tree(name);
		else
			unlink(name);
		free(name);
	}
	if (list)
		closedir(list);
	rmdir(path);
}

static inline int make_base(void **state)
{
	char path[64];

	*state = strdup(scratch_directory(path, sizeof(path), "image-directory"));
	return *state ? 0 : -1;
}

static inline int remove_base(void **state)
{
	remove_tree(*state);
	free(*state);
	while (path_count > 0)
		free(paths[--path_count]);
	return 0;
}

static inline size_t file_size(const char *path)
{
	struct stat info;

	assert_int_equal(stat(path, &info), 0);
	return (size_t)info.st_size;
}

static inline uint8_t *read_all(const char *path, size_t size)
{
	uint8_t *data = malloc(size + 1);
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0 && read(fd, data, size) == (ssize_t)size);
	close(fd);
	return data;
}

static inline void write_all(const char *path, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
}

static inline void flip_bit(const char *path, size_t at)
{
	int fd = open(path, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	close(fd);
}

static inline struct image_directory *create_good(const char *path, const char *parent)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir = NULL;

	must(image_directory_create(path, parent, &dir, &error), &error);
	return dir;
}

static inline struct image_directory *open_good(const char *path)
{
	struct error error = ERROR_INIT;
	struct image_directory *dir = NULL;

	must(image_directory_open(path, &dir, &error), &error);
	return dir;
}

/* Seals and frees. */
static inline void seal_good(struct image_directory *dir)
{
	struct error error = ERROR_INIT;

	must(image_directory_seal(dir, &error), &error);
	image_directory_free(dir);
}

/* ---- records */

static inline void add(struct image_set *set, enum image_type type, uint32_t id, const ProtobufCMessage *message)
{
	struct error error = ERROR_INIT;

	must(image_set_add(set, type, id, message, &error), &error);
}

static inline void add_core(struct image_set *set, uint32_t tid)
{
	static uint32_t st[32], xmm[64], ymm[64];
	static uint8_t fxsave[512], opmask[64], tile[64];
	X86Registers registers = X86_REGISTERS__INIT;
	X86Xsave xsave = X86_XSAVE__INIT;
	X86Fpu fpu = X86_FPU__INIT;
	X86Thread machine = X86_THREAD__INIT;
	CoreThread thread = CORE_THREAD__INIT;
	Creds creds = CREDS__INIT;
	PendingSignals empty = PENDING_SIGNALS__INIT;
	AltStack sas = ALT_STACK__INIT;
	CoreProcess process = CORE_PROCESS__INIT;
	IntervalTimer timer = INTERVAL_TIMER__INIT;
	ProcessTimers timers = PROCESS_TIMERS__INIT;
	Core core = CORE__INIT;
	ThreadExtra extra = THREAD_EXTRA__INIT;
	XsaveComponent parts[3] = { XSAVE_COMPONENT__INIT, XSAVE_COMPONENT__INIT, XSAVE_COMPONENT__INIT };
	XsaveComponent *list[3] = { &parts[0], &parts[1], &parts[2] };
	uint32_t caps[2] = { 0xffffffff, 0x1ff };

	registers.ip = 0x401000 + tid;
	/* One was in clock_nanosleep(2) when it was stopped. */
	registers.orig_ax = tid == PID ? UINT64_MAX : 230;
	registers.ax = tid == PID ? 5 : (uint64_t)-514;
	for (size_t i = 0; i < 64; i++) {
		xmm[i] = (uint32_t)i * 3 + tid;
		ymm[i] = (uint32_t)i * 5 + tid;
		opmask[i] = (uint8_t)(i + 1);
		tile[i] = (uint8_t)(200 - i);
		if (i < 32)
			st[i] = (uint32_t)i * 7;
	}
	memcpy(fxsave + 32, st, sizeof(st));
	memcpy(fxsave + 160, xmm, sizeof(xmm));
	fxsave[0] = 0x7f;
	fxsave[1] = 0x03;
	fxsave[500] = 42; /* behind what CRIU knows */
	xsave.xstate_bv = 7;
	xsave.n_ymmh_space = 64;
	xsave.ymmh_space = ymm;
	fpu.cwd = 0x37f;
	fpu.n_st_space = 32;
	fpu.st_space = st;
	fpu.n_xmm_space = 64;
	fpu.xmm_space = xmm;
	fpu.xsave = &xsave;
	machine.gpregs = &registers;
	machine.fpregs = &fpu;
	creds.n_cap_eff = creds.n_cap_prm = creds.n_cap_bnd = creds.n_cap_inh = 2;
	creds.cap_eff = creds.cap_prm = creds.cap_bnd = creds.cap_inh = caps;
	thread.creds = &creds;
	thread.has_blk_sigset = true;
	thread.sas = &sas;
	thread.signals_p = &empty;
	thread.comm = (char *)"worker";
	core.mtype = CORE__MACHINE__X86_64;
	core.thread_info = &machine;
	core.thread_core = &thread;
	timers.real = timers.virt = timers.prof = &timer;
	process.task_state = 1;
	process.comm = (char *)"victim";
	process.timers = &timers;
	process.signals_s = &empty;
	if (tid == PID)
		core.tc = &process;
	add(set, IMAGE_CORE, tid, &core.base);

	extra.pid = PID;
	extra.fxsave.data = fxsave;
	extra.fxsave.len = sizeof(fxsave);
	extra.xstate_bv = 7 | 1 << 5 | 1 << 18;
	parts[0].number = 2;
	parts[0].state.data = (uint8_t *)ymm;
	parts[0].state.len = sizeof(ymm);
	parts[1].number = 5;
	parts[1].state.data = opmask;
	parts[1].state.len = sizeof(opmask);
	parts[2].number = 18;
	parts[2].state.data = tile;
	parts[2].state.len = sizeof(tile);
	extra.n_components = 3;
	extra.components = list;
	extra.affinity.data = fxsave;
	extra.affinity.len = 8;
	extra.timer_slack = 12345;
	add(set, IMAGE_THREAD_EXTRA, tid, &extra.base);
}

static inline void add_memory(struct image_set *set)
{
	Mapping mappings[5] = { MAPPING__INIT, MAPPING__INIT, MAPPING__INIT, MAPPING__INIT, MAPPING__INIT };
	Mapping *list[5];
	AddressSpace mm = ADDRESS_SPACE__INIT;
	MmExtra extra = MM_EXTRA__INIT;
	AddressRange guard = ADDRESS_RANGE__INIT, *guards = &guard;
	MappingName name = MAPPING_NAME__INIT, *names = &name;
	SharedMemory shared = SHARED_MEMORY__INIT;
	uint64_t auxv[4] = { 6, 4096, 0, 0 };

	for (size_t i = 0; i < 5; i++) {
		mappings[i].start = BASE + i * CHAIN_PAGES * 4096;
		mappings[i].end = mappings[i].start + CHAIN_PAGES * 4096;
		mappings[i].prot = PROT_READ | PROT_WRITE;
		mappings[i].flags = MAP_PRIVATE | MAP_ANONYMOUS;
		mappings[i].status = MAPPING_REGULAR | MAPPING_ANON_PRIVATE;
		mappings[i].fd = -1;
		list[i] = &mappings[i];
	}
	mappings[1].status = MAPPING_REGULAR | MAPPING_FILE_PRIVATE;
	mappings[1].shmid = 1;
	mappings[2].status = MAPPING_REGULAR | MAPPING_ANON_SHARED;
	mappings[2].shmid = SHARED_ID;
	mappings[3].status = MAPPING_REGULAR | MAPPING_ANON_SHARED | MAPPING_MEMFD;
	mappings[3].shmid = MEMFD_ID;
	mappings[4].status = MAPPING_REGULAR | MAPPING_VDSO;
	mm.n_vmas = 5;
	mm.vmas = list;
	mm.exe_file_id = 1;
	mm.n_mm_saved_auxv = 4;
	mm.mm_saved_auxv = auxv;
	mm.has_dumpable = true;
	mm.dumpable = 1;
	add(set, IMAGE_MM, PID, &mm.base);
	guard.start = BASE + 4096;
	guard.size = 4096;
	extra.n_guards = 1;
	extra.guards = &guards;
	name.start = BASE;
	name.size = 4096;
	name.name = (char *)"heap of ours";
	extra.n_names = 1;
	extra.names = &names;
	add(set, IMAGE_MM_EXTRA, PID, &extra.base);
	shared.id = SHARED_ID;
	shared.size = SHARED_PAGES * 4096;
	shared.mode = 0600;
	add(set, IMAGE_SHARED_MEMORY, 0, &shared.base);
	shared.id = MEMFD_ID;
	shared.memfd = true;
	shared.name = (char *)"a memfd";
	shared.has_seals = true;
	shared.seals = 3;
	add(set, IMAGE_SHARED_MEMORY, 0, &shared.base);
}

/* An open file of each kind. */
static inline void add_files(struct image_set *set)
{
	static const int types[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 18 };
	FileOwner owner = FILE_OWNER__INIT;
	uint32_t address = 0x0100007f;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		uint32_t id = (uint32_t)i + 1;
		OpenFile file = OPEN_FILE__INIT;
		RegularFile regular = REGULAR_FILE__INIT;
		PipeEnd pipe = PIPE_END__INIT;
		FifoEnd fifo = FIFO_END__INIT;
		SocketOptions options = SOCKET_OPTIONS__INIT;
		InetSocket inet = INET_SOCKET__INIT;
		UnixSocket local = UNIX_SOCKET__INIT;
		EventFd event = EVENT_FD__INIT;
		EpollFd epoll = EPOLL_FD__INIT;
		EpollItem item = EPOLL_ITEM__INIT, *items = &item;
		InotifyFd inotify = INOTIFY_FD__INIT;
		InotifyWatch watch = INOTIFY_WATCH__INIT, *watches = &watch;
		FileHandle handle = FILE_HANDLE__INIT;
		SignalFd signal = SIGNAL_FD__INIT;
		TimerFd timer = TIMER_FD__INIT;
		MemFd memfd = MEM_FD__INIT;
		uint64_t words[2] = { 1, 2 };

		file.type = (FileType)types[i];
		file.id = id;
		regular.id = pipe.id = fifo.id = inet.id = local.id = event.id = epoll.id = inotify.id = signal.id = timer.id =
			memfd.id = item.id = watch.id = id;
		regular.fown = pipe.fown = inet.fown = local.fown = event.fown = epoll.fown = inotify.fown = signal.fown =
			timer.fown = memfd.fown = &owner;
		inet.opts = local.opts = &options;
		regular.name = (char *)"/usr/bin/victim";
		pipe.pipe_id = 700;
		pipe.has_uid = true;
		pipe.uid = 33;
		fifo.pipe_id = 701;
		fifo.has_regf_id = true;
		fifo.regf_id = 1;
		inet.family = AF_INET;
		inet.type = 1;
		inet.proto = 6;
		inet.state = 10;
		inet.n_src_addr = 1;
		inet.src_addr = &address;
		local.name.data = (uint8_t *)"\0abstract =\n name";
		local.name.len = 17;
		local.has_peer_closed = local.peer_closed = true;
		event.has_semaphore = event.semaphore = true;
		epoll.n_tfd = 1;
		epoll.tfd = &items;
		epoll.has_files_id = true;
		epoll.files_id = PID;
		item.tfd = 6;
		item.has_file_id = true;
		item.file_id = 6;
		inotify.n_wd = 1;
		inotify.wd = &watches;
		watch.f_handle = &handle;
		handle.n_handle = 2;
		handle.handle = words;
		handle.path = (char *)"/tmp";
		timer.has_taken = true;
		timer.taken = 99;
		memfd.inode_id = MEMFD_ID;
		switch (types[i]) {
		case 1: file.reg = &regular; break;
		case 2: file.pipe = &pipe; break;
		case 3: file.fifo = &fifo; break;
		case 4: file.isk = &inet; break;
		case 5: file.usk = &local; break;
		case 6: file.efd = &event; break;
		case 7: file.epfd = &epoll; break;
		case 8: file.ify = &inotify; break;
		case 9: file.sgfd = &signal; break;
		case 17: file.tfd = &timer; break;
		default: break;
		}
		/* The memfd stays only mapped: so the mapping needs an open file that is made up. */
		if (types[i] != 18)
			add(set, IMAGE_FILES, 0, &file.base);
	}
}

static inline void add_descriptors(struct image_set *set)
{
	for (uint32_t i = 1; i <= 10; i++) {
		Descriptor descriptor = DESCRIPTOR__INIT;
		FileLock lock = FILE_LOCK__INIT, *locks = &lock;

		descriptor.id = i;
		descriptor.fd = i;
		descriptor.type = (FileType)(i == 10 ? 17 : i);
		lock.kind = FILE_LOCK__KIND__POSIX;
		lock.write = true;
		lock.pid = PID;
		lock.start = 10;
		lock.end = 19;
		descriptor.n_locks = i == 1;
		descriptor.locks = &locks;
		add(set, IMAGE_FDINFO, PID, &descriptor.base);
	}
}

/* Records with bytes behind them. */
static inline void add_data(struct image_set *set)
{
	PipeData data = PIPE_DATA__INIT;
	SocketPacket packet = SOCKET_PACKET__INIT;
	SocketCredentials ucred = SOCKET_CREDENTIALS__INIT;

	data.pipe_id = 700;
	data.has_size = true;
	data.size = 65536;
	data.has_packet = data.packet = true;
	data.bytes = 5;
	add(set, IMAGE_PIPE_DATA, 0, &data.base);
	assert_int_equal(image_set_add_bytes(set, IMAGE_PIPE_DATA, 0, "hello", 5, NULL), 0);
	data.bytes = 3;
	add(set, IMAGE_PIPE_DATA, 0, &data.base);
	assert_int_equal(image_set_add_bytes(set, IMAGE_PIPE_DATA, 0, "you", 3, NULL), 0);
	data.pipe_id = 701;
	data.bytes = 0;
	data.has_packet = false;
	add(set, IMAGE_FIFO_DATA, 0, &data.base);
	packet.id_for = 5;
	packet.length = 4;
	packet.ucred = &ucred;
	packet.has_sender = true;
	packet.sender.data = (uint8_t *)"\0them";
	packet.sender.len = 5;
	add(set, IMAGE_SOCKET_QUEUE, 0, &packet.base);
	assert_int_equal(image_set_add_bytes(set, IMAGE_SOCKET_QUEUE, 0, "ping", 4, NULL), 0);
	packet.length = 0;
	add(set, IMAGE_SOCKET_QUEUE, 0, &packet.base);
}

static inline struct image_set *full_set(void)
{
	struct image_set *set;
	CpuidWord word = CPUID_WORD__INIT, *words = &word;
	HostFacts host = HOST_FACTS__INIT;
	ObjectIds ids = OBJECT_IDS__INIT;
	Inventory inventory = INVENTORY__INIT;
	TreeProcess process = TREE_PROCESS__INIT;
	ProcessExtra extra = PROCESS_EXTRA__INIT;
	Fs fs = FS__INIT;
	GhostFile ghost = GHOST_FILE__INIT;
	RemapPath remap = REMAP_PATH__INIT;
	FileCheck check = FILE_CHECK__INIT;
	Creds creds = CREDS__INIT;
	ClockReading reading = CLOCK_READING__INIT;
	Clocks clocks = CLOCKS__INIT;
	EpollItem item = EPOLL_ITEM__INIT;
	InotifyWatch watch = INOTIFY_WATCH__INIT;
	FileHandle handle = FILE_HANDLE__INIT;
	uint32_t threads[2] = { PID, TID };

	assert_int_equal(image_set_new(&set), 0);
	host.kernel = (char *)"6.18";
	host.n_cpuid = 1;
	host.cpuid = &words;
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = PID;
	inventory.img_version = 2;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.root_ids = &ids;
	inventory.host = &host;
	add(set, IMAGE_INVENTORY, 0, &inventory.base);
	process.pid = process.pgid = process.sid = PID;
	process.n_threads = 2;
	process.threads = threads;
	process.has_descriptor_table = true;
	process.descriptor_table = 256;
	add(set, IMAGE_PSTREE, 0, &process.base);
	add(set, IMAGE_IDS, PID, &ids.base);
	add_core(set, PID);
	add_core(set, TID);
	extra.coredump_filter = 0x33;
	extra.membarrier = 4;
	add(set, IMAGE_PROCESS_EXTRA, PID, &extra.base);
	add_memory(set);
	fs.cwd_id = fs.root_id = 1;
	add(set, IMAGE_FS, PID, &fs.base);
	add_files(set);
	add_descriptors(set);
	add_data(set);
	ghost.mode = S_IFREG | 0600;
	ghost.has_size = true;
	ghost.size = GHOST_SIZE;
	add(set, IMAGE_GHOST_FILE, GHOST_ID, &ghost.base);
	remap.orig_id = 1;
	remap.remap_id = GHOST_ID;
	remap.has_remap_type = true;
	remap.remap_type = REMAP_TYPE__REMAP_GHOST;
	add(set, IMAGE_REMAP_PATH, 0, &remap.base);
	check.path = (char *)"/usr/bin/victim";
	add(set, IMAGE_FILE_CHECK, 0, &check.base);
	add(set, IMAGE_CREDS, PID, &creds.base);
	clocks.monotonic = clocks.boottime = &reading;
	add(set, IMAGE_TIMENS, 0, &clocks.base);
	item.id = 7;
	add(set, IMAGE_EVENTPOLL_ITEM, 0, &item.base);
	watch.id = 8;
	watch.f_handle = &handle;
	add(set, IMAGE_INOTIFY_WATCH, 0, &watch.base);
	return set;
}

/* ---- pages */

static inline void fill_page(uint8_t *page, uint64_t number, unsigned origin)
{
	for (size_t i = 0; i < IMAGE_PAGE_SIZE; i += 8) {
		uint64_t word = number * 1000003 + origin * UINT64_C(0x9e3779b97f4a7c15) + i;

		memcpy(page + i, &word, 8);
	}
}

/* Which directory of the chain wrote a page of the process last. */
static inline unsigned chain_origin(uint64_t page)
{
	return 3 - (unsigned)(page / 7 % 3);
}

/* Writes an object whose pages have `origin` where `own(page)` says so, and are in the parent elsewhere. */
static inline void write_object(struct image_directory *dir, enum image_pages_kind kind, uint32_t id, uint64_t base,
				uint64_t pages, unsigned origin, bool (*own)(uint64_t page, unsigned origin))
{
	struct error error = ERROR_INIT;
	struct image_pages_writer *writer;
	uint8_t page[IMAGE_PAGE_SIZE];

	must(image_pages_begin(dir, kind, id, &writer, &error), &error);
	for (uint64_t i = 0; i < pages; i++) {
		fill_page(page, i, origin);
		if (own(i, origin))
			must(image_pages_add(writer, base + i * IMAGE_PAGE_SIZE, 1, page, &error), &error);
		else
			must(image_pages_add_in_parent(writer, base + i * IMAGE_PAGE_SIZE, 1, &error), &error);
	}
	must(image_pages_end(writer, &error), &error);
}

static inline bool own_all(uint64_t page, unsigned origin)
{
	(void)page;
	(void)origin;
	return true;
}

static inline bool own_process(uint64_t page, unsigned origin)
{
	return chain_origin(page) >= origin;
}

static inline bool own_shared(uint64_t page, unsigned origin)
{
	return origin == 1 || (origin == 3 && page < 3);
}

static inline bool own_ghost(uint64_t page, unsigned origin)
{
	return origin == 1 || page + 1 == origin;
}

static inline void write_pages(struct image_directory *dir, unsigned origin)
{
	write_object(dir, IMAGE_PAGES_PROCESS, PID, BASE, CHAIN_PAGES, origin, origin > 3 ? own_all : own_process);
	write_object(dir, IMAGE_PAGES_SHARED, SHARED_ID, 0, SHARED_PAGES, origin, origin > 3 ? own_all : own_shared);
	write_object(dir, IMAGE_PAGES_GHOST, GHOST_ID, 0, GHOST_PAGES, origin, origin > 3 ? own_all : own_ghost);
}

static inline void write_missing(struct image_directory *dir)
{
	struct image_pages_writer *writer;

	assert_int_equal(image_pages_begin(dir, IMAGE_PAGES_PROCESS, PID, &writer, NULL), 0);
	assert_int_equal(image_pages_add_in_parent(writer, BASE + (CHAIN_PAGES - 1) * IMAGE_PAGE_SIZE, 2, NULL), 0);
	assert_int_equal(image_pages_end(writer, NULL), 0);
}

/* one <- two <- top, the last with records; and `single`, which has all pages and no parent. */
static inline void make_chain(const char *base)
{
	struct image_set *set = full_set();
	struct error error = ERROR_INIT;
	struct image_directory *dir;

	dir = create_good(path_of(base, "single"), NULL);
	write_pages(dir, 9);
	seal_good(dir);
	dir = create_good(path_of(base, "one"), NULL);
	write_pages(dir, 1);
	seal_good(dir);
	dir = create_good(path_of(base, "two"), path_of(base, "one"));
	write_pages(dir, 2);
	seal_good(dir);
	dir = create_good(path_of(base, "top"), path_of(base, "two"));
	write_pages(dir, 3);
	must(image_directory_write_set(dir, set, &error), &error);
	seal_good(dir);
	image_set_free(set);
}

/* Pages that a dedup of the chain frees. */
static inline uint64_t dedup_pages(void)
{
	uint64_t count = 3 + 1; /* shared; of the deleted file, whose newest pages are no page map */

	for (uint64_t page = 0; page < CHAIN_PAGES; page++)
		count += chain_origin(page) - 1;
	return count;
}

static inline void check_page(struct image_directory *dir, enum image_pages_kind kind, uint32_t id, uint64_t address,
			      uint64_t page, unsigned origin)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	uint8_t wanted[IMAGE_PAGE_SIZE], is[IMAGE_PAGE_SIZE];
	struct error error = ERROR_INIT;
	struct image_pages_run run;

	must(image_pages_open(dir, kind, id, &reader, &error), &error);
	assert_int_equal(image_pages_find(reader, address, &run), 0);
	must(image_pages_read(reader, &run, (address - run.address) / IMAGE_PAGE_SIZE, 1, is, &error), &error);
	fill_page(wanted, page, origin);
	assert_memory_equal(is, wanted, sizeof(is));
}

static inline void check_ghost(struct image_directory *dir)
{
	_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
	uint8_t wanted[GHOST_PAGES * IMAGE_PAGE_SIZE], is[GHOST_PAGES * IMAGE_PAGE_SIZE] = { 0 };
	struct error error = ERROR_INIT;
	struct image_pages_run run;
	uint64_t pages = 0;

	must(image_pages_open(dir, IMAGE_PAGES_GHOST, GHOST_ID, &reader, &error), &error);
	while (image_pages_next(reader, &run, &error) == 1) {
		assert_true(run.address + run.pages * IMAGE_PAGE_SIZE <= sizeof(is));
		must(image_pages_read(reader, &run, 0, run.pages, is + run.address, &error), &error);
		pages += run.pages;
	}
	assert_int_equal(pages, GHOST_PAGES);
	for (unsigned page = 0; page < GHOST_PAGES; page++)
		fill_page(wanted + page * IMAGE_PAGE_SIZE, page, page == 1 || page == 2 ? page + 1 : 1);
	memset(wanted + GHOST_SIZE, 0, sizeof(wanted) - GHOST_SIZE);
	assert_memory_equal(is, wanted, sizeof(is));
}

/* Reads all pages of all objects there are. */
static inline int read_everything(struct image_directory *dir, struct error *error)
{
	static const struct {
		enum image_pages_kind kind;
		uint32_t id;
	} objects[] = { { IMAGE_PAGES_PROCESS, PID }, { IMAGE_PAGES_SHARED, SHARED_ID }, { IMAGE_PAGES_SHARED, MEMFD_ID },
			{ IMAGE_PAGES_GHOST, GHOST_ID } };
	uint8_t *buffer = malloc(1 << 22);
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof(objects) / sizeof(objects[0]); i++) {
		_cleanup_image_pages_reader_ struct image_pages_reader *reader = NULL;
		struct error text = ERROR_INIT;
		struct image_pages_run run;

		r = image_pages_open(dir, objects[i].kind, objects[i].id, &reader, &text);
		if (r == -ENOENT) {
			r = 0;
			continue;
		}
		if (r < 0) {
			error_set(error, r, "%s", error_text(&text, r));
			break;
		}
		while ((r = image_pages_next(reader, &run, error)) > 0)
			for (uint64_t at = 0; r >= 0 && at < run.pages; at += 1024)
				r = image_pages_read(reader, &run, at, run.pages - at < 1024 ? run.pages - at : 1024, buffer,
						     error);
	}
	free(buffer);
	return r < 0 ? r : image_directory_verify(dir, error);
}

/* ---- images made by hand */

struct map_line {
	uint64_t address;
	uint64_t pages; /* 0: no line */
	uint64_t flags;
};

static inline size_t put_number(uint8_t *at, uint64_t value)
{
	size_t size = 0;

	for (; value >= 0x80; value >>= 7)
		at[size++] = (uint8_t)(value | 0x80);
	at[size++] = (uint8_t)value;
	return size;
}

static inline size_t put_message(uint8_t *at, const uint64_t *fields, size_t count)
{
	uint32_t size = 0;

	for (size_t i = 0; i < count; i++) {
		at[4 + size++] = (uint8_t)((i + 1) << 3);
		size += (uint32_t)put_number(at + 4 + size, fields[i]);
	}
	memcpy(at, &size, sizeof(size));
	return 4 + size;
}

/* A directory as CRIU 4.2 might write it: an inventory and one process's pages, which need not fit. */
static inline void criu_directory(const char *path, const struct map_line *lines, size_t count, size_t pages)
{
	static const uint32_t inventory_magic = 1479618838, map_magic[2] = { 1414939417, 1443381285 };
	uint8_t map[1024], *data = calloc(pages + 1, IMAGE_PAGE_SIZE);
	char name[4096];
	size_t size = sizeof(map_magic);

	assert_int_equal(mkdir(path, 0700), 0);
	memcpy(map, &inventory_magic, 4);
	snprintf(name, sizeof(name), "%s/inventory.img", path);
	write_all(name, map, 4 + put_message(map + 4, (uint64_t[]){ 2, 1 }, 2));
	memcpy(map, map_magic, sizeof(map_magic));
	size += put_message(map + size, (uint64_t[]){ 1 }, 1);
	/* As CRIU 4.2 does it: the number of pages in field 5. */
	for (size_t i = 0; i < count && lines[i].pages; i++)
		size += put_message(map + size, (uint64_t[]){ lines[i].address, 0, 0, lines[i].flags, lines[i].pages }, 5);
	snprintf(name, sizeof(name), "%s/pagemap-%d.img", path, PID);
	write_all(name, map, size);
	for (size_t i = 0; i < pages; i++)
		fill_page(data + i * IMAGE_PAGE_SIZE, i, 4);
	snprintf(name, sizeof(name), "%s/pages-1.img", path);
	write_all(name, data, pages * IMAGE_PAGE_SIZE);
	free(data);
}

/* ---- as a program */

static inline int write_sample(const char *base)
{
	make_chain(base);
	return 0;
}

/* Prints each record as "TYPE ID SIZE HASH-LIKE", and reads all pages. */
static inline int read_sample(const char *path)
{
	struct error error = ERROR_INIT;
	struct image_directory_info info;
	struct image_directory *dir;
	int r = image_directory_open(path, &dir, &error);

	if (r == 0) {
		const struct image_set *set = image_directory_set(dir);

		for (size_t i = 0; i < image_set_count(set); i++) {
			const struct image_record *record = image_set_get(set, i);

			printf("%s %u ", image_type_name(record->type), record->id);
			for (size_t k = 0; k < record->size; k++)
				printf("%02x", record->data[k]);
			printf("\n");
		}
		image_directory_describe(dir, &info);
		printf("sealed %d native %d edited %d\n", info.sealed, info.native, info.edited);
		r = read_everything(dir, &error);
		image_directory_free(dir);
	}
	if (r < 0)
		printf("error: %s\n", error_text(&error, r));
	return r < 0;
}
