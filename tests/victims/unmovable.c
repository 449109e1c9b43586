/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holds one of each kind of object that cannot be moved, as far as this kernel has them: DIR/kinds names what it holds,
 * a line each: "NAME descriptor NUMBER", "NAME mapping ADDRESS" or "NAME process -".
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

static FILE *kinds;

static void descriptor(const char *name, long fd)
{
	if (fd >= 0)
		fprintf(kinds, "%s descriptor %ld\n", name, fd);
}

static void mapping(const char *name, const void *address)
{
	if (address != MAP_FAILED)
		fprintf(kinds, "%s mapping %lx\n", name, (unsigned long)address);
}

/* Asynchronous I/O that waits for a pipe. */
static void open_poll(void)
{
	unsigned long context = 0;
	struct iocb request = {.aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLIN};
	struct iocb *list = &request;
	int ends[2];

	if (syscall(SYS_io_setup, 8, &context) < 0)
		return;
	MUST(pipe(ends) == 0);
	request.aio_fildes = (unsigned int)ends[0];
	MUST(syscall(SYS_io_submit, context, 1, &list) == 1);
	mapping("aio-poll", (const void *)context);
}

/* The buffer stays with the ring when it is not mapped any more. */
static void open_ring_buffer(void)
{
	struct io_uring_params params = {0};
	struct iovec buffer = {.iov_len = VICTIM_PAGE};
	long fd = syscall(SYS_io_uring_setup, 4, &params);

	if (fd < 0)
		return;
	buffer.iov_base = mmap(NULL, VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(buffer.iov_base != MAP_FAILED && syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
	MUST(munmap(buffer.iov_base, VICTIM_PAGE) == 0);
	descriptor("io_uring-buffer", fd);
	fprintf(kinds, "pinned memory 0\n");
}

static void open_rings(void)
{
	struct io_uring_params params = {0};
	unsigned long context = 0;
	pid_t child = -1;
	long fd;

	/* A fork leaves the parent's ring in the child. */
	if (syscall(SYS_io_setup, 8, &context) == 0 && (child = fork()) == 0)
		for (;;)
			pause();
	if (context)
		fprintf(kinds, "aio-child mapping %lx %d\n", context, child);
	open_poll();
	params.flags = IORING_SETUP_R_DISABLED;
	fd = syscall(SYS_io_uring_setup, 4, &params);
	if (fd >= 0)
		descriptor("io_uring", fd);
	open_ring_buffer();
}

static void open_faults(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	char *area = mmap(NULL, 4 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	descriptor("userfaultfd", fd);
	if (fd < 0 || ioctl((int)fd, UFFDIO_API, &api) < 0)
		return;
	range.range.start = (unsigned long)area;
	range.range.len = 4 * VICTIM_PAGE;
	if (ioctl((int)fd, UFFDIO_REGISTER, &range) == 0)
		mapping("userfaultfd-range", area);
}

/* Signed with a key, at both ends. */
static void open_signed(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct tcp_md5sig key = {.tcpm_keylen = 6, .tcpm_key = "secret"};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

	memcpy(&key.tcpm_addr, &address, sizeof(address));
	if (setsockopt(listener, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)) == 0 &&
	    setsockopt(client, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)) == 0 &&
	    bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
	    getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
	    connect(client, (struct sockaddr *)&address, size) == 0) {
		descriptor("tcp-signed", client);
		descriptor("tcp-signed", accept(listener, NULL, NULL));
	}
	close(listener);
}

static void open_sockets(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	int accepted = -1, one = 1;

	descriptor("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	descriptor("mptcp", socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
	descriptor("alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
	if (bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
	    getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
	    connect(client, (struct sockaddr *)&address, size) == 0)
		accepted = accept(listener, NULL, NULL);
	descriptor("tcp-ulp", setsockopt(accepted, IPPROTO_TCP, TCP_ULP, "tls", 3) < 0 ? -1 : accepted);
	descriptor("tcp-repair", setsockopt(client, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one)) < 0 ? -1 : client);
	close(listener);
}

static void open_packet_ring(void)
{
	struct tpacket_req size = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &size, sizeof(size)) < 0)
		return;
	descriptor("packet", fd);
	mapping("packet-ring", mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

static int other_namespace(void)
{
	int own = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC), other;

	if (own < 0 || unshare(CLONE_NEWUTS) < 0)
		return -1;
	other = open("/proc/self/ns/uts", O_RDONLY);
	MUST(setns(own, CLONE_NEWUTS) == 0 && close(own) == 0);
	return other;
}

static void open_others(void)
{
	struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof(event), .config = PERF_COUNT_SW_PAGE_FAULTS};
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};

	long perf = syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);

	descriptor("pidfd", syscall(SYS_pidfd_open, 1, 0));
	descriptor("perf", perf);
	mapping("perf-ring", mmap(NULL, 2 * VICTIM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (int)perf, 0));
	descriptor("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map)));
	descriptor("landlock", syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0));
	descriptor("fsopen", fsopen("tmpfs", 0));
	/* Its path and inode are those of the root directory. */
	descriptor("mount", open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE));
	descriptor("namespace", other_namespace());
	descriptor("console", open("/dev/tty1", O_RDWR | O_NOCTTY | O_NONBLOCK));
	descriptor("serial", open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK));
	descriptor("kvm", open("/dev/kvm", O_RDWR));
}

static void open_files(const struct victim *v)
{
	int watched = open(victim_path(v, "."), O_RDONLY | O_DIRECTORY), owned = eventfd(0, 0);
	int leased = open(victim_path(v, "leased"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	int asked = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), notify = inotify_init1(0);
	int gone = open(victim_path(v, "gone"), O_RDWR | O_CREAT, 0644), removed;

	MUST(close(open(victim_path(v, "asked"), O_RDWR | O_CREAT, 0644)) == 0);
	if (asked >= 0 && fanotify_mark(asked, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, victim_path(v, "asked")) == 0)
		descriptor("fanotify", asked);
	if (notify >= 0 && inotify_add_watch(notify, victim_path(v, "gone"), IN_ACCESS) >= 0)
		descriptor("inotify", notify);
	MUST(mkdir(victim_path(v, "removed"), 0755) == 0);
	removed = open(victim_path(v, "removed"), O_RDONLY | O_DIRECTORY);
	MUST(rmdir(victim_path(v, "removed")) == 0);
	descriptor("directory", removed);
	descriptor("proc", open("/proc/1/status", O_RDONLY));
	MUST(gone >= 0 && unlink(victim_path(v, "gone")) == 0);
	MUST(signal(SIGIO, SIG_IGN) != SIG_ERR && watched >= 0 && owned >= 0 && leased >= 0);
	descriptor("dnotify", fcntl(watched, F_NOTIFY, DN_CREATE | DN_MULTISHOT) < 0 ? -1 : watched);
	descriptor("owner", fcntl(owned, F_SETOWN, 1) < 0 ? -1 : owned);
	/* Somebody asks for it: the lease is being broken. */
	if (fcntl(leased, F_SETLEASE, F_WRLCK) < 0 || open(victim_path(v, "leased"), O_RDONLY | O_NONBLOCK) >= 0)
		return;
	descriptor("leased", leased);
}

static void open_memory(void)
{
	long secret = syscall(SYS_memfd_secret, 0);

	mapping("hugetlb", mmap(NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0));
	descriptor("secret", secret);
	if (secret >= 0 && ftruncate((int)secret, (off_t)VICTIM_PAGE) == 0)
		mapping("secret-memory", mmap(NULL, VICTIM_PAGE, PROT_READ, MAP_SHARED, (int)secret, 0));
}

static void become(void)
{
	struct sock_filter ask[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
				    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
				    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog filter = {.len = 4, .filter = ask};
	long listener;
	listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
	if (listener >= 0)
		fprintf(kinds, "seccomp process -\n");
	descriptor("seccomp-listener", listener);
}

static bool verify(struct victim *v, void *context)
{
	return true;
}

int main(int argc, char **argv)
{
	struct victim v;

	victim_start(&v, argc, argv);
	kinds = fopen(victim_path(&v, "kinds"), "we");
	MUST(kinds != NULL);
	open_rings();
	open_faults();
	open_signed();
	open_sockets();
	open_packet_ring();
	open_others();
	open_files(&v);
	open_memory();
	become();
	MUST(fclose(kinds) == 0);
	victim_run(&v, verify, NULL);
}
