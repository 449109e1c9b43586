# SPDX-License-Identifier: LGPL-2.1-or-later
"""The networks that other tests rest on."""
import socket

import pytest
from hosts import Lan, wait_until


def listen(host, address):
    with host.network():
        server = socket.create_server((address, 8080), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    server.settimeout(10)
    return server


@pytest.mark.parametrize("address", [Lan.service, Lan.service6], ids=["v4", "v6"])
def test_service_moves(two_hosts, lan, address):
    a, b, _ = two_hosts
    client = lan.hosts[0]
    for host in (a, b, a):
        lan.give(host)
        with listen(host, address) as server, client.connect(address, 8080, timeout=10) as connection:
            accepted, peer = server.accept()
            with accepted:
                accepted.sendall(host.name.encode())
                assert connection.recv(10) == host.name.encode()
            assert peer[0] in (lan.addresses["client"], lan.addresses6["client"])
        wait_until(lambda: lan.neighbour(client, address) == lan.hardware(host), 5, "the client knows where it is")
    lan.give(None)
    assert not any(lan.has(host, address) for host in lan.hosts)
