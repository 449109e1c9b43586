# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files and descriptors, where one victim that moves there and back does not show it."""
import os
import shutil

from pagestream import PageServer, send


def test_fanotify_events_that_wait(two_hosts, page_server, start_victim):
    """They cannot be moved and are not lost: the move is refused at the freeze, and done when they have been read."""
    a, b, _ = two_hosts
    victim = start_victim(a, "fanotify", private=True)
    with open(a.path(victim.private) / "file", "a") as file:
        file.write("x")
    victim.prepare(b)
    result = send(a, page_server, victim.pid)
    assert result.status == 1, result.text()
    assert "events wait in it, which cannot be moved" in result.stderr, result.text()
    victim.check(a)
    victim.prepare(b)
    result = send(a, page_server, victim.pid)
    assert result.status == 0, result.text() + victim.log()
    victim.check(b)


def test_few_descriptors_at_first(two_hosts, page_server, start_victim):
    """A shell's soft limit, which may be less than what a tree has open, is no limit for migrate: it raises it."""
    a, b, _ = two_hosts
    victim = start_victim(a, "files")
    victim.prepare(b)
    result = send(a, page_server, victim.pid, prefix=["/usr/bin/prlimit", "--nofile=16:4096"])
    assert result.status == 0, result.text() + victim.log()
    victim.check(b)


def test_leased_on_both_hosts(two_hosts, page_server, start_victim):
    """A file that both hosts have: to open it there would break the lease here, so it is refused before anything happens."""
    a, b, _ = two_hosts
    victim = start_victim(a, "leases")
    result = send(a, page_server, victim.pid)
    assert result.status == 1, result.text()
    for name in "reading", "writing":
        assert f"{victim.dir}/{name}: a process here has a lease on it" in result.stderr, result.text()
    victim.check(a)


def test_io_uring_in_flight(two_hosts, page_server, start_victim):
    """A request that waits is waited for, and then a reason to refuse, before anything is stopped."""
    a, b, _ = two_hosts
    victim = start_victim(a, "uring", "busy")
    result = send(a, page_server, victim.pid)
    assert result.status == 1, result.text()
    assert "requests are in flight in it" in result.stderr, result.text()
    victim.check(a)
    victim.check(a)


def test_files_on_overlayfs(two_hosts, keys, start_victim):
    """Of a layer below, copied up, mapped: the numbers of device and inode are others in stat(2) and in /proc/PID/maps."""
    a, b, _ = two_hosts
    for host in a, b:
        host.run(["sh", "-c", "mkdir -p /mnt/o/low /mnt/o/up /mnt/o/work /mnt/m"])
        for name in "lower", "upper":
            path = host.path(f"/mnt/o/low/{name}")
            path.write_bytes(bytes(range(250)) * 80)
            os.utime(path, (1000000000, 1000000000))
        host.run(["mount", "-t", "overlay", "overlay", "-o", "lowerdir=/mnt/o/low,upperdir=/mnt/o/up,workdir=/mnt/o/work",
                  "/mnt/m"])
    try:
        victim = start_victim(a, "overlay", "/mnt/m")
        victim.check(a)
        shutil.copy2(a.path("/mnt/m/upper"), b.path("/mnt/m/upper"))
        with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
            for source, target, server, mode in (a, b, on_b, "hybrid"), (b, a, on_a, "postcopy"):
                result = send(source, server, victim.pid, mode=mode)
                assert result.status == 0, result.text() + victim.log()
                victim.check(target)
        victim.stop()
    finally:
        for host in a, b:
            host.run(["umount", "/mnt/m"])
            host.run(["rm", "-r", "/mnt/o", "/mnt/m"])


def test_a_name_that_is_not_found(two_hosts, page_server):
    """The one name that a file has left is under a mount, where a search does not come."""
    a, b, _ = two_hosts
    a.run(["sh", "-c", "mkdir -p /mnt/n/over && echo x >/mnt/n/file && ln /mnt/n/file /mnt/n/over/other"])
    pid = a.spawn_daemon(["/bin/sleep", "100"], stdin="/mnt/n/file")
    a.run(["sh", "-c", "rm /mnt/n/file && mount -t tmpfs tmpfs /mnt/n/over"])
    try:
        result = send(a, page_server, pid)
        assert result.status == 1, result.text()
        assert "the name that it still has is not found" in result.stderr, result.text()
        assert a.alive(pid)
    finally:
        a.kill(pid)
        a.run(["sh", "-c", "umount /mnt/n/over && rm -r /mnt/n"])
