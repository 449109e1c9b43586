# SPDX-License-Identifier: LGPL-2.1-or-later
"""migrate show and migrate core on checkpoints of processes that go on running."""
import json
import subprocess

from pagestream import program


def command(host, *argv, directory="/"):
    """Runs migrate in a directory; gives the finished process, whatever its status."""
    return subprocess.run(host.argv(["env", "-C", directory, program("migrate"), *map(str, argv)]), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)


def dump(host, pid, directory, *options):
    """A checkpoint of a tree that goes on running."""
    directory.mkdir(exist_ok=True)
    done = command(host, "dump", "-t", pid, "-D", directory, "-R", "--state-dir", directory.parent / "state", *options)
    assert done.returncode == 0, done.stderr
    return directory


def show(host, path, *options, status=0):
    """The object that migrate show --json prints."""
    done = command(host, "show", "--json", path, *options)
    assert done.returncode == status, (done.returncode, done.stderr)
    return json.loads(done.stdout)
