# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checkpoints of each kind of state: dumped, ended, restored, checked; and left running."""
import pathlib
import shutil

import pytest
from checkpoint import Place, dump, restore, wait_gone
from test_state import PRIVATE, VICTIMS


@pytest.fixture
def place():
    with Place() as made:
        yield made


PROTOCOL = {"check", "result", "ready", "skip"}  # of victims


class Files:
    """The victim's files as they were at the dump: a process that was restored from it has changed them."""

    def __init__(self, victim, place):
        self.directory, self.kept = victim.dir, place.path / "files"
        shutil.copytree(self.directory, self.kept, symlinks=True, ignore=self._ignored)

    @staticmethod
    def _ignored(directory, names):
        return [name for name in names if name in PROTOCOL or not (pathlib.Path(directory) / name).is_file()]

    def put_back(self):
        for path in self.kept.iterdir():
            if path.is_file():
                shutil.copy2(path, self.directory / path.name)


@pytest.mark.parametrize("kind", VICTIMS)
def test_state(host, place, start_victim, kind):
    name, *args = kind.split(":")
    words = ["--tcp-established"] if kind == "tcp-pairs" else []
    victim = start_victim(host, name, *args, private=name in PRIVATE)
    victim.check(host)
    # It goes on, with the checkpoint made ...
    facts = dump(host, place, victim.pid, place.make("running"), "--leave-running", *words)
    assert facts["downtime_ms"] > 0, facts
    victim.check(host)
    # ... and ends with the second one, which is restored twice.
    pids = host.tree(victim.pid)
    directory = place.make("ended")
    dump(host, place, victim.pid, directory, *words)
    wait_gone(host, pids)
    files = Files(victim, place)
    restore(host, place, directory, *words)
    victim.check(host)
    for pid in host.tree(victim.pid):
        host.kill(pid)
    wait_gone(host, pids)
    # What outlives its users: System V objects are in the way; files in memory are made again, or get their content back.
    host.run(["ipcrm", "--all"])
    if kind in ("posix-shm", "mqueue"):
        host.run(["find", "/dev/shm", "/dev/mqueue", "-xdev", "-type", "f", "-not", "-name", "victim-mapped-*", "-delete"])
    files.put_back()
    restore(host, place, directory, "--lazy-pages", *words)
    victim.check(host)
