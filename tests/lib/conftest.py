# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures for all tests that need hosts. Other test folders get them by `from conftest import *`
or pytest's -p option.
"""
import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import hosts  # noqa: E402
import pagestream  # noqa: E402
import service_lan  # noqa: E402
import victim as victims  # noqa: E402


def missing_reason():
    """Why hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    for tool in ("nsenter", "ip", "tc", "nft"):
        if shutil.which(tool) is None:
            return f"needs {tool} (Debian: util-linux, iproute2, nftables)"
    if not hosts.victim_path("host-init").exists():
        return f"needs a build in {hosts.build_dir()} (set PAGESTREAM_BUILD)"
    return None


@pytest.fixture(scope="session")
def can_make_hosts():
    reason = missing_reason()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def host(can_make_hosts):
    """One host without a network but lo."""
    with hosts.Host("a", pid_base=1000) as a:
        yield a


@pytest.fixture
def two_hosts(can_make_hosts):
    """(a, b, net): two hosts whose PIDs do not collide, joined by a link."""
    with hosts.Host("a", pid_base=1000) as a, hosts.Host("b", pid_base=20000) as b:
        with hosts.Net(a, b) as net:
            yield a, b, net


@pytest.fixture
def lan(two_hosts):
    """A Lan of a third host, `lan.hosts[0]`, and the two of two_hosts."""
    a, b, _ = two_hosts
    with hosts.Host("client", pid_base=40000) as client, hosts.Lan(client, a, b) as joined:
        yield joined


@pytest.fixture
def start_victim():
    """Function (host, name, *args) that gives a ready victim; a victim that says skip skips the
    test, with its reason.
    """
    running = []

    def start(host, name, *args, **options):
        running.append(victims.Victim(host, name, args, **options))
        try:
            return running[-1].wait_ready()
        except victims.VictimSkip as e:
            pytest.skip(str(e))

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def keys():
    """Certificates for both hosts; skips when migrate is not built."""
    try:
        pagestream.program("migrate")
    except FileNotFoundError as e:
        pytest.skip(str(e))
    made = pagestream.Keys()
    yield made
    made.remove()


@pytest.fixture
def page_server(two_hosts, keys):
    """A page server on host b."""
    _, b, _ = two_hosts
    with pagestream.PageServer(b, keys) as server:
        yield server


@pytest.fixture
def site(two_hosts, keys, tmp_path):
    """A service_lan.ServiceLan; the service's addresses are host a's."""
    with service_lan.ServiceLan(two_hosts, keys, tmp_path) as made:
        yield made
