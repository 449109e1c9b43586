/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages that come from the directory after the process runs. Private anonymous pages may wait, but for those that every
 * thread needs at once or that the kernel touches while the tree is finished: stacks, instruction pages, struct rseq, locked
 * memory.
 *
 * Faults are served as in post-copy (lazy/lazy.h), with a thread of this program at the other end of the stream; a second
 * thread puts the rest in place meanwhile. Each thread reads with readers of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.pb-c.h"
#include "image/memory-owner.h"
#include "image/ring-pages.h"
#include "image/thread-pages.h"
#include "lazy/lazy.h"
#include "mm.pb-c.h"
#include "private.h"
#include "pstree.pb-c.h"
#include "transport/wire.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/pageset.h"

#define PAGE IMAGE_PAGE_SIZE
#define FEATURE_POISON (UINT64_C(1) << 14) /* UFFD_FEATURE_POISON */
#define PUSH_PAGES 256u
#define STREAM_BYTES (1u << 20)
#define WORK_NS (60 * CLOCK_S)
#define SERVE_NS (60 * CLOCK_S)

/* A process that waits for pages. */
struct waiting {
	pid_t pid;                           /* of the first process that has the memory */
	AddressSpace *mm;                    /* owned */
	size_t last;                         /* index of the mapping found last */
	struct pageset urgent;               /* pages that cannot wait */
	ARRAY(struct lazy_run) runs;         /* that do */
	struct image_pages_reader *readers[2]; /* owned: for faults, for the rest */
};

struct checkpoint_lazy {
	const struct log *log;             /* borrowed */
	struct image_directory *directory; /* owned */
	struct lazy *lazy;                 /* owned */
	ARRAY(struct waiting) processes;
	struct stream *near, *far;         /* owned: the faults' end, and the directory's */
	struct error push_error, fault_error; /* of the two threads */
};

static void waiting_deinit(struct waiting *process)
{
	if (process->mm)
		address_space__free_unpacked(process->mm, NULL);
	pageset_deinit(&process->urgent);
	array_deinit(&process->runs);
	image_pages_close(process->readers[0]);
	image_pages_close(process->readers[1]);
}

void checkpoint_lazy_free(struct checkpoint_lazy *lazy)
{
	if (!lazy)
		return;
	lazy_free(lazy->lazy);
	array_for_each(process, &lazy->processes)
		waiting_deinit(process);
	array_deinit(&lazy->processes);
	stream_free(lazy->near);
	stream_free(lazy->far);
	image_directory_free(lazy->directory);
	free(lazy);
}

static struct waiting *find(struct checkpoint_lazy *lazy, pid_t pid)
{
	array_for_each(process, &lazy->processes)
		if (process->pid == pid)
			return process;
	return NULL;
}

static int read_pages(struct waiting *process, unsigned reader, uint64_t address, uint64_t pages, uint8_t *data,
		      struct error *error)
{
	for (uint64_t i = 0, n; i < pages; i += n) {
		struct image_pages_run run;
		uint64_t first;
		int r = image_pages_find(process->readers[reader], address + i * PAGE, &run);

		if (r == -ENOENT) { /* nothing is there: zeros */
			memset(data + i * PAGE, 0, PAGE);
			n = 1;
			continue;
		}
		if (r < 0)
			return error_set_errno(error, r, "PID %d: page at 0x%lx", process->pid,
					       (unsigned long)(address + i * PAGE));
		first = (address + i * PAGE - run.address) / PAGE;
		n = run.pages - first < pages - i ? run.pages - first : pages - i;
		r = image_pages_read(process->readers[reader], &run, first, n, data + i * PAGE, error);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- which pages */

/* As the directory has it; across two pages it does not go. */
static int read_image(void *context, uint64_t address, void *data, size_t size)
{
	struct waiting *process = context;
	uint64_t inside = address % PAGE;
	uint8_t page[PAGE];
	int r;

	if (inside + size > PAGE)
		return -EFAULT;
	r = read_pages(process, 0, address - inside, 1, page, NULL);
	if (r == 0)
		memcpy(data, page + inside, size);
	return r;
}

static int note_urgent(const struct image_set *images, struct waiting *process, uint32_t tid, struct error *error)
{
	const struct image_record *record = image_set_find(images, IMAGE_CORE, tid);
	_cleanup_message_ Core *core = NULL;
	int r = record ? image_unpack(record, core, &core, error) : 0;

	if (r == 0 && record && image_thread_pages(core, read_image, process, &process->urgent) < 0)
		r = error_set(error, -ENOMEM, "out of memory");
	return r;
}

static int add_process(struct checkpoint_lazy *lazy, const struct image_set *images, const TreeProcess *entry,
		       struct error *error)
{
	const struct image_record *record = image_set_find(images, IMAGE_MM, entry->pid);
	struct waiting process = { .pid = (pid_t)entry->pid };
	struct waiting *owner = find(lazy, (pid_t)image_memory_owner(images, entry->pid));
	int r = 0;

	if (!record)
		return 0;
	for (size_t i = 0; r == 0 && owner && i < entry->n_threads; i++)
		r = note_urgent(images, owner, entry->threads[i], error);
	if (r < 0 || owner)
		return r;
	r = image_unpack(record, address_space, &process.mm, error);
	for (size_t i = 0; r == 0 && i < 2; i++)
		r = image_pages_open(lazy->directory, IMAGE_PAGES_PROCESS, entry->pid, &process.readers[i], error);
	for (size_t i = 0; r == 0 && i < entry->n_threads; i++)
		r = note_urgent(images, &process, entry->threads[i], error);
	if (r == 0)
		r = image_ring_pages(images, process.pid, &process.urgent, error);
	if (array_append(&lazy->processes, process) < 0) {
		waiting_deinit(&process);
		r = error_set(error, -ENOMEM, "out of memory");
	}
	return r;
}

/*
 * On Linux 6.1 a page that was still to come has been seen as zeros, for a reason not found yet. So it is not done on kernels
 * without UFFDIO_POISON, the newest operation of userfaultfd that lazy/ uses.
 */
static int check_kernel(struct error *error)
{
	_cleanup_fd_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API };

	if (fd < 0)
		return error_set_errno(error, -errno, "--lazy-pages: userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) < 0 || !(api.features & FEATURE_POISON))
		return error_set(error, -EOPNOTSUPP, "--lazy-pages needs Linux 6.6: restore without it on this kernel");
	return 0;
}

int checkpoint_lazy_new(struct checkpoint *checkpoint, struct checkpoint_lazy **ret, struct error *error)
{
	const struct image_set *images = image_directory_set(checkpoint->directory);
	struct checkpoint_lazy *lazy = calloc(1, sizeof(*lazy));
	const struct image_record *record;
	size_t cursor = 0;
	int r;

	if (!lazy)
		return error_set(error, -ENOMEM, "out of memory");
	lazy->log = checkpoint->log;
	r = check_kernel(error);
	if (r == 0)
		r = image_directory_open(checkpoint->options->path, &lazy->directory, error);
	while (r == 0 && (record = image_set_next(images, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *entry = NULL;

		r = image_unpack(record, tree_process, &entry, error);
		if (r == 0)
			r = add_process(lazy, images, entry, error);
	}
	if (r < 0) {
		checkpoint_lazy_free(lazy);
		return r;
	}
	*ret = lazy;
	return 0;
}

bool checkpoint_lazy_may_wait(struct checkpoint_lazy *lazy, pid_t pid, uint64_t address)
{
	struct waiting *process = find(lazy, pid);

	if (!process || pageset_has(&process->urgent, address / PAGE))
		return false;
	/* Addresses are asked for in order. */
	if (process->last < process->mm->n_vmas && address < process->mm->vmas[process->last]->start)
		process->last = 0;
	for (; process->last < process->mm->n_vmas; process->last++) {
		const Mapping *mapping = process->mm->vmas[process->last];

		if (address < mapping->end)
			return address >= mapping->start && image_mapping_may_be_late(mapping);
	}
	process->last = 0;
	return false;
}

int checkpoint_lazy_note(struct checkpoint_lazy *lazy, pid_t pid, uint64_t address, uint64_t pages, struct error *error)
{
	struct lazy_run run = { .address = address, .pages = pages };

	return array_append(&find(lazy, pid)->runs, run) < 0 ? error_set(error, -ENOMEM, "out of memory") : 0;
}

int checkpoint_lazy_begin(struct checkpoint_lazy *lazy, struct checkpoint *checkpoint, struct error *error)
{
	char path[108];
	int r;

	if ((size_t)snprintf(path, sizeof(path), "%s/restore-%d.keeper", checkpoint->options->keeper_dir, getpid()) >=
	    sizeof(path))
		return error_set(error, -ENAMETOOLONG, "%s has too long a name", checkpoint->options->keeper_dir);
	r = stream_memory_new(STREAM_BYTES, &lazy->near, &lazy->far, error);
	if (r == 0)
		r = lazy_new(lazy->log, &lazy->lazy, error);
	if (r == 0)
		r = lazy_keeper_start(lazy->lazy, path, NULL, error);
	array_for_each(process, &lazy->processes) {
		struct restore_process *shell = restore_tree_find(checkpoint->tree, process->pid);

		if (r == 0 && shell && process->runs.count)
			r = lazy_add(lazy->lazy, shell->tracee, process->runs.items, process->runs.count, NULL,
				     clock_deadline(WORK_NS), error);
		array_for_each(sharer, &checkpoint->tree->processes)
			if (r == 0 && shell && process->runs.count && (*sharer)->owner == shell)
				r = lazy_add_sharer(lazy->lazy, (*sharer)->tracee, error);
		array_for_each(run, &process->runs)
			checkpoint->summary->pages_late += run->pages;
	}
	return r;
}

/* ---- serving */

static int answer(struct checkpoint_lazy *lazy, const struct wire_page_request *request, uint8_t *data, struct error *error)
{
	struct waiting *process = find(lazy, (pid_t)request->pid);
	struct wire_pages_header header = { .pid = request->pid, .address = request->address, .pages = request->pages,
					    .kind = WIRE_PAGES_DATA };
	int64_t deadline = clock_deadline(SERVE_NS);
	int r;

	if (!process || request->pages < 1 || request->pages > WIRE_RUN_PAGES_MAX)
		return error_set(error, -EPROTO, "a fault of PID %u cannot be served", request->pid);
	r = read_pages(process, 0, request->address, request->pages, data, error);
	if (r == 0)
		r = wire_send_pages(lazy->far, &header, data, deadline, error);
	return r < 0 ? r : stream_flush(lazy->far, deadline, error);
}

/* Ends when the other end of the stream is closed. */
static void *fault_run(void *argument)
{
	struct checkpoint_lazy *lazy = argument;
	_cleanup_buffer_ struct buffer payload = BUFFER_INIT;
	_cleanup_free_ uint8_t *data = malloc(WIRE_RUN_PAGES_MAX * PAGE);
	struct wire_page_request request;
	struct error local = ERROR_INIT;
	struct frame frame;
	int r = data ? 0 : error_set(&lazy->fault_error, -ENOMEM, "out of memory");

	while (r == 0) {
		if (frame_read(lazy->far, &wire_table_request, &frame, &payload, CLOCK_FOREVER, &local) < 0)
			return NULL;
		memcpy(&request, payload.data, payload.size < sizeof(request) ? payload.size : sizeof(request));
		r = answer(lazy, &request, data, &lazy->fault_error);
	}
	/* The faults' end sees that nobody answers any more. */
	stream_shutdown(lazy->far, clock_deadline(CLOCK_S), NULL);
	return NULL;
}

static void *push_run(void *argument)
{
	struct checkpoint_lazy *lazy = argument;
	_cleanup_free_ uint8_t *data = malloc(PUSH_PAGES * PAGE);
	int r = data ? 0 : error_set(&lazy->push_error, -ENOMEM, "out of memory");

	array_for_each(process, &lazy->processes)
		array_for_each(run, &process->runs)
			for (uint64_t i = 0, n; r == 0 && i < run->pages; i += n) {
				n = run->pages - i < PUSH_PAGES ? run->pages - i : PUSH_PAGES;
				r = read_pages(process, 1, run->address + i * PAGE, n, data, &lazy->push_error);
				if (r == 0)
					r = lazy_install(lazy->lazy, process->pid, run->address + i * PAGE, data, n,
							 &lazy->push_error);
			}
	return NULL;
}

int checkpoint_lazy_serve(struct checkpoint_lazy *lazy, struct error *error)
{
	pthread_t fault_thread, push_thread;
	bool faults, pushes;
	int r;

	faults = pthread_create(&fault_thread, NULL, fault_run, lazy) == 0;
	pushes = pthread_create(&push_thread, NULL, push_run, lazy) == 0;
	if (!faults) /* without it nobody answers; the processes are ended, which is better than zeros */
		r = error_set(error, -EAGAIN, "cannot start a thread to serve pages");
	else
		r = lazy_run_faults(lazy->lazy, lazy->near, -1, error);
	stream_shutdown(lazy->near, clock_deadline(CLOCK_S), NULL);
	if (faults)
		pthread_join(fault_thread, NULL);
	if (pushes)
		pthread_join(push_thread, NULL);
	if (r < 0 && (lazy->fault_error.code || lazy->push_error.code)) {
		const struct error *cause = lazy->fault_error.code ? &lazy->fault_error : &lazy->push_error;

		error_clear(error);
		error_set(error, cause->code, "%s; the processes were ended, as their pages cannot be had", cause->message);
	}
	checkpoint_lazy_free(lazy);
	return r;
}
