# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that share memory (CLONE_VM) while some of them end, or begin another program."""
import contextlib
import signal

import pytest
from hosts import wait_until
from pagestream import PageServer, send, send_start, stop_at
from snapshot import diff_settled, snapshot

MODES = ["hybrid", "postcopy"]


def addresses(host, pid):
    """Where something is mapped, neighbours joined: the same on both hosts, and nothing of ours."""
    runs = []
    for line in (host.proc(pid) / "maps").read_text().splitlines():
        span, mode = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if runs and runs[-1][1] == start and runs[-1][2] == mode:
            runs[-1][1] = end
        else:
            runs.append([start, end, mode])
    return [run for run in runs if run[0] < 1 << 47]


def order_sleep(host, pid):
    """It begins another program."""
    host.kill(pid, signal.SIGUSR2)
    wait_until(lambda: (host.proc(pid) / "comm").read_text() == "sleep\n", 10, "execve")


@pytest.mark.parametrize("mode", MODES)
def test_memory_map(two_hosts, page_server, start_victim, mode):
    a, b, _ = two_hosts
    victim = start_victim(a, "clonevm")
    victim.check(a)
    before = {pid: addresses(a, pid) for pid in a.tree(victim.pid)}
    result = send(a, page_server, victim.pid, mode=mode)
    assert result.status == 0, result.text()
    assert {pid: addresses(b, pid) for pid in b.tree(victim.pid)} == before
    victim.check(b)


@pytest.mark.parametrize("mode", MODES)
def test_memory_changes_hands(two_hosts, keys, start_victim, mode):
    """Between two rounds the owner of a memory is killed, and one that shares another's begins a program."""
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "clonevm")
        victim.check(a)
        leader, owner, heir = (int(word) for word in (victim.dir / "pids").read_text().split())
        job = send_start(a, on_b, victim.pid, mode=mode, env=stop_at("round 3"))
        job.wait_stopped()
        a.kill(owner)
        order_sleep(a, leader)
        job.go_on()
        assert job.wait(60).status == 0, job.text()
        victim.check(b)
        assert (b.proc(leader) / "comm").read_text() == "sleep\n"
        result = send(b, on_a, victim.pid, mode=mode)
        assert result.status == 0, result.text()
        victim.check(a)
        assert heir in a.tree(victim.pid)


def test_rollback(two_hosts, page_server, start_victim):
    """A source that goes on is as it was: both of two remote areas in one memory are gone."""
    a, _, _ = two_hosts
    victim = start_victim(a, "clonevm")
    victim.check(a)
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at("held"))
    job.wait_stopped()
    page_server.kill()
    job.go_on()
    assert job.wait(60).status == 1, job.text()
    assert diff_settled(before, a, victim.pid) == []
    victim.check(a)


def test_killed(two_hosts, page_server, start_victim):
    """migrate is killed while it has remote areas in one memory for several processes."""
    a, _, _ = two_hosts
    victim = start_victim(a, "clonevm")
    victim.check(a)
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at("hand-over"))
    job.wait_stopped()
    job.kill()
    assert diff_settled(before, a, victim.pid) == []
    victim.check(a)


@pytest.mark.parametrize("mode", MODES)
def test_vforks(two_hosts, keys, start_victim, mode):
    """Of a parent that waits for a child of vfork(2) and of the child one is always in the way, but not for long."""
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "vforks")
        victim.check(a)
        for source, target, server in ((a, b, on_b), (b, a, on_a)) * 2:
            result = send(source, server, victim.pid, mode=mode)
            assert result.status == 0, result.text()
            victim.check(target)


@contextlib.contextmanager
def held(victim):
    """A child waits between vfork(2) and execve(2)."""
    (victim.dir / "held").unlink(missing_ok=True)
    (victim.dir / "hold").touch()
    wait_until(lambda: (victim.dir / "held").is_symlink(), 10, "vfork")
    try:
        yield
    finally:
        (victim.dir / "hold").unlink()


def test_vfork_that_does_not_end(two_hosts, page_server, start_victim):
    """Found in the preflight; if it begins later, before the freeze; or by a freeze that does not come about."""
    a, _, _ = two_hosts
    victim = start_victim(a, "vforks")
    victim.check(a)
    with held(victim):
        result = send(a, page_server, victim.pid)
        assert result.status == 1 and "child of vfork(2)" in result.text(), result.text()
    victim.check(a)
    for point in ("round 2", "freeze"):
        job = send_start(a, page_server, victim.pid, env=stop_at(point))
        job.wait_stopped()
        with held(victim):
            job.go_on()
            assert job.wait(60).status == 1 and "child of vfork(2)" in job.text(), job.text()
            assert point == "freeze" or job.json["downtime_ms"] == 0, job.text()
        victim.check(a)
    result = send(a, page_server, victim.pid)
    assert result.status == 0, result.text()
