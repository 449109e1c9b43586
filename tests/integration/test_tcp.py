# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP connections to a client on a third host, which sees nothing of a move but a pause: every byte comes back in its place,
and nothing is reset.
"""
import errno
import pathlib
import random
import re
import select
import socket
import struct
import threading
import time

import pytest
from address_hook import Address
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at

PORT = 7070
PATTERN = random.Random(1).randbytes(1000003)


class Talk:
    """A connection that an echo server answers: sends all the time, and compares what comes back."""

    def __init__(self, client, address):
        self.connection = client.connect(address, PORT)
        self.connection.settimeout(60)
        self.sent = self.received = 0
        self.failure = None
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _guarded(self, work):
        try:
            work()
        except (OSError, AssertionError) as e:
            self.failure = self.failure or f"{type(e).__name__}: {e}"

    def _send(self):
        while not self.stop.is_set():
            at = self.sent % len(PATTERN)
            self.sent += self.connection.send(PATTERN[at:at + 65536])
        self.connection.shutdown(1)

    def _receive(self):
        while True:
            data = self.connection.recv(65536)
            if not data:
                return
            at = self.received % len(PATTERN)
            wanted = (PATTERN[at:] + PATTERN)[:len(data)]
            assert data == wanted, f"wrong bytes from {self.received} on"
            self.received += len(data)

    def moves(self, seconds=20):
        """Waits until something more has come back."""
        before = self.received
        wait_until(lambda: self.failure or self.received > before + 100000, seconds, "bytes come back")
        assert not self.failure

    def finish(self):
        """All that was sent comes back, then the end."""
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), f"{self.sent} bytes sent, {self.received} came back"
        self.connection.close()
        assert not self.failure, self.failure
        assert self.received == self.sent > 0


@pytest.fixture
def address(lan, tmp_path):
    lan.give(lan.hosts[1])
    return Address(lan, tmp_path)


@pytest.fixture
def echo(two_hosts, address, start_victim):
    """An echo server on host a, which has the service's address."""
    return start_victim(two_hosts[0], "tcp-echo", PORT)


class Talks:
    """Two connections that are busy: IPv4 (of a socket that listens for both), IPv6."""

    def __init__(self, lan):
        self.all = [Talk(lan.hosts[0], lan.service), Talk(lan.hosts[0], lan.service6)]
        self.move()

    def move(self):
        for talk in self.all:
            talk.moves()

    def finish(self):
        for talk in self.all:
            talk.moves()
            talk.finish()


@pytest.fixture
def talks(lan, echo):
    return Talks(lan)


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_there_and_back(two_hosts, lan, address, keys, echo, talks, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            talks.move()
            with address.goes_to(target) as hook:
                done = send(source, server, echo.pid, mode=mode, hook=hook)
            assert done.status == 0, done.text()
            echo.host = target
            talks.move()
            echo.check(target)
    talks.finish()
    echo.check(a)


def test_main_thread_has_ended(two_hosts, lan, address, page_server, start_victim):
    """The source still finds the connections of what it ends: their peers hear nothing of that."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-echo", PORT, 0, 1)
    with lan.hosts[0].connect(lan.service, PORT) as connection:
        connection.settimeout(20)
        connection.sendall(b"first")
        assert read_exactly(connection, 5) == b"first"
        with address.goes_to(b) as hook:
            done = send(a, page_server, victim.pid, hook=hook)
        assert done.status == 0, done.text()
        left = "".join(pathlib.Path(f"/proc/{a.init}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        assert f":{PORT:04X} " not in left, left
        connection.sendall(b"again")
        assert read_exactly(connection, 5) == b"again"
    victim.check(b)
    assert not locks(a) and not locks(b)


def locks(host):
    """Names of our tables of nftables."""
    return re.findall(r"^table inet (pagestream-\S+)$", host.run(["nft", "list", "tables"]).stdout, re.M)


def test_checkpoint(two_hosts, lan, address, echo, talks):
    """Ended with its connections open, and back some time later: its peers have waited."""
    a, _, _ = two_hosts
    with Place() as place:
        directory = place.make()
        refused = run(a, place, "dump", "-t", echo.pid, "-D", directory, "-l")
        assert refused.returncode == 1 and "--tcp-established" in refused.stderr, text(refused)
        talks.move()
        dump(a, place, echo.pid, directory, "--tcp-established")
        wait_gone(a, [echo.pid])
        assert len(locks(a)) == 1
        time.sleep(0.3)  # in which they send, and send again
        refused = run(a, place, "restore", "-D", directory, "-d")
        assert refused.returncode == 1 and "--tcp-established" in refused.stderr, text(refused)
        assert len(locks(a)) == 1
        restore(a, place, directory, "--tcp-established")
        assert not locks(a)
        talks.move()
        echo.check(a)
    talks.finish()


def test_checkpoint_of_one_that_goes_on(two_hosts, lan, address, echo, talks):
    a, _, _ = two_hosts
    with Place() as place:
        dump(a, place, echo.pid, place.make(), "--tcp-established", "-R")
    assert not locks(a)
    talks.finish()
    echo.check(a)


def test_checkpoint_given_up(two_hosts, lan, address, start_victim):
    """Nobody restores it: with the lock gone, peers learn that there is no such connection."""
    a, _, _ = two_hosts
    victim = start_victim(a, "tcp-echo", PORT)
    talk = Talk(lan.hosts[0], lan.service)
    talk.moves()
    with Place() as place:
        directory = place.make()
        dump(a, place, victim.pid, directory, "--tcp-established")
        assert len(locks(a)) == 1 and not talk.failure
        done = migrate(a, "unlock", directory)
        assert done.returncode == 0, text(done)
        assert not locks(a)
    wait_until(lambda: talk.failure, 20, "a reset")
    assert "reset" in talk.failure.lower(), talk.failure


ANSWERER = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"hello")
"""


def test_checkpoint_of_one_that_listens(two_hosts, lan, address):
    """Its lock, which keeps callers waiting, goes also when there is no connection to restore."""
    a, _, _ = two_hosts
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", ANSWERER])
    wait_until(lambda: f":{PORT:04X} " in (a.proc(pid) / "net/tcp").read_text(), 20, "it listens")
    with Place() as place:
        directory = place.make()
        dump(a, place, pid, directory, "--tcp-established")
        wait_gone(a, [pid])
        restore(a, place, directory)
    assert not locks(a)
    with lan.hosts[0].connect(lan.service, PORT, timeout=10) as connection:
        assert connection.recv(100) == b"hello"
    a.kill(pid)


LATE = f"""
import os, socket, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
connection = socket.create_connection((sys.argv[3], {PORT}), source_address=(sys.argv[2], 0))
while data := connection.recv(100):
    connection.sendall(data)
"""


def test_first_connection_after_the_preflight(two_hosts, lan, address, page_server, tmp_path):
    """No TCP socket was there when the lock was decided on; and what comes in at the freeze must not be lost."""
    a, b, _ = two_hosts
    client = lan.addresses["client"]
    lan.give(a)
    with lan.hosts[0].network():
        listener = socket.create_server((client, PORT))
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", LATE, tmp_path / "go", lan.service, client])
    job = send_start(a, page_server, pid, hook=address.path, env=stop_at("round 2"))
    job.wait_stopped()
    assert not locks(a)
    (tmp_path / "go").touch()
    with listener, listener.accept()[0] as connection:
        connection.settimeout(20)
        connection.sendall(b"before")
        assert read_exactly(connection, 6) == b"before"
        job.go_on()
        wait_until(lambda: (tmp_path / "wanted").exists(), 20, "nobody runs")
        connection.sendall(b"meanwhile")
        time.sleep(0.1)  # for the source to acknowledge it, wrongly
        lan.give(b)
        (tmp_path / "wanted").unlink()
        assert job.wait(60).status == 0, job.text()
        assert read_exactly(connection, 9) == b"meanwhile"
    assert not locks(a) and not locks(b)
    b.kill(pid)


LATE_LISTENER = f"""
import os, socket, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
with socket.create_server((sys.argv[2], {PORT})) as server:
    open(sys.argv[1] + "-done", "w")
    while True:
        with server.accept()[0] as connection:
            connection.sendall(b"hello")
            connection.recv(100)
"""


def test_first_listener_after_the_preflight(two_hosts, lan, address, page_server, tmp_path):
    """Who calls while nobody runs is answered by the target, and not by the kernel of the source, which nobody asks any more."""
    a, b, _ = two_hosts
    lan.give(a)
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", LATE_LISTENER, tmp_path / "go", lan.service])
    job = send_start(a, page_server, pid, hook=address.path, env=stop_at("round 2"))
    job.wait_stopped()
    assert not locks(a)
    (tmp_path / "go").touch()
    wait_until(lambda: (tmp_path / "go-done").exists(), 20, "it listens")
    job.go_on()
    wait_until(lambda: (tmp_path / "wanted").exists(), 20, "nobody runs")
    with lan.hosts[0].network():
        connection = socket.socket()
        connection.setblocking(False)
    with connection:
        assert connection.connect_ex((lan.service, PORT)) == errno.EINPROGRESS
        assert select.select([], [connection], [], 0.2)[1] == [], "the source has answered"
        lan.give(b)
        (tmp_path / "wanted").unlink()
        assert job.wait(60).status == 0, job.text()
        connection.settimeout(20)
        assert read_exactly(connection, 5) == b"hello"
    assert not locks(a) and not locks(b)
    b.kill(pid)


def sent_again(connection):
    """How often the kernel has sent something of a connection again (tcpi_total_retrans)."""
    return struct.unpack_from("=I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


@pytest.mark.parametrize("ends_on", ["target", "source"])
def test_what_comes_while_nobody_runs(two_hosts, lan, address, page_server, start_victim, ends_on):
    """It is answered as soon as somebody does, be it the one who called, or a connection; and not when it is sent again, which
    takes the longer the longer nobody has answered. Some comes to the source, and some to the target."""
    a, b, client = *two_hosts[:2], lan.hosts[0]
    victim = start_victim(a, "tcp-echo", PORT)
    early, late = client.connect(lan.service, PORT), client.connect(lan.service6, PORT)
    for connection in (early, late):
        connection.settimeout(20)
        connection.sendall(b"first")
        assert read_exactly(connection, 5) == b"first"
    job = send_start(a, page_server, victim.pid, hook=address.path, env=stop_at("held"))
    wait_until(lambda: (address.directory / "wanted").exists(), 20, "nobody runs")
    early.sendall(b"question")
    with client.network():
        caller = socket.socket()
        caller.setblocking(False)
    assert caller.connect_ex((lan.service, PORT)) == errno.EINPROGRESS
    wait_until(lambda: sent_again(early) >= 2 and sent_again(caller) >= 1, 20, "both were sent again")
    if ends_on == "target":
        lan.give(b)
        (address.directory / "wanted").unlink()
        job.wait_stopped()
    late.sendall(b"question")
    wait_until(lambda: sent_again(late) >= 3 and sent_again(early) >= 4, 20, "all was sent again, and will be later only")
    before = sent_again(early), sent_again(late)
    if ends_on == "target":
        job.go_on()
    else:
        (address.directory / "wanted").unlink()  # the target refuses: it has no such address
    assert read_exactly(early, 8) == read_exactly(late, 8) == b"question"
    assert (sent_again(early), sent_again(late)) == before, "it was answered only when it was sent again"
    assert (job.wait(60).status == 0) == (ends_on == "target"), job.text()
    victim.host = b if ends_on == "target" else a
    with early, late, caller:
        caller.settimeout(20)
        caller.sendall(b"hello")
        assert read_exactly(caller, 5) == b"hello"
    victim.check(victim.host)
    assert not locks(a) and not locks(b)


@pytest.mark.parametrize("point", ["tcp-repair", "stopped", "held"])
def test_migrate_killed(two_hosts, lan, address, page_server, echo, talks, point):
    """Before the commit: the tree goes on here, with its connections as they were, also the one that was just being read."""
    a, b, _ = two_hosts
    with address.goes_to(b) as hook:
        job = send_start(a, page_server, echo.pid, hook=hook, env=stop_at(point))
        job.wait_stopped()
        lan.give(a)  # before the target's lock goes
        job.kill()
        job.wait(20)
    talks.finish()
    echo.check(a)
    wait_until(lambda: not locks(a) and not locks(b), 20, "no lock is left")


@pytest.mark.parametrize("point", ["restored", "prepared"])
def test_page_server_killed(two_hosts, lan, address, keys, echo, talks, point):
    """Its copies of the connections end without a word."""
    a, b, _ = two_hosts
    with PageServer(b, keys, env=stop_at(point)) as server, address.goes_to(b) as hook:
        job = send_start(a, server, echo.pid, hook=hook)
        server.wait_stopped()
        server.kill()
        assert job.wait(30).status == 1, job.text()
        lan.give(a)
        talks.finish()
    echo.check(a)


@pytest.mark.parametrize("point", ["committed", "let-go"])
def test_page_server_killed_after_commit(two_hosts, lan, address, keys, echo, talks, point):
    """The next one lets the tree go on, and its connections with it; the source ends its copy in silence."""
    a, b, _ = two_hosts
    with PageServer(b, keys, env=stop_at(point)) as server, address.goes_to(b) as hook:
        job = send_start(a, server, echo.pid, hook=hook)
        server.wait_stopped()
        server.kill()
        server.env = None
        server.start()
        assert job.wait(60).status == 0, job.text()
        echo.host = b
        talks.finish()
        echo.check(b)
        assert not locks(a) and not locks(b)


def test_resolved(two_hosts, lan, address, page_server, echo, talks, tmp_path):
    """migrate is killed after the commit: what ends the copy here is migrate resolve. No page is missing there that only a new
    one could send.
    """
    a, b, _ = two_hosts
    with address.goes_to(b) as hook:
        job = send_start(a, page_server, echo.pid, hook=hook, mode="precopy", env=stop_at("running-read"),
                         state_dir=tmp_path / "state")
        job.wait_stopped()
        job.kill()
        job.wait(20)
    echo.host = b
    talks.move()
    session = re.search("[0-9a-f]{32}", migrate(a, "status", state_dir=tmp_path / "state").stdout).group()
    # The next migrate cannot read who has the right to run: it does not wake the kernel of the one who has not.
    journal = tmp_path / "state" / "sessions" / f"{session}.journal"
    content = journal.read_bytes()
    journal.write_bytes(b"damaged")
    assert send(a, page_server, 1, state_dir=tmp_path / "state").status == 1
    assert len(locks(a)) == 1
    journal.write_bytes(content)
    done = migrate(a, "resolve", session, state_dir=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    talks.finish()
    echo.check(b)
    assert not locks(a) and not locks(b)


class Storm:
    """Short connections, one after the other, each with a request and its answer."""

    def __init__(self, client, addresses):
        self.client = client
        self.stop = threading.Event()
        self.done, self.failures = 0, []
        self.threads = [threading.Thread(target=self._run, args=(address,), daemon=True) for address in addresses]
        for thread in self.threads:
            thread.start()

    def _run(self, address):
        while not self.stop.is_set() and not self.failures:
            try:
                with self.client.connect(address, PORT, timeout=30) as connection:
                    connection.sendall(PATTERN[:3000])
                    connection.shutdown(1)
                    answer = b""
                    while data := connection.recv(65536):
                        answer += data
                    assert answer == PATTERN[:3000], f"{len(answer)} bytes"
                self.done += 1
            except (OSError, AssertionError) as e:
                self.failures.append(f"{type(e).__name__}: {e}")

    def goes_on(self):
        before = self.done
        wait_until(lambda: self.failures or self.done > before + 20, 30, "connections are served")
        assert not self.failures

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.failures


def test_connections_that_begin(two_hosts, lan, address, keys, start_victim):
    """Whatever moment of its short life a connection is in: it is served."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-echo", PORT)
    storm = Storm(lan.hosts[0], [lan.service, lan.service6, lan.service])
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)) * 2:
            storm.goes_on()
            with address.goes_to(target) as hook:
                done = send(source, server, victim.pid, hook=hook)
            assert done.status == 0, done.text()
            victim.host = target
    storm.goes_on()
    storm.finish()
    victim.check(a)


PATIENT = f"""
import socket, time
server = socket.create_server(("", {PORT}))
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
time.sleep(1000)
"""


def test_connection_without_data(two_hosts, page_server):
    """The program wants no connection before there is data: for this host it is not there yet. It is named, and not reset."""
    a, b, _ = two_hosts
    pid = a.spawn_daemon(["/usr/bin/python3", "-c", PATIENT])
    wait_until(lambda: f":{PORT:04X} " in (a.proc(pid) / "net/tcp").read_text(), 20, "it listens")
    with a.connect("127.0.0.1", PORT) as connection:
        refused = send(a, page_server, pid)
        assert refused.status == 1 and "TCP_DEFER_ACCEPT" in refused.stderr, refused.text()
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    assert not locks(a) and not locks(b)
    a.kill(pid)


def read_exactly(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, f"the end after {data}"
        data += more
    return data
