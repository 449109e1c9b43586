/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dump/dump.h"
#include "net/lock.h"
#include "tracee/freezer.h"
#include "track/track.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define PAGE 4096
#define CAP_NR_PTRACE 19
#define CAP_NR_ADMIN 21
#define CAP_NR_RESOURCE 24
#define ABI_RSEQ_CONFIGURATION 0x420f  /* PTRACE_GET_RSEQ_CONFIGURATION */
#define ABI_TIMER_RESTORE_IDS 77       /* PR_TIMER_CREATE_RESTORE_IDS */
#define ABI_MADV_GUARD_INSTALL 102
#define ABI_SYS_MSEAL 462
#define ABI_PAGEMAP_FRAME ((UINT64_C(1) << 55) - 1)
#define UFFD_EVENTS \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

static int has_capability(unsigned number)
{
	char value[32] = "";
	int r = procfs_read_status(getpid(), "CapEff", value, sizeof(value), NULL);

	if (r < 0)
		return r;
	return strtoull(value, NULL, 16) >> number & 1 ? 0 : -EPERM;
}

static int try_admin(void)
{
	int r = has_capability(CAP_NR_ADMIN);

	return r < 0 ? r : has_capability(CAP_NR_PTRACE);
}

static int try_resource(void)
{
	return has_capability(CAP_NR_RESOURCE);
}

/* A child that waits, to try things on. */
static pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int try_stop(void)
{
	struct { uint64_t address; uint32_t size, signature, flags, pad; } rseq;
	pid_t pid = start_child();
	int r = 0;

	if (pid < 0)
		return -errno;
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0 ||
	    waitpid(pid, NULL, __WALL) < 0 || ptrace(ABI_RSEQ_CONFIGURATION, pid, sizeof(rseq), &rseq) < 0)
		r = -errno;
	end_child(pid);
	return r;
}

static int try_memory(void)
{
	static const char here = 'x';
	char there = 0;
	struct iovec local = { &there, 1 }, remote = { (void *)(uintptr_t)&here, 1 };
	pid_t pid = start_child();
	int r = 0;

	if (pid < 0)
		return -errno;
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != 1)
		r = -errno;
	else if (there != here)
		r = -EIO;
	end_child(pid);
	return r;
}

static int try_getfd(void)
{
	_cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	_cleanup_fd_ int copy = -1;

	if (pidfd < 0)
		return -errno;
	copy = (int)syscall(SYS_pidfd_getfd, pidfd, pidfd, 0);
	return copy < 0 ? -errno : 0;
}

/* With a PID that is taken: who may choose one is told so, who may not is not. */
static int try_set_tid(void)
{
	pid_t taken = getpid();
	struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&taken, .set_tid_size = 1 };
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid == 0)
		_exit(0);
	if (pid > 0)
		waitpid((pid_t)pid, NULL, 0);
	return pid > 0 || errno == EEXIST ? 0 : -errno;
}

static int try_kcmp(void)
{
	_cleanup_fd_ int fd = open("/proc/self", O_PATH | O_CLOEXEC);

	return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, fd) == 0 ? 0 : -errno;
}

static int try_freezer(void)
{
	struct freezer *freezer = NULL;
	char name[64];
	int r;

	snprintf(name, sizeof(name), "pagestream-check-%d", getpid());
	r = freezer_new(name, getpid(), &freezer, NULL);
	if (r < 0)
		return r;
	r = freezer_freeze(freezer, false, CLOCK_FOREVER, NULL);
	freezer_thaw_nowait(freezer, NULL);
	freezer_remove(freezer, clock_deadline(CLOCK_S), NULL);
	freezer_free(freezer);
	return r;
}

/* Frame numbers are zero without the privilege to see them. */
static int try_pagemap(void)
{
	_cleanup_fd_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0, page = (uintptr_t)&entry / PAGE;

	if (fd < 0)
		return -errno;
	if (fdio_pread(fd, &entry, sizeof(entry), page * sizeof(entry)) != sizeof(entry))
		return -EIO;
	return entry & ABI_PAGEMAP_FRAME ? 0 : -EPERM;
}

static int try_map_files(void)
{
	_cleanup_fd_ int fd = open("/proc/self/map_files", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : has_capability(CAP_NR_ADMIN);
}

static int try_set_mm(void)
{
	unsigned size = 0;

	return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) < 0 ? -errno : 0;
}

static int try_diag(void)
{
	_cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	return fd < 0 ? -errno : 0;
}

static int try_lock(void)
{
	return net_lock_probe(NULL);
}

static int try_track(void)
{
	enum track_kind kind;

	return track_probe(&kind, NULL);
}

static int try_pagemap_scan(void)
{
	return track_probe_kind(TRACK_PAGEMAP_SCAN, NULL);
}

static int try_soft_dirty(void)
{
	return track_probe_kind(TRACK_SOFT_DIRTY, NULL);
}

static int try_userfaultfd(void)
{
	_cleanup_fd_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_EVENTS };

	if (fd < 0)
		return -errno;
	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int try_guard(void)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	if (page == MAP_FAILED)
		return -errno;
	r = madvise(page, PAGE, ABI_MADV_GUARD_INSTALL) < 0 ? -errno : 0;
	munmap(page, PAGE);
	return r;
}

static int try_mseal(void)
{
	return syscall(ABI_SYS_MSEAL, NULL, 0, 0) == 0 || errno != ENOSYS ? 0 : -errno;
}

/* Asking for the present setting (2) changes nothing. */
static int try_timer_ids(void)
{
	return prctl(ABI_TIMER_RESTORE_IDS, 2, 0, 0, 0) < 0 ? -errno : 0;
}

static const struct {
	const char *name, *since, *cost;
	bool needed;
	int (*try)(void);
} features[] = {
	{ "CAP_SYS_ADMIN and CAP_SYS_PTRACE", NULL, "nothing works: run it as root", true, try_admin },
	{ "stopping threads (PTRACE_SEIZE, rseq)", "5.13", "no process can be stopped and looked at", true, try_stop },
	{ "reading memory (process_vm_readv)", NULL, "no page can be read", true, try_memory },
	{ "descriptors of others (pidfd_getfd)", "5.6", "open files cannot be looked at", true, try_getfd },
	{ "chosen PIDs (clone3 set_tid)", "5.5", "processes cannot be restored under their PIDs", true, try_set_tid },
	{ "comparing open files (kcmp)", NULL, "shared open files cannot be told apart", true, try_kcmp },
	{ "cgroup v2 freezer", "5.2", "a tree cannot be held when migrate dies", true, try_freezer },
	{ "page maps with frame numbers", NULL, "pages that processes share cannot be found", true, try_pagemap },
	{ "mapped files (/proc/PID/map_files)", NULL, "mapped files that are deleted cannot be read", true, try_map_files },
	{ "address space layout (PR_SET_MM_MAP)", "3.18", "heap, arguments and auxv cannot be restored", true, try_set_mm },
	{ "socket lists (sock_diag)", NULL, "sockets cannot be described", true, try_diag },
	{ "lock on TCP connections (nftables)", "5.6", "trees with TCP connections cannot be moved", false, try_lock },
	{ "written pages, by one of the next two", NULL, "there is no pre-copy", true, try_track },
	{ "written pages by PAGEMAP_SCAN", "6.7", "soft-dirty is used, which has to stop the process each round", false,
	  try_pagemap_scan },
	{ "written pages by soft-dirty", "3.11", "PAGEMAP_SCAN is needed", false, try_soft_dirty },
	{ "userfaultfd with events", "4.11", "no post-copy to this host, no restore with --lazy-pages (Linux 6.6)", false,
	  try_userfaultfd },
	{ "guard pages (MADV_GUARD_INSTALL)", "6.13", "programs that use them can be restored elsewhere only", false,
	  try_guard },
	{ "sealed mappings (mseal)", "6.10", "programs that use them can be restored elsewhere only", false, try_mseal },
	{ "chosen timer IDs (PR_TIMER_CREATE_RESTORE_IDS)", "6.15",
	  "restoring a POSIX timer with a high ID takes longer", false, try_timer_ids },
	{ "CAP_SYS_RESOURCE", NULL, "limits above our own cannot be restored", false, try_resource },
};

int check_features(struct check_feature **ret, size_t *ret_count, struct error *error)
{
	size_t count = sizeof(features) / sizeof(features[0]);
	struct check_feature *list = calloc(count, sizeof(*list));

	if (!list)
		return error_set(error, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		list[i] = (struct check_feature){
			.name = features[i].name, .since = features[i].since, .cost = features[i].cost,
			.needed = features[i].needed, .code = features[i].try(),
		};
		list[i].works = list[i].code == 0;
	}
	*ret = list;
	*ret_count = count;
	return 0;
}

int check_tree(pid_t pid, const struct log *log, struct image_blockers *ret, struct error *error)
{
	const struct dump_options options = { .tcp_established = true };
	struct dump_context *context = NULL;
	struct image_set *images = NULL;
	int r = dump_context_new(pid, &options, log, &context, error);

	if (r == 0 && image_set_new(&images) < 0)
		r = error_set(error, -ENOMEM, "out of memory");
	if (r == 0)
		r = dump_preflight(context, images, error);
	if (r == 0) {
		*ret = context->blockers;
		image_blockers_init(&context->blockers);
	}
	image_set_free(images);
	dump_context_free(context);
	return r;
}
