# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees that change while they are moved."""
import pytest
from pagestream import PageServer, send_start, stop_at


@pytest.mark.parametrize("point,mode", [("round 2", "hybrid"), ("freeze", "hybrid"), ("freeze", "postcopy")])
@pytest.mark.parametrize("kind", ["kinship", "zombies", "stopped", "tree"])
def test_check_meanwhile(two_hosts, keys, start_victim, kind, point, mode):
    """A check ends processes, gives others to another parent, and makes new ones: all of it when the target has them already."""
    a, b, _ = two_hosts
    with PageServer(b, keys) as server:
        victim = start_victim(a, kind)
        victim.check(a)
        job = send_start(a, server, victim.pid, mode=mode, env=stop_at(point))
        job.wait_stopped()
        victim.check(a)
        job.go_on()
        result = job.wait()
        assert result.status == 0, result.text() + victim.log()
        victim.host = b
        victim.check(b)
        victim.check(b)
