/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * creds DIR [dumpable]: credentials. Different real, effective, saved and file system IDs,
 * supplementary groups, each capability set different, securebits, no_new_privs, and dumpable off
 * (on with the argument). A check reads all of it back and tries what it allows and forbids: a file
 * of root's, a privileged port.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <netinet/in.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define GROUPS 5
#define TEXTS 12

static const gid_t groups[GROUPS] = {1001, 1002, 4000, 65533, 100000};
/* Lines of /proc/self/status that must stay as they were. */
static const char *const names[TEXTS] = {"Uid",	       "Gid",	  "Groups", "CapInh",
					 "CapPrm",     "CapEff",  "CapBnd", "CapAmb",
					 "NoNewPrivs", "Seccomp", "Umask",  "NStgid"};

struct state {
	char texts[TEXTS][256]; /* values of those lines */
	struct __user_cap_data_struct caps[2];
	bool dumpable;
	int securebits;
};

static const struct __user_cap_header_struct caps_header = {.version = _LINUX_CAPABILITY_VERSION_3};

static void caps_setup(struct state *s)
{
	uint64_t permitted =
		1u << CAP_NET_BIND_SERVICE | 1u << CAP_CHOWN | 1u << CAP_KILL | 1u << CAP_SYS_NICE;
	uint64_t effective = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_KILL;
	uint64_t inheritable = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_CHOWN;

	for (int i = 0; i < 2; i++)
		s->caps[i] = (struct __user_cap_data_struct){
			.effective = (uint32_t)(effective >> 32 * i),
			.permitted = (uint32_t)(permitted >> 32 * i),
			.inheritable = (uint32_t)(inheritable >> 32 * i)};
	MUST(syscall(SYS_capset, &caps_header, s->caps) == 0);
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
}

static void setup(const struct victim *v, struct state *s)
{
	int fd = open(victim_path(v, "of-root"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	MUST(fd >= 0 && close(fd) == 0);
	s->dumpable = victim_arg_is(v, "dumpable");
	s->securebits = SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_NOROOT;
	MUST(prctl(PR_CAPBSET_DROP, CAP_MKNOD, 0, 0, 0) == 0 &&
	     prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0) == 0);
	MUST(setgroups(GROUPS, groups) == 0);
	MUST(setresgid(2001, 2002, 2003) == 0);
	MUST(prctl(PR_SET_SECUREBITS, s->securebits, 0, 0, 0) == 0);
	MUST(setresuid(3001, 3002, 3003) == 0);
	setfsuid(3001);
	setfsgid(2003);
	caps_setup(s);
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	MUST(prctl(PR_SET_DUMPABLE, s->dumpable, 0, 0, 0) == 0);
	for (int i = 0; i < TEXTS; i++)
		MUST(victim_status_line("/proc/self/status", names[i], s->texts[i],
					sizeof(s->texts[i])));
}

static bool ids_check(struct victim *v, const struct state *s)
{
	uid_t uid[3];
	gid_t gid[3], list[64];
	struct __user_cap_data_struct caps[2];
	struct __user_cap_header_struct header = caps_header;

	CHECK(v,
	      getresuid(&uid[0], &uid[1], &uid[2]) == 0 && uid[0] == 3001 && uid[1] == 3002 &&
		      uid[2] == 3003,
	      "user IDs are %u %u %u", uid[0], uid[1], uid[2]);
	CHECK(v,
	      getresgid(&gid[0], &gid[1], &gid[2]) == 0 && gid[0] == 2001 && gid[1] == 2002 &&
		      gid[2] == 2003,
	      "group IDs are %u %u %u", gid[0], gid[1], gid[2]);
	CHECK(v, getgroups(64, list) == GROUPS && memcmp(list, groups, sizeof(groups)) == 0,
	      "the groups differ");
	CHECK(v,
	      syscall(SYS_capget, &header, caps) == 0 && memcmp(caps, s->caps, sizeof(caps)) == 0,
	      "capget differs");
	CHECK(v, prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == s->securebits, "securebits are %x, not %x",
	      (unsigned int)prctl(PR_GET_SECUREBITS, 0, 0, 0, 0), (unsigned int)s->securebits);
	CHECK(v, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs is off");
	CHECK(v, prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == s->dumpable, "dumpable is %d",
	      prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	for (int i = 0; i < TEXTS; i++) {
		char text[256] = "";

		CHECK(v,
		      victim_status_line("/proc/self/status", names[i], text, sizeof(text)) &&
			      strcmp(text, s->texts[i]) == 0,
		      "%s is '%s', not '%s'", names[i], text, s->texts[i]);
	}
	return true;
}

static bool verify(struct victim *v, void *context)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons(901),
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct stat st;
	int fd;

	if (!ids_check(v, context))
		return false;
	fd = open(victim_path(v, "of-root"), O_RDONLY | O_CLOEXEC);
	CHECK(v, fd < 0 && errno == EACCES, "a file of root's can be opened");
	fd = open(victim_path(v, "mine"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(v, fd >= 0, "cannot make a file: %m");
	CHECK(v, fstat(fd, &st) == 0 && st.st_uid == 3001 && st.st_gid == 2003,
	      "a new file belongs to %u:%u", st.st_uid, st.st_gid);
	close(fd);
	unlink(victim_path(v, "mine"));
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		victim_fail(v, "CAP_NET_BIND_SERVICE does not help to port 901: %m");
	close(fd);
	CHECK(v, chown(v->dir, 0, 0) < 0 && errno == EPERM,
	      "chown works without CAP_CHOWN being effective");
	return v->reason[0] == '\0';
}

int main(int argc, char **argv)
{
	static struct state s;
	struct victim v;

	victim_start(&v, argc, argv);
	if (getuid() != 0)
		victim_skip(&v, "needs root");
	setup(&v, &s);
	victim_run(&v, verify, &s);
}
