# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's own programs, moved under load in each mode; their data compared afterwards."""
import pytest
from pagestream import send
from programs import Memcached, PyWorker, Redis
from programs_sqlite import Sqlite

MODES = ["precopy", "hybrid", "postcopy"]


def moved(result):
    assert result.status == 0, result.text()
    facts = result.json
    assert facts["outcome"] == "moved" and facts["downtime_ms"] > 0, facts
    return facts


def hand(store, host):
    """The driver's word that the program is on another host now."""
    store.host = host


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("store", [Redis, Memcached], ids=["redis", "memcached"])
def test_store_under_load(two_hosts, page_server, store, mode):
    a, b, _ = two_hosts
    with store(a, mib=48) as server:
        server.load()
        with server.writer() as writer:
            writer.wait_progress()
            facts = moved(send(a, page_server, server.pid, mode=mode, tcp_close=True))
            hand(server, b)
            writer.allow(b)
            writer.wait_progress()
            writer.stop()
            server.verify(writer)
        if mode == "postcopy":
            assert facts["pages_postcopy"] > 1000, facts


@pytest.mark.parametrize("mode", MODES)
def test_redis_digest(two_hosts, page_server, mode):
    a, b, _ = two_hosts
    with Redis(a, mib=32) as server:
        server.load()
        before = server.digest()
        moved(send(a, page_server, server.pid, mode=mode, tcp_close=True))
        hand(server, b)
        assert server.digest() == before


@pytest.mark.parametrize("mode", MODES)
def test_python_with_threads(two_hosts, page_server, mode):
    a, b, _ = two_hosts
    with PyWorker(a) as worker:
        worker.wait_ready()
        worker.check(a)
        moved(send(a, page_server, worker.pid, mode=mode))
        worker.check(b)


@pytest.mark.parametrize("mode", MODES)
def test_sqlite_in_transaction(two_hosts, page_server, mode):
    a, b, _ = two_hosts
    with Sqlite(a) as shell:
        shell.begin()
        shell.prepare(b)
        moved(send(a, page_server, shell.pid, mode=mode))
        hand(shell, b)
        shell.commit()
        shell.verify()
