# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP connections that nobody has accepted when the program moves: accepted later, in their order, with every byte that was
sent to them, and their peers see nothing of it.
"""
import contextlib
import socket
import struct

import pytest
from address_hook import Address
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import wait_until
from pagestream import PageServer, send, send_start, stop_at
from test_tcp import locks, read_exactly

PORT = 7070
LONG = bytes(range(256)) * 160  # more than a segment holds


class Waiting:
    """Clients of a victim that accepts nobody: IPv4, IPv6; without data, with some, with much, with their end."""

    def __init__(self, lan, victim, count=5):
        self.lan, self.victim = lan, victim
        self.said = [b"", b"hello", LONG, b"", b"the end"][:count]
        self.peers = []
        for number, data in enumerate(self.said):
            peer = lan.hosts[0].connect(lan.service6 if number % 2 else lan.service, PORT, timeout=30)
            peer.sendall(data)
            self.peers.append(peer)
        if count > 4:
            self.peers[4].shutdown(socket.SHUT_WR)
        (victim.dir / "waiting").write_text(f"{count}\n")
        wait_until(lambda: self.arrived(victim.host), 10, "all wait, with their data")

    def arrived(self, host):
        """Each has its data in a queue on the host."""
        listed = host.run(["ss", "-Htn", "sport", f"= :{PORT}"]).stdout.split("\n")
        queues = sorted(int(line.split()[1]) for line in listed if line)
        # An end counts as a byte in what the kernel lists here.
        return len(queues) == len(self.said) and sum(queues) in range(sum(map(len, self.said)), sum(map(len, self.said)) + 2)

    def are_served(self):
        """The program accepts them: in order, with what they have sent before, and what they send now."""
        self.victim.dir.joinpath("accept").touch()
        for number, (peer, data) in enumerate(zip(self.peers, self.said)):
            greeting = b"0 %d\n" % number
            assert read_exactly(peer, len(greeting)) == greeting
            assert read_exactly(peer, len(data)) == data
            if number < 4:
                peer.sendall(LONG)
                assert read_exactly(peer, len(LONG)) == LONG
            else:
                assert peer.recv(1) == b""
            peer.close()


@pytest.fixture
def address(lan, tmp_path):
    lan.give(lan.hosts[1])
    return Address(lan, tmp_path)


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_there_and_back(two_hosts, lan, address, keys, start_victim, mode):
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim)
    victim.check(a)
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            with address.goes_to(target) as hook:
                done = send(source, server, victim.pid, mode=mode, hook=hook)
            assert done.status == 0, done.text()
            victim.host = target
            victim.check(target)
            assert waiting.arrived(target)
            waiting.peers[0].sendall(b"more")
            waiting.said[0] += b"more"
            wait_until(lambda: waiting.arrived(target), 10, "it comes")
    waiting.are_served()
    assert not locks(a) and not locks(b)


def test_checkpoint(two_hosts, lan, address, start_victim):
    a, _, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim)
    with Place() as place:
        dump(a, place, victim.pid, place.make("other"), "--tcp-established", "-R")
        assert not locks(a)
        victim.check(a)
        assert waiting.arrived(a)
        directory = place.make()
        dump(a, place, victim.pid, directory, "--tcp-established")
        wait_gone(a, [victim.pid])
        waiting.peers[0].sendall(b"meanwhile")
        refused = run(a, place, "restore", "-D", directory, "-d")
        assert refused.returncode == 1 and "--tcp-established" in refused.stderr, text(refused)
        restore(a, place, directory, "--tcp-established")
        waiting.said[0] += b"meanwhile"
    victim.check(a)
    waiting.are_served()
    assert not locks(a)


@pytest.mark.parametrize("who, point", [("migrate", "queue-taken"), ("migrate", "held"), ("pageserver", "prepared"), ("hook", "")])
def test_taken_back(two_hosts, lan, address, keys, start_victim, tmp_path, who, point):
    """Whatever ends the move before its commit: all wait here again as before, also if migrate is killed and cannot do it."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim)
    victim.check(a)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\n[ $1 != post-freeze ]\n")
    failing.chmod(0o755)
    env = {who: stop_at(point)} if point else {}
    with PageServer(b, keys, env=env.get("pageserver")) as server, contextlib.ExitStack() as stack:
        hook = failing if who == "hook" else stack.enter_context(address.goes_to(b))
        job = send_start(a, server, victim.pid, hook=hook, env=env.get("migrate"))
        if point:
            victims = {"migrate": job, "pageserver": server}
            victims[who].wait_stopped()
            lan.give(a)
            waiting.peers[0].sendall(b"meanwhile")
            victims[who].kill()
        done = job.wait(60)
        assert done.status != 0, done.text()
    lan.give(a)
    wait_until(lambda: not locks(a), 20, "no lock is left")
    if point:
        waiting.said[0] += b"meanwhile"
    wait_until(lambda: waiting.arrived(a), 20, "all wait, with their data")
    victim.check(a)
    waiting.are_served()


def test_group(two_hosts, lan, address, keys, start_victim):
    """Two sockets on one port: what waits at one waits there again."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT, "group")
    peers = [lan.hosts[0].connect(lan.service, PORT, timeout=30) for _ in range(12)]
    (victim.dir / "waiting").write_text("12\n")
    victim.check(a)
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            with address.goes_to(target) as hook:
                done = send(source, server, victim.pid, hook=hook)
            assert done.status == 0, done.text()
            victim.host = target
            victim.check(target)
    victim.dir.joinpath("accept").touch()
    greetings = [read_exactly(peer, 4).split() for peer in peers]
    for listener in (b"0", b"1"):
        numbers = [int(greeting[1]) for greeting in greetings if greeting[0] == listener]
        assert numbers == sorted(numbers)
    for peer in peers:
        peer.close()


def test_reset_by_its_peer(two_hosts, lan, address, page_server, start_victim):
    """The program finds out when it accepts it; those behind it are not touched."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim, 2)
    gone = waiting.peers[0]
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    with address.goes_to(b) as hook:
        done = send(a, page_server, victim.pid, hook=hook)
    assert done.status == 0, done.text()
    victim.host = b
    victim.check(b)
    victim.dir.joinpath("accept").touch()
    assert read_exactly(waiting.peers[1], 4 + 5) == b"0 1\nhello"
    waiting.peers[1].close()


@pytest.mark.parametrize("cannot", ["a", "b"])
def test_host_that_cannot(two_hosts, lan, address, page_server, start_victim, cannot):
    """Named before anything has happened to those who wait."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim, 3)
    {"a": a, "b": b}[cannot].run(["sh", "-c", "echo 0 > /proc/sys/net/ipv4/tcp_syncookies"])
    refused = send(a, page_server, victim.pid)
    assert refused.status == 1 and "connections wait to be accepted" in refused.stderr, refused.text()
    victim.check(a)
    waiting.are_served()
    assert not locks(a) and not locks(b)


def test_peer_of_this_host(two_hosts, page_server, start_victim):
    """It is outside of the tree, and would reach nobody on another host."""
    a, _, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    with a.connect("127.0.0.1", PORT, timeout=30) as peer:
        refused = send(a, page_server, victim.pid)
        assert refused.status == 1 and "its peer is on this host" in refused.stderr, refused.text()
        victim.dir.joinpath("accept").touch()
        assert read_exactly(peer, 4) == b"0 0\n"
