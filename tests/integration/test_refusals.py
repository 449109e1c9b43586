# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input: each gets an error that names it, and everything is as it was."""
import os
import pathlib
import shutil
import tempfile
import time

import pytest
from pagestream import Keys, migrate, send
from snapshot import diff_settled, snapshot

NOT_MOVED, USAGE = 1, 2


def refused(result, *words, status=NOT_MOVED):
    assert result.status == status, result.text()
    for word in words:
        assert word in result.stderr, result.text()


def test_no_such_pid(two_hosts, page_server):
    refused(send(two_hosts[0], page_server, 31999), "31999")


def test_pid_1(two_hosts, page_server):
    refused(send(two_hosts[0], page_server, 1), "PID 1")


@pytest.mark.parametrize("argv, word", [
    (["send", "--to", "nowhere", "5"], "nowhere"),
    (["send", "--to", "x:1", "--mode", "warp", "5"], "warp"),
    (["send", "--to", "x:1", "--streams", "0", "5"], "--streams"),
    (["send", "--to", "x:1", "5x"], "5x"),
    (["send", "5"], "--to"),
    (["frobnicate"], "frobnicate"),
    (["resolve"], "SESSION"),
])
def test_usage(host, argv, word):
    result = migrate(host, *argv)
    assert result.returncode in (NOT_MOVED, USAGE)
    assert word in result.stderr, result.stderr


def test_traced_already(two_hosts, page_server, start_victim):
    a = two_hosts[0]
    victim = start_victim(a, "eventfd")
    before = snapshot(a, victim.pid)
    tracer = a.popen(["/usr/bin/strace", "-f", "-o", "/dev/null", "-p", str(victim.pid)]) \
        if shutil.which("strace") else None
    if tracer is None:
        pytest.skip("needs strace")
    try:
        deadline = time.monotonic() + 10
        while "TracerPid:\t0" in (a.proc(victim.pid) / "status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused(send(a, page_server, victim.pid), "trace")
    finally:
        tracing = [pid for pid in a.pids() if (a.proc(pid) / "comm").read_text().strip() == "strace"]
        for pid in tracing:
            a.kill(pid, 15)
        tracer.wait(20)
    assert not diff_settled(before, a, victim.pid)
    victim.check(a)


def test_tcp_connection_is_a_blocker(two_hosts, page_server):
    from programs import Redis
    a = two_hosts[0]
    with Redis(a, mib=1) as server:
        client = server.client()
        try:
            assert client.alive()  # accepted, and the connection before it closed
            before = snapshot(a, server.pid)
            refused(send(a, page_server, server.pid), "--tcp-close")
            assert not diff_settled(before, a, server.pid)
            assert client.alive()
        finally:
            client.close()


def test_dry_run_touches_nothing(two_hosts, page_server, start_victim):
    a = two_hosts[0]
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    result = send(a, page_server, victim.pid, dry_run=True)
    assert result.status == 0, result.text()
    assert not diff_settled(before, a, victim.pid)
    victim.check(a)


def test_unknown_ca(two_hosts, page_server, start_victim):
    a = two_hosts[0]
    victim = start_victim(a, "eventfd")
    stranger = Keys()
    try:
        refused(send(a, page_server, victim.pid, keys=stranger), "certificate")
    finally:
        stranger.remove()
    victim.check(a)


def test_missing_certificate(two_hosts, page_server, start_victim):
    a = two_hosts[0]
    victim = start_victim(a, "eventfd")

    class Empty:
        dir = pathlib.Path(tempfile.mkdtemp(prefix="keys-"))

    refused(send(a, page_server, victim.pid, keys=Empty), "migrate keys")
    os.rmdir(Empty.dir)
    victim.check(a)


def test_nobody_listens(two_hosts, page_server, start_victim):
    a = two_hosts[0]
    victim = start_victim(a, "eventfd")
    host, _ = page_server.to.rsplit(":", 1)
    refused(send(a, page_server, victim.pid, to=f"{host}:1"), f"{host}:1")
    victim.check(a)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03", b"\0" * 4000], ids=["http", "half", "zeros"])
def test_plain_bytes(two_hosts, page_server, start_victim, data):
    a, b, _ = two_hosts
    host, port = page_server.to.rsplit(":", 1)
    with a.connect(host, int(port)) as connection:
        connection.sendall(data)
        connection.settimeout(0.5)
        try:
            connection.recv(1000)
        except OSError:
            pass
    victim = start_victim(a, "eventfd")
    result = send(a, page_server, victim.pid)
    assert result.status == 0, result.text()
    victim.check(b)


def test_pid_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    other = b.run(["sh", "-c", f"echo {victim.pid - 1} > /proc/sys/kernel/ns_last_pid; sleep 60 >/dev/null 2>&1 & echo $!"],
                  check=True).stdout.strip()
    if other != str(victim.pid):
        pytest.skip(f"could not take PID {victim.pid} on the target, got {other}")
    refused(send(a, page_server, victim.pid), str(victim.pid), "in use")
    b.kill(int(other), 9)
    victim.check(a)
