# SPDX-License-Identifier: LGPL-2.1-or-later
"""migrate dump, pre-dump and restore on a host, for tests."""
import json
import pathlib
import shutil
import tempfile

from hosts import SHARED_MEMORY, wait_until
from pagestream import migrate

class Place:
    """A directory for checkpoints, and one for journals, on tmpfs; context manager."""

    def __enter__(self):
        SHARED_MEMORY.mkdir(exist_ok=True)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="pagestream-checkpoint-", dir=SHARED_MEMORY))
        self.state_dir = self.path / "state"
        self.state_dir.mkdir()
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def make(self, name="dump"):
        """A new, empty directory."""
        path = self.path / name
        path.mkdir()
        return path


def run(host, place, *words, seconds=120):
    return migrate(host, *words, state_dir=place.state_dir, seconds=seconds)


def text(result):
    return f"{result.args}: status {result.returncode}\n{result.stdout}{result.stderr}"


def dump(host, place, pid, directory, *words, command="dump"):
    """Dumps; returns what --json says."""
    result = run(host, place, command, "-t", pid, "-D", directory, "-l", "--json", *words)
    assert result.returncode == 0, text(result)
    return json.loads(result.stdout)


def restore(host, place, directory, *words):
    """Restores detached; returns what --json says."""
    result = run(host, place, "restore", "-D", directory, "-d", "--json", *words)
    assert result.returncode == 0, text(result)
    return json.loads(result.stdout) if result.stdout.strip() else {}


def wait_gone(host, pids):
    """PIDs can be used again once nothing is left of a process."""
    for pid in pids:
        wait_until(lambda pid=pid: host.outer_pid(pid) is None, 20, f"the end of PID {pid}")
