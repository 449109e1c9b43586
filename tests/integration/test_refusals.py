# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes, hosts and objects that cannot be moved: each gets an error that names it, and everything is as it was."""
import os
import pathlib
import sys
import re
import signal
import socket
import struct
import subprocess

import pytest
from hosts import wait_until
from pagestream import PageServer, program, send, send_start
from refusal import CGROUPS, Unharmed

BLOCKER = re.compile(r"migrate: \d+\. (?:PID (\d+): )?(process|descriptor|mapping|session|memory|address|file) (.*?)"
                     r": (.+?); (.+)")
PF_KTHREAD = 0x00200000


def blockers(result):
    """Lines of the list as (pid, kind, object, cause, remedy)."""
    return [match.groups() for match in map(BLOCKER.match, result.stderr.splitlines()) if match]


# Processes


def test_no_such_pid(two_hosts, page_server):
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, 31999, state_dir=watch.state), "no process has PID 31999")


def test_pid_1(two_hosts, page_server):
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, 1, state_dir=watch.state), "PID 1 is the init process")


def test_zombie(two_hosts, page_server):
    a, b, _ = two_hosts
    # The shell becomes a sleep, which does not wait for the child that it has inherited.
    parent = a.spawn_daemon(["/bin/sh", "-c", "(exit 0) & exec sleep 100"])
    wait_until(lambda: [pid for pid in a.tree(parent) if a.state(pid) == "Z"], 10, "a zombie")
    zombie = a.tree(parent)[1]
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, zombie, state_dir=watch.state), f"PID {zombie}",
                      f"has ended and only waits for its parent {parent}")
    assert a.state(zombie) == "Z"
    a.kill(parent)


def test_thread_of_the_kernel():
    """Seen only from outside of the hosts' PID namespaces."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text[text.rindex(")") + 2:].split()[6]) & PF_KTHREAD:
            pid = stat.parent.name
            break
    else:
        pytest.skip("no thread of the kernel is visible in this PID namespace")
    done = subprocess.run([program("migrate"), "send", "--to", "127.0.0.1:1", pid], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"PID {pid} (" in done.stderr and "is a thread of the kernel" in done.stderr, done.stderr


def test_thread_that_is_no_process(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    tids = sorted(int(task.name) for task in (a.proc(victim.pid) / "task").iterdir())
    status = (a.proc(victim.pid) / "task" / str(tids[-1]) / "status").read_text()
    tid = int(re.search(r"^NSpid:.*\s(\d+)$", status, re.M).group(1))
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, tid, state_dir=watch.state), f"PID {tid} is a thread of process")


def test_program_that_started_it(two_hosts, page_server):
    """A shell cannot move itself away under the command that it waits for."""
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server) as watch:
        done = a.run(["/bin/sh", "-c", '"$@" $$; echo status $?', "sh", program("migrate"), "send", "--to",
                      page_server.to, "--tls-dir", page_server.keys.dir, "--state-dir", watch.state])
        assert "status 1" in done.stdout
        assert re.search(r"PID \d+ \(sh\) is an ancestor of this program", done.stderr), done.stderr


def test_programs_of_our_own(two_hosts, keys, page_server, start_victim):
    """migrate, its guardian and pageserver, and a tree that has one of them."""
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "16")
    with PageServer(a, keys) as own, Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, own.pid(), state_dir=watch.state), f"PID {own.pid()} runs ", "/pageserver",
                      "which moves processes and cannot be moved")
        shell = a.popen(["/bin/sh", "-c", '"$@"; :', "sh", program("pageserver"), "--listen", "127.0.0.1:0",
                                 "--tls-dir", keys.dir, "--state-dir", watch.state / "other"], stdout=subprocess.PIPE)
        assert shell.stdout.readline().startswith(b"listening")
        child = next(pid for pid in a.pids() if "pageserver" in _comm(a, pid) and pid != own.pid())
        parent = int(re.search(r"^PPid:\s(\d+)", (a.proc(child) / "status").read_text(), re.M).group(1))
        parent = next(inner for inner, outer in a.pids().items() if outer == parent)
        result = send(a, page_server, parent, state_dir=watch.state)
        watch.refused(result, f"PID {child}: process ", "a program that moves processes cannot be moved")
        a.kill(child, signal.SIGTERM)
        shell.wait(20)
        shell.stdout.close()
        first = send_start(a, page_server, victim.pid, max_bandwidth="200K", state_dir=watch.state)
        wait_until(lambda: list(watch.state.glob("sessions/*.journal")), 20, "the first session")
        mover = first.pid()
        watch.refused(send(a, page_server, mover, state_dir=watch.state), f"PID {mover} runs ", "/migrate")
        guardian = wait_until(lambda: next((p for p in a.pids() if _comm(a, p) == "migrate-guard"), 0), 10, "a guardian")
        watch.refused(send(a, page_server, guardian, state_dir=watch.state), f"PID {guardian} runs ", "/migrate")
        first.kill(signal.SIGINT)
        watch.refused(first.wait())


def test_moved_already(two_hosts, keys, page_server, start_victim):
    """A second move of what the first one is moving, to another page server: only one of them may."""
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "16")
    with PageServer(b, keys, port=7712) as second, Unharmed(a, b, victim, page_server) as watch:
        first = send_start(a, page_server, victim.pid, max_bandwidth="200K", state_dir=watch.state)
        wait_until(lambda: list(watch.state.glob("sessions/*.journal")), 20, "the first session")
        session = next(watch.state.glob("sessions/*.journal")).stem
        result = send(a, second, victim.pid, state_dir=watch.state)
        watch.refused(result, f"PID {victim.pid}: session {session} to {page_server.to}", "it is being moved already",
                      "migrate cancel")
        first.kill(signal.SIGINT)
        watch.refused(first.wait())


def test_traced_already(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    tracer = a.popen(["/usr/bin/strace", "-f", "-o", "/dev/null", "-p", str(victim.pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: "TracerPid:\t0" not in (a.proc(victim.pid) / "status").read_text(), 10, "traced")
        pid = next(pid for pid in a.pids() if _comm(a, pid) == "strace")
        with Unharmed(a, b, victim, page_server) as watch:
            watch.refused(send(a, page_server, victim.pid, state_dir=watch.state), f"tracer PID {pid} (strace)",
                          "end the debugger")
    finally:
        for pid in [pid for pid in a.pids() if _comm(a, pid) == "strace"]:
            a.kill(pid, signal.SIGTERM)
        tracer.wait(20)


def test_frozen(two_hosts, page_server, start_victim):
    """By somebody else, as a paused container is."""
    a, b, _ = two_hosts
    root = next((path for path in CGROUPS if (path / "cgroup.controllers").exists()), None)
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    victim = start_victim(a, "eventfd")
    cgroup = root / f"paused-{a.outer_pid(victim.pid)}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(a.outer_pid(victim.pid)))
        (cgroup / "cgroup.freeze").write_text("1")
        wait_until(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text(), 10, "frozen")
        with Unharmed(a, b, None, page_server) as watch:
            watch.refused(send(a, page_server, victim.pid, state_dir=watch.state), f"cgroup {cgroup.name}",
                          "it is frozen by its cgroup")
        assert "frozen 1" in (cgroup / "cgroup.events").read_text()
        (cgroup / "cgroup.freeze").write_text("0")
        victim.check(a)
    finally:
        (cgroup / "cgroup.freeze").write_text("0")
        victim.stop()
        wait_until(lambda: not (cgroup / "cgroup.procs").read_text(), 10, "an empty cgroup")
        cgroup.rmdir()


def test_32_bit_program(two_hosts, page_server, tmp_path):
    """Written by hand: no compiler for it is needed. It waits in pause(2)."""
    a, b, _ = two_hosts
    code = bytes.fromhex("b81d000000" "cd80" "ebf7")
    header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 0x1000)
    path = tmp_path / "tiny32"
    path.write_bytes(b"\x7fELF\1\1\1" + bytes(9) + header + segment + code)
    path.chmod(0o755)
    try:
        pid = a.spawn_daemon([path])
    except RuntimeError:
        pytest.skip("this kernel runs no 32-bit programs")
    if not a.alive(pid):
        pytest.skip("this kernel runs no 32-bit programs")
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, pid, state_dir=watch.state), f"PID {pid}: process tiny32",
                      "it is no 64-bit program")
    assert a.alive(pid)
    a.kill(pid)


# Objects


def test_every_object_in_one_list(two_hosts, page_server, start_victim):
    """The victim holds one of each kind that cannot be moved: a line for each, with its place, the cause, a way out."""
    a, b, _ = two_hosts
    victim = start_victim(a, "unmovable")
    kinds = [line.split() for line in (victim.dir / "kinds").read_text().splitlines()]
    with Unharmed(a, b, victim, page_server) as watch:
        result = send(a, page_server, victim.pid, state_dir=watch.state)
        watch.refused(result, f"{len(kinds)} objects are in the way")
    listed = blockers(result)
    assert len(listed) == len(kinds), result.text()
    for name, kind, place, *child in kinds:
        wanted = {"descriptor": f"fd {place} -> ", "mapping": f"{place}-", "process": "", "memory": ""}[kind]
        pid = child[0] if child else str(victim.pid)
        lines = [line for line in listed if line[0] == pid and line[1] == kind and line[2].startswith(wanted)]
        assert lines, f"{name} is not in the list\n{result.text()}"
        assert all(len(line[3]) > 10 and len(line[4]) > 10 for line in lines), lines
    for name, word in (("io_uring", "io_uring"), ("io_uring-buffer", "not mapped there"), ("aio-poll", "waits for a descriptor"), ("mptcp", "Multipath TCP"), ("tcp-repair", "TCP_REPAIR"),
                       ("tcp-signed", "segments are signed"),
                       ("seccomp", "seccomp"), ("pty", "setsid"), ("mount", "attached nowhere"),
                       ("perf-ring", "memory of a kernel object"), ("packet-ring", "a packet socket's ring is mapped")):
        if any(name == kind[0] for kind in kinds):
            assert word in result.stderr, result.text()


def test_tcp_connection_to_the_same_host(two_hosts, page_server):
    from programs import Redis
    a, b, _ = two_hosts
    with Redis(a, mib=1) as server:
        client = server.client()
        try:
            assert client.alive()  # accepted, and the connection before it closed
            with Unharmed(a, b, None, page_server) as watch:
                watch.refused(send(a, page_server, server.pid, state_dir=watch.state), f"PID {server.pid}: descriptor",
                              "TCP 127.0.0.1:", "its peer is on this host", "--tcp-close")
            assert client.alive()
        finally:
            client.close()


def test_dry_run_lists_and_stops_there(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    good, bad = start_victim(a, "threads", "4"), start_victim(a, "unmovable")
    with Unharmed(a, b, good, page_server) as watch:
        result = send(a, page_server, good.pid, dry_run=True, state_dir=watch.state)
        assert result.status == 0, result.text()
    with Unharmed(a, b, bad, page_server) as watch:
        result = send(a, page_server, bad.pid, dry_run=True, state_dir=watch.state)
        watch.refused(result, "objects are in the way")
        assert len(blockers(result)) > 5


# The target


def test_pid_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    wanted = victim.pid + 1  # a thread's
    b.run(["sh", "-c", f"echo {wanted - 1} > /proc/sys/kernel/ns_last_pid; sleep 100 >/dev/null 2>&1 & :"])
    if not b.alive(wanted):
        pytest.skip(f"could not take PID {wanted} on the target")
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, state_dir=watch.state), f"PID {wanted}: process",
                      "(sleep has it)", "its PID is in use on the restoring host")
    assert b.alive(wanted)
    b.kill(wanted)


def test_not_enough_memory(two_hosts, keys, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "32")
    with PageServer(b, keys, args=["--max-memory", "16M"]) as server, Unharmed(a, b, victim, server) as watch:
        result = send(a, server, victim.pid, state_dir=watch.state)
        watch.refused(result, "memory", "MiB needed, 16 MiB available", "--max-memory")
        # What was refused has taken nothing of the limit.
        watch.refused(send(a, server, victim.pid, state_dir=watch.state), "16 MiB available")


def test_file_that_differs(two_hosts, page_server):
    a, b, _ = two_hosts
    path = "/mnt/data"
    a.path(path).write_text("one")
    b.path(path).write_text("another")
    os.link(a.path(path), a.path("/mnt/second-name"))  # or the file would go along, as those on tmpfs do
    pid = a.spawn_daemon(["/bin/sleep", "100"], stdin=path)
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, pid, state_dir=watch.state), f"PID {pid}: file {path}", "rsync")
        b.path(path).unlink()
        watch.refused(send(a, page_server, pid, state_dir=watch.state), f"PID {pid}: file {path}", "rsync")
    a.kill(pid)


def test_address_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "listen-tcp")
    port = next(int(line.split()[1].split(":")[1], 16)
                for line in pathlib.Path(f"/proc/{a.outer_pid(victim.pid)}/net/tcp").read_text().splitlines()[1:]
                if line.split()[3] == "0A")
    with b.network():
        other = socket.socket()
    other.bind(("0.0.0.0", port))
    other.listen()
    with other, Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, state_dir=watch.state), "address", f":{port}",
                      "it cannot be had on the restoring host")


def _comm(host, pid):
    try:
        return (host.proc(pid) / "comm").read_text().strip()
    except (OSError, ProcessLookupError):
        return ""
