# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs in other languages, each of which checks itself and answers as a victim does; and stress-ng, whose stressors verify
what they do.

    with start(host, "node") as victim:
        ...
    with StressNg(host, "mmap") as stress:
        ... move stress.pid ...
        stress.host = b
        stress.finish()                 # ends it; fails if a stressor found anything wrong
"""
import pathlib
import re
import shutil
import signal
import tempfile

from hosts import wait_until
from victim import Victim

VICTIMS = pathlib.Path(__file__).resolve().parents[1] / "victims"
COMMANDS = {
    "java": ["/usr/bin/java", "-Xmx128m", "-XX:+UseG1GC", VICTIMS / "Heap.java"],
    "node": ["/usr/bin/node", VICTIMS / "server.js"],
    "multiprocessing": ["/usr/bin/python3", "-B", VICTIMS / "pool.py"],
}
# What stress-ng says when something was wrong, and when a run came to its end.
WRONG = re.compile(r"\b(fail|error|unexpected|aborted|killed by signal|terminated on signal)", re.IGNORECASE)
COMPLETE = "successful run completed"


def start(host, kind):
    return Victim(host, kind, command=COMMANDS[kind])


class StressNg:
    """One kind of stressor, two instances of it, until finish()."""

    def __init__(self, host, stressor, options=()):
        self.host = host
        self.stressor = stressor
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="p-stress-"))
        self.pid = host.spawn_daemon(["/usr/bin/stress-ng", f"--{stressor}", "2", "--verify", "--timeout", "600",
                                      "--temp-path", self.dir, *options],
                                     stdout=self.dir / "log", stderr=self.dir / "log", cwd=self.dir)

    def __enter__(self):
        wait_until(lambda: "dispatching hogs" in self.log() and len(self.host.tree(self.pid)) >= 3 or
                   not self.host.alive(self.pid), 30, f"stress-ng --{self.stressor} runs")
        return self

    def __exit__(self, *_):
        for pid in self.host.tree(self.pid):
            self.host.kill(pid)
        shutil.rmtree(self.dir, ignore_errors=True)

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def finish(self, seconds=60):
        """Lets it come to its end, as Ctrl-C does."""
        self.host.kill(self.pid, signal.SIGINT)
        wait_until(lambda: not self.host.alive(self.pid), seconds, f"stress-ng --{self.stressor} ends\n{self.log()}")
        log = self.log()
        assert COMPLETE in log and not WRONG.search(log), log
