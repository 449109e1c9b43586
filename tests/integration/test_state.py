# SPDX-License-Identifier: LGPL-2.1-or-later
"""One victim for each kind of state: moved to the other host and back, checking itself after each move."""
import pytest
from pagestream import PageServer, send

VICTIMS = [
    "pty-queue",
    "unixflight", "datagrams", "netlinks", "packets", "tun",
    "mem-anon", "mem-file", "mem-stack", "mem-heap", "mem-guard", "mem-shared", "mem-cow:8",
    "mem-churn:5", "vdso",
    "threads:4", "threads:64", "amx", "syscalls", "signals", "robust",
    "timers", "clocks", "creds", "procattr", "settings", "seccomp", "seccomp:sync",
    "files", "deleted", "deleted:map", "pipes", "fifo", "eventfd", "epoll", "timerfd", "signalfd", "inotify", "unixpair",
    "sysv-shm", "sysv-sem", "sysv-msg", "posix-shm", "mqueue", "shared-open",
    "listen-tcp", "listen-unix", "udp", "tree", "pty", "pty-session",
    "tcp-pairs",
    "locks", "leases", "procfiles", "epoll-far", "aio", "fanotify", "uring",
    "uring-objects:files", "uring-objects:buffers", "uring-objects:eventfd", "uring-objects:counts",
    "tree:zombie", "sessions", "zombies", "tables", "clonevm", "headless", "threadplace", "stopped", "kinship",
]
PRIVATE = {"fanotify", "fifo", "leases", "listen-unix", "locks", "unixflight"}  # have an object in the file system that each host needs for itself


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
@pytest.mark.parametrize("kind", VICTIMS)
def test_state(two_hosts, keys, start_victim, kind, mode):
    a, b, _ = two_hosts
    name, *args = kind.split(":")
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, name, *args, private=name in PRIVATE)
        victim.check(a)
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            if name in PRIVATE:
                victim.prepare(target)
            members = set(source.tree(victim.pid)[1:])
            result = send(source, server, victim.pid, mode=mode)
            assert result.status == 0, result.text() + victim.log()
            left = members & set(source.pids())
            assert not left, f"PIDs {sorted(left)} are still there after the move"
            victim.host = target
            victim.check(target)
