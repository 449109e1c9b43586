# SPDX-License-Identifier: LGPL-2.1-or-later
"""stress-ng with its verify mode on: two instances of each stressor, moved there and back while they run, then ended as Ctrl-C
does. A stressor that found wrong content, a wrong result or a failing call says so, and the test fails.

Left out: what stress-ng itself skips here (no such hardware, file system or protocol), what docs/coverage.md says is refused,
stressors that unplug memory or fill all PIDs of the machine, and those that do not end by a signal even when nobody moves them.
Besides: utime, which sets the time of a file back that it has open, so that the target takes its file for an older one and
refuses; mlock and open, with more shared memory and files than a process may have open; and, for the time that they take
and the deadlines that they miss with it, mmapfork, zombie, pty and sockpair.
"""
import os

import pytest
from hosts import wait_until
from pagestream import PageServer, send
from runtimes import StressNg

# In groups: a page server serves a group, so that starting it costs little.
STRESSORS = {
    "cpu": ["atomic", "bsearch", "fp", "hash", "matrix", "qsort", "vecmath", "zlib"],
    "memory": ["fault", "memcpy", "mincore", "mmapfixed", "mremap", "pagemove", "str", "vm-addr"],
    "process": ["dup", "ioprio", "itimer", "nice", "prctl", "schedpolicy", "sem", "session", "sigabrt", "sigchld", "signal",
                "sigtrap", "sigpending", "vfork"],
    "files": ["access", "chmod", "close", "dentry", "fcntl", "fstat", "getdent", "inotify", "lockofd", "rename",
              "xattr"],
    "kernel": ["get", "getrandom", "poll", "sem-sysv", "sendfile", "splice", "sysinfo", "timer", "timerfd", "yield"],
}
# With PAGESTREAM_SOAK=1: all that go, some of them for half a minute, as they leave other programs little of the machine.
SOAK = ["af-alg", "affinity", "aio", "branch", "cache", "cacheline", "cap", "chdir", "chown", "chroot", "context", "copy-file",
        "crypt", "dekker", "dir", "dirdeep", "dnotify", "exit-group", "far-branch", "fifo", "file-ioctl", "flock",
        "flushcache", "fpunch", "fsize", "full", "funccall", "funcret", "futex", "goto", "heapsort", "hrtimers", "hsearch",
        "icache", "inode-flags", "jpeg", "judy", "kcmp", "kill", "l1cache", "landlock", "link", "list", "llc-affinity",
        "lockbus", "lockf", "longjmp", "lsearch", "madvise", "malloc", "matrix-3d", "mcontend", "membarrier", "memfd",
        "memrate", "memthrash", "mergesort", "misaligned", "mknod", "mmapaddr", "mmapmany", "mprotect", "msg", "msync",
        "msyncmany", "munmap", "mutex", "nanosleep", "nop", "null", "personality", "peterson", "pkey", "prefetch", "pthread",
        "radixsort", "randlist", "rawsock", "readahead", "regs", "remap", "resched", "ring-pipe", "rmap", "rotate", "seal",
        "set", "shellsort", "sigfd", "sigfpe", "sigio", "signest", "sigsegv", "sigsuspend", "skiplist", "sleep",
        "sparsematrix", "stackmmap", "stream", "symlink", "syncload", "tmpfs", "tree", "tsearch", "tun", "udp", "urandom",
        "vdso", "vecfp", "vecshuf", "vecwide", "vm-splice", "wait", "waitcpu", "wcs", "x86cpuid", "zero"]
if os.environ.get("PAGESTREAM_SOAK"):
    STRESSORS.update({f"soak-{i}": SOAK[i::12] for i in range(12)})


@pytest.mark.parametrize("group", STRESSORS)
def test_stressors(two_hosts, keys, group):
    a, b, _ = two_hosts
    failures = []
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for stressor in STRESSORS[group]:
            with StressNg(a, stressor) as stress:
                wait_until(lambda: len(a.tree(stress.pid)) >= 3, 20, f"instances of {stressor}")
                for source, target, server, mode in ((a, b, on_b, "hybrid"), (b, a, on_a, "postcopy")):
                    result = send(source, server, stress.pid, mode=mode)
                    if result.status != 0:
                        failures.append(f"{stressor}: {result.text()}")
                        break
                    stress.host = target
                else:
                    try:
                        stress.finish()
                    except (AssertionError, TimeoutError) as e:
                        failures.append(f"{stressor}: {e}")
    assert not failures, "\n\n".join(failures)
