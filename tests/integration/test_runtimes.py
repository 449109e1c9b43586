# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs with a runtime of their own, busy all the time: Java with its collector, Node.js with its thread pool and a worker,
a Python pool over several processes. Each verifies what it computes and says so after every move."""
import pytest
from checkpoint import Place, dump, restore, wait_gone
from pagestream import PageServer, send
from runtimes import COMMANDS, start

ROUND_TRIPS = 5


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
@pytest.mark.parametrize("kind", COMMANDS)
def test_there_and_back(two_hosts, keys, kind, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b, start(a, kind) as victim:
        victim.check(a)
        for source, target, server in [(a, b, on_b), (b, a, on_a)] * ROUND_TRIPS:
            result = send(source, server, victim.pid, mode=mode)
            assert result.status == 0, result.text() + victim.log()
            victim.host = target
            victim.check(target)


@pytest.mark.parametrize("kind", COMMANDS)
def test_checkpoint(host, kind):
    with Place() as place, start(host, kind) as victim:
        victim.check(host)
        for words in ((), ("--lazy-pages",)):
            directory = place.make("+".join(("ended", *words)))
            pids = host.tree(victim.pid)
            dump(host, place, victim.pid, directory)
            wait_gone(host, pids)
            restore(host, place, directory, *words)
            victim.check(host)
