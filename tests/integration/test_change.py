# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that becomes something else at the worst moments of a move."""
import contextlib
import os
import pathlib

import pytest
from hosts import wait_until
from pagestream import PageServer, send, send_start, stop_at

KINDS = ["dropped", "cut", "file", "anonymous", "offset"]


def change(victim):
    (victim.dir / "change").touch()
    wait_until((victim.dir / "changed").exists, 10, "the victim to change its memory")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["hybrid", "precopy"])
def test_between_rounds(two_hosts, keys, start_victim, mode, kind):
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", kind)
    with PageServer(b, keys) as server:
        job = send_start(a, server, victim.pid, mode=mode, env=stop_at("round 2"))
        job.wait_stopped()
        change(victim)
        job.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["hybrid", "precopy"])
def test_between_layout_and_scan(two_hosts, keys, start_victim, mode, kind):
    """The target has laid out what is there no more when its pages are looked at."""
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", kind)
    with PageServer(b, keys, env=stop_at("laid out")) as server:
        job = send_start(a, server, victim.pid, mode=mode)
        server.wait_stopped()
        change(victim)
        server.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)


@pytest.mark.parametrize("mode", ["hybrid", "precopy", "postcopy"])
def test_page_without_content(two_hosts, keys, start_victim, mode):
    """It is not moved as zeros."""
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", "poisoned")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid, mode=mode)
        assert result.status == 1, result.text()
        assert "hardware error" in result.stderr, result.text()
    victim.check(a)


def test_file_in_place_of_a_socket(two_hosts, keys, start_victim):
    """What a target has where a UNIX socket of the tree is to be is not overwritten."""
    a, b, _ = two_hosts
    victim = start_victim(a, "listen-unix", private=True)
    sockets = [entry.name for entry in a.path(victim.private).iterdir() if entry.is_socket()]
    victim.prepare(b)
    precious = b.path(victim.private) / sockets[0]
    precious.write_text("precious")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid)
        assert precious.is_file() and precious.read_text() == "precious"
        assert result.status == 1 and "there is something else at" in result.stderr, result.text()
        victim.check(a)
        precious.unlink()
        assert send(a, server, victim.pid).status == 0
    victim.check(b)


@contextlib.contextmanager
def slow_disk(host, victim):
    """Each read of the victim takes some 16 ms, so that one is always under way; without cgroup v1's blkio, none does."""
    group = pathlib.Path(f"/sys/fs/cgroup/blkio/{victim.dir.name}")
    device = os.stat(victim.dir).st_dev
    try:
        group.mkdir()
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            (group / "blkio.throttle.read_bps_device").write_text(f"{os.major(device)}:{os.minor(device)} {1 << 20}")
            (group / "cgroup.procs").write_text(str(host.pids()[victim.pid]))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


@pytest.mark.parametrize("mode", ["hybrid", "precopy"])
def test_reads_past_the_page_table(two_hosts, keys, start_victim, mode):
    """O_DIRECT: no fault tells of what such a read writes."""
    a, b, _ = two_hosts
    victim = start_victim(a, "direct")
    with PageServer(b, keys) as server:
        with slow_disk(a, victim):
            result = send(a, server, victim.pid, mode=mode)
        assert result.status == 0, result.text()
    victim.check(b)


def test_reads_past_the_page_table_late(two_hosts, keys, start_victim):
    """The same with a file that is opened so after the preflight."""
    a, b, _ = two_hosts
    victim = start_victim(a, "direct", "late")
    with PageServer(b, keys) as server:
        job = send_start(a, server, victim.pid, mode="precopy", env=stop_at("round 2"))
        job.wait_stopped()
        (victim.dir / "direct").touch()
        job.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_locked_beside_unlocked(two_hosts, keys, start_victim, mode):
    """To lock memory on the target, all of it has to be there: none of it can come on demand."""
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", "locked")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid, mode=mode)
        assert result.status == 0, result.text()
    victim.check(b)
