# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every refusal has to come with: an error that names its object, and nothing changed anywhere.

    with Unharmed(a, b, victim, server) as watch:
        watch.refused(send(a, server, victim.pid, state_dir=watch.state), "userfaultfd")
"""
import pathlib
import shutil
import tempfile

from hosts import wait_until
from pagestream import NOT_MOVED, send
from snapshot import diff_settled, snapshot

CGROUPS = [pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/unified")]


def refused(result, *words, status=NOT_MOVED):
    """The result of migrate send: its status, and that its messages have all of these words."""
    assert result.status == status, result.text()
    for word in words:
        assert word in result.stderr, f"{word!r} is not in what it says\n{result.text()}"


def cgroups_of(session):
    """Cgroups of a session that are left, on either side."""
    return [path for root in CGROUPS for path in root.rglob(f"pagestream-{session[:16]}*")]


class Unharmed:
    """Watches two hosts, a process on the first and the page server on the second; at the end of the block all is as
    at its beginning, but for journals of the target, and the page server takes the next session. `victim` may be None.
    """

    def __init__(self, a, b, victim=None, server=None):
        self.a, self.b, self.victim, self.server = a, b, victim, server
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-"))
        self.sessions = []

    def __enter__(self):
        self.before = self.victim and snapshot(self.a, self.victim.pid)
        self.pids = [set(host.pids()) for host in (self.a, self.b)]
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._check()
        finally:
            shutil.rmtree(self.state, ignore_errors=True)

    def refused(self, result, *words, status=NOT_MOVED):
        refused(result, *words, status=status)
        session = result.json.get("session")
        if session:
            self.sessions.append(session)

    def _check(self):
        for host, pids in zip((self.a, self.b), self.pids):
            wait_until(lambda: set(host.pids()) == pids, 10, f"host {host.name} has the processes that it had")
        left = list(self.state.glob("sessions/*"))
        assert not left, f"journals that are left: {left}"
        for session in self.sessions:
            assert not cgroups_of(session)
        if self.victim:
            lines = diff_settled(self.before, self.a, self.victim.pid)
            assert not lines, lines
            self.victim.check(self.a)
        if self.server:
            bystander = self.a.spawn_daemon(["/bin/sleep", "60"])
            try:
                again = send(self.a, self.server, bystander, dry_run=True)
                assert again.status == 0, again.text()
            finally:
                self.a.kill(bystander)
