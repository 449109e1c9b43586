# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every victim passes its own checks when nobody moves it, and looks the same between checks."""
import time

import pytest

import snapshot

# Name and arguments. A second line with other arguments is a test of its own.
VICTIMS = [
    ("unixflight",), ("datagrams",), ("netlinks",), ("packets",), ("tun",),
    ("mem-anon",), ("mem-file",), ("mem-stack",), ("mem-heap",), ("mem-guard",), ("mem-shared",),
    ("mem-cow", 8), ("vdso",),
    ("pages", 16, 2, 0), ("pages", 16, 1, 2000), ("tick", 16, 1000, 8),
    ("threads", 4), ("threads", 64), ("amx",), ("syscalls",), ("signals",), ("robust",),
    ("timers",), ("creds",), ("creds", "dumpable"), ("procattr",), ("procattr", "chroot"),
    ("calls",), ("files",), ("deleted",), ("deleted", "map"), ("pipes",), ("fifo",), ("eventfd",), ("epoll",),
    ("timerfd",), ("signalfd",), ("inotify",),
    ("unixpair",), ("listen-tcp",), ("listen-unix",), ("udp",), ("tree",), ("tree", "zombie"), ("pty",), ("pty-queue",), ("pty-session",),
    ("sessions",), ("zombies",), ("tables",), ("clonevm",), ("headless",), ("threadplace",), ("stopped",),
    ("tcp-pairs",),
    ("kinship",),
    ("sysv-shm",), ("sysv-sem",), ("sysv-msg",), ("posix-shm",), ("mqueue",), ("shared-open",),
]


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda v: "-".join(map(str, v)))
def test_victim_alone(host, start_victim, victim):
    one = start_victim(host, *victim)
    one.check()
    before = snapshot.snapshot(host, one.pid)
    assert len(before) > 20
    time.sleep(0.05)
    assert snapshot.diff_settled(before, host, one.pid) == []
    one.check()
    one.check()
    # A check may replace children, but leaves nothing behind.
    assert counts(snapshot.snapshot(host, one.pid)) == counts(before)


@pytest.mark.parametrize("name", ["fifo", "listen-unix"])
def test_private_directory(two_hosts, start_victim, name):
    a, b, _ = two_hosts
    one = start_victim(a, name, private=True)
    one.check()
    one.prepare(b)
    assert (a.path(one.private) != b.path(one.private)) and b.path(one.private).is_dir()
    one.check()


def counts(picture):
    """How many descriptors and threads each process has, whatever its PID."""
    found = {}
    for key in picture:
        pid, kind = key.split("/")[:2]
        found.setdefault(pid, []).append(kind)
    return sorted((kinds.count("fd"), kinds.count("thread")) for kinds in found.values())


def test_diff_sees_a_change(host, start_victim):
    one = start_victim(host, "eventfd")
    before = snapshot.snapshot(host, one.pid)
    assert snapshot.diff(before, before) == []
    changed = {key: value for key, value in before.items() if not key.endswith("/fd/0")}
    assert len(snapshot.diff(before, changed)) == 1


def damage(host, pid, pages):
    """Zeroes some pages in the middle of the largest private writable mapping."""
    best = (0, 0)
    for line in (host.proc(pid) / "maps").read_text().splitlines():
        area, perms, _, _, inode = line.split()[:5]
        if perms == "rw-p" and inode == "0":
            start, end = (int(n, 16) for n in area.split("-"))
            best = max(best, (end - start, start))
    with open(host.proc(pid) / "mem", "r+b", buffering=0) as memory:
        memory.seek(best[1] + best[0] // 2 & ~4095)
        memory.write(bytes(4096 * pages))


@pytest.mark.parametrize("victim", [("pages", 16, 0, 0), ("pages", 16, 2, 1000), ("mem-cow", 8)],
                         ids=lambda v: "-".join(map(str, v)))
def test_damage_is_noticed(host, start_victim, victim):
    one = start_victim(host, *victim)
    one.check()
    damage(host, one.pid, 8)
    with pytest.raises(AssertionError, match=f"victim {victim[0]}: 2 FAIL .*page [0-9]+"):
        one.check()
