# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that becomes something else at the worst moments of a move."""
import pytest
from hosts import wait_until
from pagestream import PageServer, send_start, stop_at

KINDS = ["dropped", "cut", "file", "anonymous", "offset"]


def change(victim):
    (victim.dir / "change").touch()
    wait_until((victim.dir / "changed").exists, 10, "the victim to change its memory")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["hybrid", "precopy"])
def test_between_rounds(two_hosts, keys, start_victim, mode, kind):
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", kind)
    with PageServer(b, keys) as server:
        job = send_start(a, server, victim.pid, mode=mode, env=stop_at("round 2"))
        job.wait_stopped()
        change(victim)
        job.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["hybrid", "precopy"])
def test_between_layout_and_scan(two_hosts, keys, start_victim, mode, kind):
    """The target has laid out what is there no more when its pages are looked at."""
    a, b, _ = two_hosts
    victim = start_victim(a, "mem-change", kind)
    with PageServer(b, keys, env=stop_at("laid out")) as server:
        job = send_start(a, server, victim.pid, mode=mode)
        server.wait_stopped()
        change(victim)
        server.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)
