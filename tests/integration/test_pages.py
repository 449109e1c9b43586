# SPDX-License-Identifier: LGPL-2.1-or-later
"""The victim that knows what each of its pages must hold, moved to and fro while it writes."""
import pytest
from pagestream import PageServer, send

MOVES = 20


@pytest.mark.parametrize("mode", ["hybrid", "precopy", "postcopy"])
def test_no_wrong_page(two_hosts, keys, start_victim, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "pages", "24", "2", "4000")
        places = [(a, b, on_b), (b, a, on_a)]
        for number in range(MOVES):
            source, target, server = places[number % 2]
            result = send(source, server, victim.pid, mode=mode, streams=1 + number % 3)
            assert result.status == 0, f"move {number}: {result.text()}"
            victim.host = target
            victim.check(target)
