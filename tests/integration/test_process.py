# SPDX-License-Identifier: LGPL-2.1-or-later
"""What belongs to a process or thread beyond memory and files, where a victim cannot see for itself that it is right."""
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest
from checkpoint import Place, dump, restore, wait_gone
from hosts import victim_path, wait_until
from pagestream import PageServer, send, send_start, stop_at
from refusal import CGROUPS, Unharmed

LOG = 2  # SECCOMP_FILTER_FLAG_LOG


@pytest.fixture
def place():
    with Place() as made:
        yield made


def crit(directory, name):
    done = subprocess.run(["crit", "decode", "-i", directory / name], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)["entries"]


@pytest.mark.skipif(not shutil.which("crit"), reason="crit (Debian package criu) is not installed")
def test_seccomp_flags(two_hosts, keys, start_victim, place):
    """Which filters are logged: only a tracer can tell."""
    a, b, _ = two_hosts
    victim = start_victim(a, "seccomp")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid)
    assert result.status == 0, result.text()
    victim.host = b
    directory = place.make()
    dump(b, place, victim.pid, directory, "--leave-running")
    filters = crit(directory, "seccomp.img")[0]["seccomp_filters"]
    assert [(one.get("prev"), one.get("flags", 0)) for one in filters] == [(None, 0), (0, LOG), (1, 0)], filters
    victim.check(b)


# Clocks

BOOT_ID = "/proc/sys/kernel/random/boot_id"
DAY = 86400


def shifted(monotonic, boottime):
    """A command in front of another: in a time namespace."""
    return ["unshare", "-T", "--monotonic", str(monotonic), "--boottime", str(boottime), "--"]


def new_machine(host, tmp_path, name):
    """The host takes itself for a machine of its own: only its boot id tells."""
    path = tmp_path / f"boot-{name}"
    path.write_text(f"{name * 8}-0000-4000-8000-{name * 12}\n")
    host.run(["mount", "--bind", path, BOOT_ID])


def offsets(host, pid):
    """(monotonic, boottime) of a process against the machine's clocks, in s."""
    lines = (host.proc(pid) / "timens_offsets").read_text().splitlines()
    return tuple(int(line.split()[1]) + int(line.split()[2]) / 1e9 for line in lines)


# Clocks of the source's host; then of the programs that move, on each side. Against the machine's, monotonic and boottime.
@pytest.mark.parametrize("machines,clocks,sender,server", [
    ("one", (100 * DAY, 200 * DAY), None, None),
    ("one", (-600, -500), (DAY, 2 * DAY), (-300, 5)),
    ("two", (100 * DAY, 200 * DAY), None, None),
    ("two", (-600, -500), None, None),
    ("two", (100 * DAY, -500), (DAY, 2 * DAY), (-300, 5)),
], ids=["one", "one-movers", "ahead", "behind", "movers"])
def test_clocks(two_hosts, keys, start_victim, tmp_path, machines, clocks, sender, server):
    """From a host with other clocks, and back; by a program that is in a time namespace itself, too."""
    a, b, _ = two_hosts
    if machines == "two":
        new_machine(b, tmp_path, "b")
    prefix = shifted(*server) if server else ()
    with PageServer(a, keys) as on_a, PageServer(b, keys, prefix=prefix) as on_b:
        victim = start_victim(a, "clocks", command=[*shifted(*clocks), victim_path("clocks")])
        victim.check(a)
        for source, target, page_server in ((a, b, on_b), (b, a, on_a)):
            before = offsets(source, victim.pid)
            result = send(source, page_server, victim.pid, prefix=shifted(*sender) if sender else ())
            assert result.status == 0, result.text()
            victim.host = target
            victim.check(target)
            assert int(victim.note["jump_ms"]) < 10_000, victim.note
            after = offsets(target, victim.pid)
            # On another machine the clocks may go ahead by what an answer takes.
            slack = 0 if machines == "one" else 5
            assert all(0 <= now - then <= slack for now, then in zip(after, before)), (before, after)


@pytest.mark.parametrize("point", ["stopped", "hand-over"])
def test_timers_run_out_meanwhile(two_hosts, keys, start_victim, point):
    """The tree stands still for longer than its timers have left: before they are looked at, or after that."""
    a, b, _ = two_hosts
    victim = start_victim(a, "clocks", "1500")
    victim.check(a)
    with PageServer(b, keys) as server:
        job = send_start(a, server, victim.pid, env=stop_at(point))
        job.wait_stopped()
        end = time.monotonic() + 1.6
        wait_until(lambda: time.monotonic() > end, 5, "the time of the timers")
        job.go_on()
        assert job.wait().status == 0, job.text()
    victim.check(b)
    assert int(victim.note["late_ms"]) < 700, victim.note


def test_same_clocks(two_hosts, keys, start_victim):
    """Nothing is done where nothing differs."""
    a, b, _ = two_hosts
    victim = start_victim(a, "clocks")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid)
    assert result.status == 0 and "note:" not in result.stderr, result.text()
    victim.check(b)
    assert os.readlink(b.proc(victim.pid) / "ns/time") == os.readlink("/proc/self/ns/time")


@pytest.mark.parametrize("words", [("-d",), ("-d", "-S")], ids=["detached", "sibling"])
def test_checkpoint_from_elsewhere(two_hosts, start_victim, tmp_path, place, words):
    """A checkpoint goes on from the time of its dump."""
    a, b, _ = two_hosts
    new_machine(b, tmp_path, "b")
    victim = start_victim(a, "clocks", command=[*shifted(100 * DAY, 200 * DAY), victim_path("clocks")])
    victim.check(a)
    before = offsets(a, victim.pid)
    directory = place.make()
    dump(a, place, victim.pid, directory)
    wait_gone(a, [victim.pid])
    restore(b, place, directory, *words[1:])
    victim.check(b)
    assert all(-60 < now - then <= 0 for now, then in zip(offsets(b, victim.pid), before))


def test_time_of_a_part(two_hosts, keys, page_server, tmp_path):
    """Two clocks in one tree."""
    a, b, _ = two_hosts
    pid = a.spawn_daemon(["/bin/sh", "-c", " ".join([*shifted(5, 5), "sleep", "1000"]) + "; :"])
    wait_until(lambda: any(pathlib.Path(a.proc(one) / "comm").read_text() == "sleep\n" for one in a.tree(pid)), 10, "a child")
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, pid, state_dir=watch.state), "namespace time", "only a whole tree")
    for one in a.tree(pid):
        a.kill(one)


def test_syscall_dispatch(two_hosts, page_server):
    """A program that handles its own system calls would be asked to handle ours."""
    a, b, _ = two_hosts
    code = ("import ctypes, time\n"
            "selector = ctypes.create_string_buffer(8)\n"
            "assert ctypes.CDLL(None).prctl(59, 1, ctypes.c_ulong(0), ctypes.c_ulong(0), selector) == 0\n"
            "print('ready', flush=True)\n"
            "while True: time.sleep(0.01)\n")
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", code], stdout=page_server.state_dir / "dispatch")
    wait_until(lambda: (page_server.state_dir / "dispatch").read_text() == "ready\n", 10, "a program that handles calls")
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, pid, state_dir=watch.state), f"PID {pid} handles system calls itself")
    assert a.alive(pid)
    a.kill(pid)


def test_notes(two_hosts, keys, start_victim):
    """What is not taken along is said: here the cgroup, and an oom_score_adj that is too low for the target."""
    a, b, _ = two_hosts
    root = next((path for path in CGROUPS if (path / "cgroup.controllers").exists()), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    victim = start_victim(a, "eventfd")
    outer = a.outer_pid(victim.pid)
    cgroup = root / f"noted-{outer}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(outer))
        prefix = ["sh", "-c", 'echo 500 > /proc/self/oom_score_adj; exec "$@"', "sh"]
        with PageServer(b, keys, prefix=prefix) as server:
            result = send(a, server, victim.pid)
        assert result.status == 0, result.text()
        victim.check(b)
        assert f"note: PID {victim.pid}: cgroup /{cgroup.name}: the copy is put" in result.stderr, result.text()
        if not _may_lower_scores():
            assert f"note: PID {victim.pid}: oom_score_adj 0: the copy has 500" in result.stderr, result.text()
    finally:
        victim.stop()
        wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), 10, "an empty cgroup")
        cgroup.rmdir()


def _may_lower_scores():
    """CAP_SYS_RESOURCE."""
    lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return int(lines["CapEff"], 16) >> 24 & 1
