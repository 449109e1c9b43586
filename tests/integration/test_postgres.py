# SPDX-License-Identifier: LGPL-2.1-or-later
"""PostgreSQL 15, moved with all its processes and clients that commit all the time, in the tree or connected over TCP: no commit
is lost, no connection either, no page is damaged.
"""
import pytest
from checkpoint import Place, dump, restore, wait_gone
from pagestream import PageServer, send
from programs_postgres import Pgbench, Postgres, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

TIMES = 5


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_there_and_back_under_load(two_hosts, keys, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b, Postgres(a, load=True) as server:
        server.fill()
        server.commit(3)
        server.begin()
        for number in range(2 * TIMES):
            source, target = ((a, on_b), (b, on_a))[number % 2]
            server.wait_commits()
            result = send(source, target, server.pid, mode=mode)
            assert result.status == 0, f"move {number}: {result.text()}\n{server.log()}"
            server.host = target.host
            server.wait_commits()
        server.end()
        server.commit(3)
        server.check()
        # Another move, of a server that nobody uses, and clients that come after it.
        assert send(a, on_b, server.pid, mode=mode).status == 0
        server.host = b
        server.commit(3)
        server.check()


def test_checkpoint(host):
    with Place() as place, Postgres(host, load=True) as server:
        server.fill()
        server.begin()
        pids = server.processes()
        dump(host, place, server.pid, place.make())
        wait_gone(host, pids)
        restore(host, place, place.path / "dump")
        server.wait_commits()
        server.end()
        server.check()


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_there_and_back_with_pgbench(site, mode):
    with Postgres(site.a) as server:
        server.fill()
        server.commit(3)
        with Pgbench(server, site.client, site.lan.service) as bench:
            for _ in range(2 * TIMES):
                site.move(server, mode)
                bench.wait_transactions()
            bench.end()
        server.check()


def test_checkpoint_with_pgbench(site):
    with Postgres(site.a) as server:
        server.fill()
        with Pgbench(server, site.client, site.lan.service) as bench:
            site.checkpoint(server)
            bench.wait_transactions()
            bench.end()
        server.check()
