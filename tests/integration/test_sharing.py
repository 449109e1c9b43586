# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that parent and child share copy-on-write is shared on the target as well."""
import pytest
from hosts import wait_until
from pagestream import send, send_start
from programs import Redis

MODES = ["precopy", "hybrid", "postcopy"]


def memory_kib(host, root):
    """Anonymous memory that the tree has: each page once, however many processes share it."""
    return sum(int(line.split()[1]) for pid in host.tree(root)
               for line in (host.proc(pid) / "smaps_rollup").read_text().splitlines()
               if line.startswith("Pss_Anon:"))


def no_more_than(host, root, before):
    """The kernel's own sums are rounded and pages are freed some time after a process has let go."""
    try:
        wait_until(lambda: memory_kib(host, root) <= before * 1.05, 3, "as little memory")
    except TimeoutError:
        raise AssertionError(f"{memory_kib(host, root)} KiB on the target, {before} on the source") from None


@pytest.mark.parametrize("mode", MODES)
def test_children(two_hosts, page_server, start_victim, mode):
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-cow", "32", "4")
    victim.check(a)
    before = memory_kib(a, victim.pid)
    result = send(a, page_server, victim.pid, mode=mode)
    assert result.status == 0, result.text()
    no_more_than(b, victim.pid, before)
    victim.check(b)


@pytest.mark.parametrize("mode", MODES)
def test_children_come_and_go(two_hosts, page_server, start_victim, mode):
    """One forked after its parent's pages were sent, one that ends before its own were."""
    a, b, net = two_hosts
    victim = start_victim(a, "mem-cow", "24", "3")
    victim.check(a)
    net.limit("20mbit")
    job = send_start(a, page_server, victim.pid, mode=mode)
    wait_until(lambda: b.alive(victim.pid), 20, "the first round has begun")
    (victim.dir / "fork").touch()
    victim.check(a)
    (victim.dir / "fork").touch()
    (victim.dir / "end").touch()
    victim.check(a)
    assert job.status is None, job.text()
    before = memory_kib(a, victim.pid)
    net.limit("2gbit")
    job.wait(120)
    assert job.status == 0, job.text()
    assert len(b.tree(victim.pid)) == 1 + 3 + 2 - 1
    no_more_than(b, victim.pid, before)
    victim.check(b)


@pytest.mark.parametrize("mode", MODES)
def test_redis_that_saves(two_hosts, page_server, mode):
    a, b, _ = two_hosts
    with Redis(a, mib=64) as server:
        server.load()
        digest = server.digest()
        server.start_saving()
        before = memory_kib(a, server.pid)
        result = send(a, page_server, server.pid, mode=mode, tcp_close=True)
        assert result.status == 0, result.text()
        server.host = b
        assert len(b.tree(server.pid)) == 2, "the child that saves has come along"
        no_more_than(b, server.pid, before)
        assert server.saved() == "ok"
        assert server.digest() == digest
