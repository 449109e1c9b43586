# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree that runs on the target while pages of it are still on the source."""
import signal

import pytest
from hosts import wait_until
from pagestream import migrate, send_start


def running(a, b, victim, job):
    return b.alive(victim.pid) and "running" in migrate(a, "status", state_dir=job.state_dir).stdout


def send_slowly(hosts, page_server, victim):
    """Returns when it runs on the target, with pages missing."""
    a, b, net = hosts
    net.limit("40mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy")
    wait_until(lambda: running(a, b, victim, job), 30, "it runs on the target")
    return job


def missing(b, pid):
    """Whether mappings of the process wait for pages: the flag um in its smaps."""
    return any(" um " in line for line in (b.proc(pid) / "smaps").read_text().splitlines()
               if line.startswith("VmFlags:"))


@pytest.mark.parametrize("how", ["drop", "down", "kill -9 migrate"])
def test_memory_changes_without_source(two_hosts, page_server, start_victim, how):
    """fork, munmap, mremap and madvise are not held up by a source that is away, and are not forgotten."""
    a, b, net = two_hosts
    victim = start_victim(a, "mem-events", "64")
    victim.check(a)
    job = send_slowly(two_hosts, page_server, victim)
    victim.check(b)
    if how == "kill -9 migrate":
        job.kill(signal.SIGKILL)
        job.process.wait(20)
        wait_until(lambda: "is broken" in page_server.err.text(), 20, "the target has noticed")
    else:
        net.cut(how)
    victim.check(b, seconds=20)
    assert int(victim.note["change_ms"]) < 2000, victim.note
    assert missing(b, victim.pid)
    net.restore()
    net.limit("1gbit")
    if how == "kill -9 migrate":
        session = migrate(a, "status", state_dir=job.state_dir).stdout.split()[0]
        result = migrate(a, "resolve", session, state_dir=job.state_dir, seconds=120)
        assert result.returncode == 0, result.stdout + result.stderr
        wait_until(lambda: not a.alive(victim.pid), 20, "the source's copy is ended")
    else:
        job.wait(120)
        assert job.status == 0, job.text()
    victim.check(b)
    assert not missing(b, victim.pid)


def processes(host, name):
    """PIDs on the host whose command line begins with the name."""
    found = []
    for pid, outer in host.pids().items():
        try:
            words = open(f"/proc/{outer}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        if words[0].decode() == name:
            found.append(pid)
    return found


def private_kib(host, pid):
    """Memory that the process has for itself."""
    return sum(int(line.split()[1]) for line in (host.proc(pid) / "smaps_rollup").read_text().splitlines()
               if line.startswith(("Private_Dirty:", "Private_Clean:", "Swap:")))


def test_keeper(two_hosts, page_server, start_victim):
    """Beside the server there is a small process of init's that says what it is, and goes when all pages are there."""
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "48", "1", "500")
    job = send_slowly(two_hosts, page_server, victim)
    keeper, = processes(b, "pagestream-keeper")
    status = (b.proc(keeper) / "status").read_text()
    assert "Name:\tpagestream-keep" in status
    assert f"PPid:\t{b.init}\n" in status
    assert private_kib(b, keeper) < 2048
    net.limit("1gbit")
    job.wait(120)
    assert job.status == 0, job.text()
    wait_until(lambda: not processes(b, "pagestream-keeper"), 10, "the keeper has ended")
    victim.check(b)


@pytest.mark.parametrize("mode", ["precopy", "hybrid"])
def test_no_keeper_stays(two_hosts, page_server, start_victim, mode):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "16", "1", "0")
    job = send_start(a, page_server, victim.pid, mode=mode).wait(60)
    assert job.status == 0, job.text()
    wait_until(lambda: not processes(b, "pagestream-keeper"), 10, "no keeper is left")
    victim.check(b)


def test_end_of_a_holder(two_hosts, page_server, start_victim):
    """A thread and a process end while pages are missing, with mutexes held that the kernel has to find for the others."""
    a, b, _ = two_hosts
    victim = start_victim(a, "robust")
    victim.check(a)
    sending = send_start(a, page_server, victim.pid, mode="postcopy", max_bandwidth="128k")
    wait_until(lambda: b.alive(victim.pid) and b.state(victim.pid) in "SR", 30, "the victim to run there")
    victim.check(b)
    assert sending.wait().status == 0, sending.text()
    assert sending.json["pages_postcopy"] > 0, sending.json
    victim.check(b)


def test_memory_calls(two_hosts, page_server, start_victim):
    """Guards, seals, locks, protections and forks are right on pages that come later."""
    a, b, net = two_hosts
    victim = start_victim(a, "mem-late", "32")
    victim.check(a)
    job = send_slowly(two_hosts, page_server, victim)
    victim.check(b)
    victim.check(b)
    assert missing(b, victim.pid)
    net.limit("1gbit")
    job.wait(120)
    assert job.status == 0, job.text()
    victim.check(b)
    assert not missing(b, victim.pid)
    victim.check(b)


def test_keeper_killed(two_hosts, page_server, start_victim):
    """The server says that its keeper has gone, and the new one is as good: nothing is lost with the server."""
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "48", "1", "500")
    job = send_slowly(two_hosts, page_server, victim)
    keeper, = processes(b, "pagestream-keeper")
    b.kill(keeper, signal.SIGKILL)
    wait_until(lambda: "another one has been started" in page_server.err.text(), 10, "the server has noticed")
    other, = processes(b, "pagestream-keeper")
    assert other != keeper
    page_server.kill()
    assert missing(b, victim.pid)
    page_server.start()
    net.limit("1gbit")
    job.wait(120)
    assert job.status == 0, job.text()
    wait_until(lambda: not processes(b, "pagestream-keeper"), 10, "the keeper has ended")
    victim.check(b)
