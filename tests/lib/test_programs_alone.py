# SPDX-License-Identifier: LGPL-2.1-or-later
"""The programs, their writers and verifiers work when nobody moves anything, and notice what is
wrong.
"""
import shutil
import time

import pytest

from delay_proxy import DelayProxy
from hosts import wait_until
from programs import ConnectionLost, Memcached, PyWorker, Redis, RedisClient, value_of
from programs_sqlite import Sqlite

STORES = {"redis-server": Redis, "memcached": Memcached}


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program} (apt-get install)")


@pytest.mark.parametrize("program", STORES)
def test_store(host, program):
    need(program)
    with STORES[program](host, mib=4) as store:
        store.load()
        with store.writer(rate=5000) as writer:
            writer.wait_progress(writes=1000)
        store.verify(writer)
        client = store.client()
        client.set_many([("k:5", b"wrong")])
        with pytest.raises(AssertionError, match="k:5"):
            store.verify()
        client.set_many([("k:5", value_of("k:5", 0)), ("w:5", b"wrong")])
        client.close()
        with pytest.raises(AssertionError, match="w:5"):
            store.verify(writer)


def test_redis_digest_and_child(host):
    need("redis-server")
    with Redis(host, mib=4) as redis:
        redis.load()
        before = redis.digest()
        assert redis.size_check() == redis.keys
        redis.start_saving()
        assert redis.saved() == "ok"
        assert redis.digest() == before
        client = redis.client()
        client.set_many([("k:0", b"x")])
        client.close()
        assert redis.digest() != before


def test_writer_reconnects(two_hosts):
    """The program is ended on one host and started with the same data on the other: the writer
    finds it.
    """
    need("redis-server")
    a, b, _ = two_hosts
    with Redis(a, mib=1) as one, Redis(b, mib=1) as other:
        with one.writer() as writer:
            writer.allow(b)
            one.host.kill(one.pid)
            wait_until(lambda: writer.reconnects > 0, 10, "the connection is lost")
            writer.wait_progress()
        client = other.client()
        assert writer.longest_gap > 0
        client.close()


def test_pyworker(host):
    with PyWorker(host) as worker:
        worker.check()
        worker.check()
        assert int(worker.note["stored"]) > 0


def test_sqlite(host):
    need("sqlite3")
    with Sqlite(host, rows=3000) as shell:
        shell.begin()
        shell.verify(committed=False)
        shell.commit()
        shell.verify()


def test_delay_proxy(host):
    need("redis-server")
    with Redis(host, mib=1) as redis, DelayProxy(host, f"127.0.0.1:{redis.port}", 30) as proxy:
        address, port = proxy.to.split(":")
        client = RedisClient(host.connect(address, int(port)))
        client.command("PING")
        start = time.monotonic()
        client.command("PING")
        assert 0.06 <= time.monotonic() - start < 0.5
        client.close()


def test_link(two_hosts):
    """cut() in both ways loses everything, restore() brings it back, limit() limits."""
    need("redis-server")
    a, b, net = two_hosts
    with Redis(b, mib=1) as redis:
        for how in ("drop", "down"):
            client = RedisClient(a.connect(b.address, redis.port, timeout=0.3))
            assert client.alive()
            net.cut(how)
            with pytest.raises(ConnectionLost):
                client.alive()
            net.restore()
            client.close()
            client = RedisClient(a.connect(b.address, redis.port))
            assert client.alive()
            client.close()
        net.limit("8mbit", burst="32kb")
        client = RedisClient(a.connect(b.address, redis.port, timeout=20))
        start = time.monotonic()
        client.set_many([("x", bytes(1 << 19))])
        assert time.monotonic() - start > 0.2
        client.close()
