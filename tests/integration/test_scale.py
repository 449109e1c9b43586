# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees with very many of one thing, moved there and back: all of it is there afterwards, and works."""
import contextlib
import resource
import socket

import pytest
from address_hook import Address
from hosts import wait_until
from pagestream import PageServer, send

PORT = 7070
CONNECTIONS = 5000
DESCRIPTORS = 19900  # of 20,000, beyond which no program here can go
SOFT_LIMIT = 1024    # of descriptors, as most systems have it at first
MANY = {  # threads, children, descriptors, mappings
    "processes": (0, 1000, 0, 0),
    "threads": (2000, 0, 0, 0),
    "descriptors": (0, 0, DESCRIPTORS, 0),
    "mappings": (0, 0, 0, 30000),
}


@contextlib.contextmanager
def limit(soft):
    """Of descriptors, for all programs that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def there_and_back(a, b, keys, pid, check, hook_for=None):
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for source, target, server in ((a, b, on_b), (b, a, on_a)):
            if hook_for:
                with hook_for(target) as hook:
                    done = send(source, server, pid, hook=hook)
            else:
                done = send(source, server, pid)
            assert done.status == 0, done.text()
            check(target)


@pytest.mark.parametrize("kind", MANY)
def test_many(two_hosts, keys, start_victim, kind):
    a, b, _ = two_hosts
    if kind == "descriptors" and resource.getrlimit(resource.RLIMIT_NOFILE)[1] < DESCRIPTORS + 100:
        pytest.skip(f"no program here may have {DESCRIPTORS} descriptors")
    with limit(SOFT_LIMIT):
        victim = start_victim(a, "tick", 1, 0, *MANY[kind])
        victim.check(a)
        there_and_back(a, b, keys, victim.pid, victim.check)


class Words:
    """Many connections to an echo server, on each of which a number goes there and back."""

    def __init__(self, client, address, count):
        self.round = 0
        self.connections = []
        with client.network():
            for _ in range(count):
                self.connections.append(socket.create_connection((address, PORT), 20))

    def _word(self, number):
        return number.to_bytes(4, "big") + self.round.to_bytes(4, "big")

    def say(self):
        self.round += 1
        for number, connection in enumerate(self.connections):
            connection.sendall(self._word(number))

    def hear(self):
        """Each has its own answer, all of it and nothing else."""
        for number, connection in enumerate(self.connections):
            got = connection.recv(8, socket.MSG_WAITALL)
            assert got == self._word(number), f"connection {number} of {len(self.connections)}: {got!r} in round {self.round}"

    def close(self):
        for connection in self.connections:
            connection.close()


def test_connections(two_hosts, lan, keys, start_victim, tmp_path):
    """What was said before a move is heard after it, and each connection goes on."""
    a, b, _ = two_hosts
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < CONNECTIONS + 100:
        pytest.skip(f"this test may not have {CONNECTIONS} descriptors")
    lan.give(a)
    address = Address(lan, tmp_path)
    victim = start_victim(a, "tcp-echo", PORT)
    words = Words(lan.hosts[0], lan.service, CONNECTIONS)
    try:
        words.say()

        def check(host):
            words.hear()
            victim.check(host)
            assert victim.note == {"connections": str(CONNECTIONS)}
            words.say()

        check(a)
        there_and_back(a, b, keys, victim.pid, check, address.goes_to)
        words.hear()
    finally:
        words.close()
    wait_until(lambda: victim.check(a) or victim.note["connections"] == "0", 20, "all connections have ended")


@pytest.mark.parametrize("most", [150, 400])
def test_too_few_descriptors(two_hosts, page_server, start_victim, most):
    """Several are needed for each process, here 101: it is said that they do not suffice, and the tree goes on."""
    a, _, _ = two_hosts
    victim = start_victim(a, "tick", 1, 0, 0, 100)
    victim.check(a)
    refused = send(a, page_server, victim.pid, prefix=["prlimit", f"--nofile={most}"])
    assert refused.status == 1 and "Too many open files" in refused.stderr, refused.text()
    victim.check(a)
