# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hooks on both sides, and the one that takes the addresses of a service along."""
import os
import signal
import socket

import pytest
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import ROOT, wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at

MOVE_ADDRESS = ROOT / "hooks" / "move-address"
PORT = 8080
SERVER = f"""
import socket
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"hello")
"""


@pytest.fixture
def config(tmp_path, lan):
    """The environment in which the hook finds what to move, and what it says is right."""
    path = tmp_path / "move-address"
    path.write_text(f'device={lan.device}\naddresses="{lan.service}/32 {lan.service6}/128"\n')
    return {**os.environ, "MOVE_ADDRESS_CONFIG": str(path)}


@pytest.fixture
def service(two_hosts, lan):
    """PID of a program on host a that answers at the service's addresses."""
    a, b, _ = two_hosts
    lan.give(a)
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", SERVER])
    wait_until(lambda: f":{PORT:04X} " in (a.proc(pid) / "net/tcp6").read_text(), 20, "the server listens")
    yield pid
    for host in (a, b):
        host.kill(pid)


def ask(lan):
    """The client's question over both addresses."""
    client = lan.hosts[0]
    for address in (lan.service, lan.service6):
        with client.connect(address, PORT, timeout=5) as connection:
            assert connection.recv(100) == b"hello"


def is_at(lan, host):
    """Whether the host alone has both addresses."""
    return all(lan.has(one, address) == (one is host) for one in lan.hosts for address in (lan.service, lan.service6))


def knows(lan, host):
    """Whether the client has the hardware address of that host for both."""
    return all(lan.neighbour(lan.hosts[0], address) == lan.hardware(host) for address in (lan.service, lan.service6))


def left_by_hook(host):
    return "move-address" in host.run(["nft", "list", "tables"]).stdout or \
        "fd78::80" in host.run(["ip", "address", "show", "dev", "lo"]).stdout


def test_there_and_back(two_hosts, lan, keys, service, config):
    a, b, _ = two_hosts
    ask(lan)
    for source, target in ((a, b), (b, a)):
        assert is_at(lan, source) and knows(lan, source)
        with PageServer(target, keys, args=["--hook", MOVE_ADDRESS], env=config) as server:
            done = send(source, server, service, hook=MOVE_ADDRESS, env=config)
            assert done.status == 0, done.text()
            # Without being asked for it.
            wait_until(lambda: knows(lan, target), 5, "the client knows where the service is")
            ask(lan)
        assert "hook" not in done.stderr + server.text(), done.text()
        assert is_at(lan, target) and not left_by_hook(target) and not left_by_hook(source)


def test_quiet_until_it_runs(two_hosts, lan, keys, service, config):
    """The target has the addresses, and lets nobody know: whoever asks for them finds the source."""
    a, b, _ = two_hosts
    client = lan.hosts[0]
    with PageServer(b, keys, args=["--hook", MOVE_ADDRESS], env=config) as server:
        job = send_start(a, server, service, hook=MOVE_ADDRESS, env={**config, **stop_at("round 2")})
        job.wait_stopped()
        assert lan.has(b, lan.service) and not lan.has(b, lan.service6) and left_by_hook(b)
        for _ in range(5):
            client.run(["ip", "neighbour", "flush", "dev", lan.device])
            ask(lan)
            assert knows(lan, a)
        job.kill(signal.SIGINT)
        assert job.wait(60).status == 1, job.text()
        wait_until(lambda: is_at(lan, a) and not left_by_hook(b), 10, "the target has given them up")
    assert knows(lan, a)
    ask(lan)


def test_next_page_server_takes_back(two_hosts, lan, keys, service, config):
    a, b, _ = two_hosts
    with PageServer(b, keys, args=["--hook", MOVE_ADDRESS], env=config) as server:
        job = send_start(a, server, service, hook=MOVE_ADDRESS, env={**config, **stop_at("stopped")})
        job.wait_stopped()
        server.kill()
        job.go_on()
        assert job.wait(60).status == 1, job.text()
        assert left_by_hook(b)
        server.start()
        assert is_at(lan, a) and not left_by_hook(b)
    ask(lan)


CALLER = f"""
import socket, sys
connection = socket.create_connection((sys.argv[1], {PORT}))
while data := connection.recv(100):
    connection.sendall(data)
"""


def test_connection_of_an_address_that_stays(two_hosts, lan, page_server):
    """Nobody would answer at it: refused, and the connection is as before."""
    a, b, _ = two_hosts
    client = lan.hosts[0]
    with client.network():
        listener = socket.create_server((lan.addresses["client"], PORT))
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", CALLER, lan.addresses["client"]])
    with listener, listener.accept()[0] as connection:
        connection.settimeout(10)
        done = send(a, page_server, pid)
        assert done.status == 1 and f"address {lan.addresses['a']} of a TCP connection to {lan.addresses['client']}, " \
            f"port {PORT}: it is no address of the restoring host; let a hook move" in done.stderr, done.text()
        connection.sendall(b"still there")
        assert connection.recv(100) == b"still there"
        # It is closed there, on request: only the other end is told.
        done = send(a, page_server, pid, tcp_close=True)
        assert done.status == 0, done.text()
        assert connection.recv(100) == b""
    b.kill(pid)


def test_restore_needs_the_address(two_hosts, lan):
    a, _, _ = two_hosts
    client = lan.hosts[0]
    with client.network():
        listener = socket.create_server((lan.addresses["client"], PORT))
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", CALLER, lan.addresses["client"]])
    with listener, listener.accept()[0] as connection, Place() as place:
        connection.settimeout(10)
        directory = place.make()
        dump(a, place, pid, directory, "--tcp-established")
        wait_gone(a, [pid])
        lan.remove(a, f"{lan.addresses['a']}/24")
        done = run(a, place, "restore", "-D", directory, "-d", "--tcp-established")
        assert done.returncode == 1 and f"address {lan.addresses['a']} of a TCP connection" in done.stderr, text(done)
        lan.add(a, f"{lan.addresses['a']}/24")
        restore(a, place, directory, "--tcp-established")
        connection.sendall(b"still there")
        assert connection.recv(100) == b"still there"
    a.kill(pid)


# What is run when


@pytest.fixture
def recorder(tmp_path):
    """A hook that notes what it is told; it fails at the event in the file `fail`."""
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n"
                    f'echo "$1 $PAGESTREAM_EVENT $PAGESTREAM_PID ${{PAGESTREAM_SOURCE%:*}}" >> {tmp_path}/events\n'
                    f'! [ "$1" = "$(cat {tmp_path}/fail 2>/dev/null)" ]\n')
    hook.chmod(0o755)
    return hook


def events(recorder):
    path = recorder.parent / "events"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_events_of_a_move(two_hosts, keys, start_victim, recorder):
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    with PageServer(b, keys, args=["--hook", recorder]) as server:
        done = send(a, server, victim.pid, hook=recorder)
        assert done.status == 0, done.text()
    assert events(recorder)[:3] == ["prepare", "pre-freeze", "post-freeze"]
    assert sorted(events(recorder)[3:]) == ["resumed", "running"]
    told = {line.split()[0]: line.split()[1:] for line in (recorder.parent / "events").read_text().splitlines()}
    assert told["prepare"] == ["prepare", str(victim.pid), a.address]
    assert told["running"] == ["running", str(victim.pid), a.address]
    victim.check(b)


def test_prepare_that_fails(two_hosts, keys, start_victim, recorder):
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    (recorder.parent / "fail").write_text("prepare")
    with PageServer(b, keys, args=["--hook", recorder]) as server:
        done = send(a, server, victim.pid, hook=recorder)
        assert done.status == 1 and f"hook {recorder} prepare failed with status 1" in done.stderr, done.text()
        wait_until(lambda: len(events(recorder)) == 3, 10, "all is taken back")
    assert sorted(events(recorder)) == ["aborted", "prepare", "rolled-back"]
    victim.check(a)


def test_killed_before_the_commit(two_hosts, keys, start_victim, recorder):
    """The guardian runs the hook, too."""
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    with PageServer(b, keys) as server:
        job = send_start(a, server, victim.pid, hook=recorder, env=stop_at("held"))
        job.wait_stopped()
        job.kill()
        wait_until(lambda: events(recorder) == ["pre-freeze", "post-freeze", "rolled-back"], 20, "the hook is told")
    victim.check(a)


def test_both_killed_after_the_commit(two_hosts, keys, start_victim, recorder, tmp_path):
    """The next page server, and migrate resolve, run what was not."""
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    state = tmp_path / "state"
    with PageServer(b, keys, env=stop_at("committed"), args=["--hook", recorder]) as server:
        job = send_start(a, server, victim.pid, hook=recorder, env=stop_at("commit-sent"), state_dir=state)
        job.wait_stopped()
        server.wait_stopped()
        job.kill()
        job.wait(20)
        server.kill()
        assert events(recorder) == ["prepare", "pre-freeze", "post-freeze"]
        server.env = None
        server.start()
        assert events(recorder)[3:] == ["running"]
        session = next((state / "sessions").glob("*.journal")).stem
        done = migrate(a, "resolve", session, state_dir=state)
        assert done.returncode == 0, done.stdout + done.stderr
    assert events(recorder)[4:] == ["resumed"]
    victim.check(b)


def test_page_server_killed_while_it_takes_back(two_hosts, keys, start_victim, recorder):
    """The hook was told, or not: the next page server tells it once more, and then never again."""
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    recorder.write_text(recorder.read_text() + f"[ $1 != aborted ] || [ -e {recorder.parent}/quick ] || exec sleep 9\n")
    with PageServer(b, keys, args=["--hook", recorder]) as server:
        job = send_start(a, server, victim.pid, env=stop_at("stopped"))
        job.wait_stopped()
        job.kill()
        job.wait(20)
        wait_until(lambda: events(recorder) == ["prepare", "aborted"], 20, "the hook is told")
        server.kill()
        (recorder.parent / "quick").touch()
        for _ in range(2):
            server.start()
            assert events(recorder) == ["prepare", "aborted", "aborted"]
            server.kill()
        server.start()
    victim.check(a)
