# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that makes and gives up whatever there is, all the time, moved 50 times: nothing is lost, nothing stays behind."""
import os

from matrix import freezers
from pagestream import PageServer, send

ROUND_TRIPS = 25
# What may differ between two checks: thread stacks and arenas that the C library keeps or gives back.
MAPPINGS, RESIDENT = 8, 2048


class Numbers:
    """What there is of the things that could leak: in the victim, in both page servers, on both hosts."""

    def __init__(self, victim, servers):
        self.note = {name: int(value) for name, value in victim.note.items()}
        self.servers = [(len(os.listdir(f"/proc/{self._outer(server)}/fd")), len(os.listdir(f"/proc/{self._outer(server)}/task")))
                        for server in servers]

    @staticmethod
    def _outer(server):
        return server.host.outer_pid(server.pid())

    def compare(self, now):
        assert now.note["descriptors"] == self.note["descriptors"], (self.note, now.note)
        assert now.note["tasks"] == self.note["tasks"], (self.note, now.note)
        assert now.note["mappings"] <= self.note["mappings"] + MAPPINGS, (self.note, now.note)
        assert now.note["resident"] <= self.note["resident"] + RESIDENT, (self.note, now.note)
        assert now.servers == self.servers


def test_storm(two_hosts, keys, start_victim):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "storm")
        victim.check(a)
        before = None
        for trip in range(ROUND_TRIPS):
            for source, target, server, mode in ((a, b, on_b, "hybrid"), (b, a, on_a, "postcopy")):
                result = send(source, server, victim.pid, mode=mode)
                assert result.status == 0, f"trip {trip}: {result.text()}{victim.log()}"
                victim.host = target
                victim.check(target)
            now = Numbers(victim, (on_a, on_b))
            before = before or now
            before.compare(now)
        sessions = {path.stem for server in (on_a, on_b) for path in server.state_dir.glob("sessions/*.journal")}
        assert not freezers(sessions)
