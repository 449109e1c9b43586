# SPDX-License-Identifier: LGPL-2.1-or-later
"""The points at which other tests hold migrate and pageserver: each is reached, and a move that was held goes on."""
import pytest
from pagestream import PageServer, send_start, stop_at

MIGRATE = ["connect", "preflight", "pre-copy", "round 1", "freeze", "stopped", "hand-over", "held", "commit", "commit-journal",
           "commit-sent", "running-read", "post-copy", "complete", "done"]
PAGESERVER = ["new", "checked", "laid out", "round done", "restored", "prepared", "committed", "let-go", "running",
              "running-sent", "complete", "finished"]


@pytest.mark.parametrize("who, point", [("migrate", p) for p in MIGRATE] + [("pageserver", p) for p in PAGESERVER])
def test_stops_and_goes_on(two_hosts, keys, start_victim, who, point):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "2", "1", "100")
    with PageServer(b, keys, env=stop_at(point) if who == "pageserver" else None) as server:
        job = send_start(a, server, victim.pid, mode="postcopy", env=stop_at(point) if who == "migrate" else None)
        held = job if who == "migrate" else server
        held.wait_stopped()
        held.go_on()
        assert job.wait(60).status == 0, job.text()
    victim.check(b)
