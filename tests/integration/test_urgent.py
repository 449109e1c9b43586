# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP's urgent data when the program moves: the byte, its place among the others, and whether it has been read."""
import json
import socket

import pytest
from address_hook import Address
from checkpoint import Place, dump, restore, wait_gone
from hosts import wait_until
from pagestream import PageServer, send
from test_accept_queue import Waiting
from test_tcp import locks, read_exactly

PORT = 7070

# Reads byte by byte when it is told to, and writes down what came, and where the urgent one was. A word in the name of a file
# says what it does before.
READER = f"""
import array, fcntl, json, os, socket, sys, time
SIOCATMARK = 0x8905
directory, prepare = sys.argv[1:]
server = socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
connection, _ = server.accept()
if prepare == "inline":
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
def wait(name):
    while not os.path.exists(directory + "/" + name):
        time.sleep(0.002)
def urgent():
    try:
        return connection.recv(1, socket.MSG_OOB | socket.MSG_DONTWAIT).decode()
    except OSError as e:
        return e.strerror
wait("arrived")
said = []
if prepare == "read":
    said.append(urgent())
if prepare == "mark":
    said.append(connection.recv(3).decode())
open(directory + "/ready", "w").close()
wait("go")
said.append(urgent())
while True:
    mark = array.array("i", [0])
    fcntl.ioctl(connection, SIOCATMARK, mark)
    byte = connection.recv(1).decode()
    said.append(("|" if mark[0] else "") + byte)
    if byte in ("", "."):
        break
with open(directory + "/new", "w") as file:
    json.dump(said, file)
os.rename(directory + "/new", directory + "/said")
connection.sendall(b"done")
"""

WANTED = {
    "unread": ["!", *"abc", "|d", *"ef."],
    "read": ["!", "Invalid argument", *"abc", "|d", *"ef."],
    "mark": ["abc", "!", "|d", *"ef."],
    "inline": ["Invalid argument", *"abc", "|!", *"def."],
}


@pytest.fixture
def address(lan, tmp_path):
    lan.give(lan.hosts[1])
    return Address(lan, tmp_path)


class Reader:
    def __init__(self, lan, host, directory, prepare, address):
        self.directory, self.prepare = directory, prepare
        self.pid = host.spawn_daemon(["/usr/bin/python3", "-c", READER, directory, prepare])
        wait_until(lambda: f":{PORT:04X} " in (host.proc(self.pid) / "net/tcp6").read_text(), 20, "it listens")
        self.peer = lan.hosts[0].connect(address, PORT, timeout=20)
        self.peer.sendall(b"abc")
        self.peer.send(b"!", socket.MSG_OOB)
        self.peer.sendall(b"def")
        wait_until(lambda: "7" in self._queued(host), 10, "all has come")
        (directory / "arrived").touch()
        wait_until((directory / "ready").exists, 20, "it is ready")

    @staticmethod
    def _queued(host):
        """Up to the urgent byte only, as the kernel counts what can be read, or all."""
        return [line.split()[1] for line in host.run(["ss", "-Htn", "sport", f"= :{PORT}"]).stdout.splitlines()]

    def reads(self):
        self.peer.sendall(b".")
        (self.directory / "go").touch()
        assert read_exactly(self.peer, 4) == b"done"
        self.peer.close()
        assert json.loads((self.directory / "said").read_text()) == WANTED[self.prepare]


@pytest.mark.parametrize("mode, prepare", [("hybrid", "unread"), ("postcopy", "unread"), ("hybrid", "read"), ("hybrid", "mark"),
                                           ("hybrid", "inline")])
def test_there_and_back(two_hosts, lan, address, keys, tmp_path, mode, prepare):
    a, b, _ = two_hosts
    reader = Reader(lan, a, tmp_path, prepare, lan.service6 if mode == "postcopy" else lan.service)
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            with address.goes_to(target) as hook:
                done = send(source, server, reader.pid, mode=mode, hook=hook)
            assert done.status == 0, done.text()
    reader.reads()
    assert not locks(a) and not locks(b)


def test_checkpoint(two_hosts, lan, address, tmp_path):
    a, _, _ = two_hosts
    reader = Reader(lan, a, tmp_path, "unread", lan.service)
    with Place() as place:
        directory = place.make()
        dump(a, place, reader.pid, directory, "--tcp-established")
        wait_gone(a, [reader.pid])
        restore(a, place, directory, "--tcp-established")
    reader.reads()


def test_not_accepted(two_hosts, lan, address, page_server, start_victim):
    """It waits in a connection that waits: what is read in line comes without it."""
    a, b, _ = two_hosts
    victim = start_victim(a, "tcp-queue", PORT)
    waiting = Waiting(lan, victim, 2)
    waiting.peers[0].send(b"!", socket.MSG_OOB)
    waiting.peers[0].sendall(b"behind")
    waiting.said[0] = b"!behind"
    wait_until(lambda: waiting.arrived(a), 10, "it comes")
    with address.goes_to(b) as hook:
        done = send(a, page_server, victim.pid, hook=hook)
    assert done.status == 0, done.text()
    victim.host = b
    waiting.said[0] = b"behind"
    waiting.are_served()
