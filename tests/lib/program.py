# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the real programs of programs*.py have in common."""
import pathlib
import shutil
import tempfile


class Program:
    """One on a host, with a directory of its own. `pid` is its first process, None before it has been started; `host` is where
    it is by now: the caller sets that after a move.
    """

    LOGS = ["log"]  # in its directory

    def __init__(self, host, name, mode=0o700):
        self.host = host
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"p-{name}-"))
        self.dir.chmod(mode)
        self.pid = None

    def __exit__(self, *_):
        self.stop()

    def processes(self):
        return self.host.tree(self.pid)

    def stop(self):
        if self.pid is not None:
            for pid in self.processes():
                self.host.kill(pid)
            self.pid = None
        shutil.rmtree(self.dir, ignore_errors=True)

    def log(self):
        return "\n".join((self.dir / name).read_text(errors="replace") for name in self.LOGS if (self.dir / name).exists())
