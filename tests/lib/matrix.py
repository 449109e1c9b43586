# SPDX-License-Identifier: LGPL-2.1-or-later
"""A move that is held at a stop point, so that either side can be killed there, or the link cut, and a witness who looks on
all the while: never do two copies run.
"""
import os
import pathlib
import threading

from hosts import wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at
from snapshot import diff_settled, snapshot

# The program's long waits, divided: a dead link counts as dead after a second.
HURRY = {"PAGESTREAM_HURRY": "5"}


def _cgroup_mounts():
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return [pathlib.Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]


def freezers(sessions):
    """The cgroups of these sessions: hosts share the hierarchy, with one another and with whatever else runs."""
    sessions = list(sessions)
    return [path for mount in _cgroup_mounts() for path in mount.rglob("pagestream-*")
            if any(path.name.startswith(f"pagestream-{session[:16]}") for session in sessions)]


def runs(host, pid, program):
    """Whether the process executes the program: it is there, has become that program, and is neither frozen nor held by a
    tracer nor about to die.
    """
    try:
        proc = host.path(f"/proc/{pid}")
        status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
        if status["State"][0] in "ZXTt" or status["TracerPid"].strip() != "0" or os.readlink(proc / "exe") != program:
            return False
        if (int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) & 1 << 8:
            return False
        group = [line[4:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::/")]
        for mount in _cgroup_mounts():
            events = mount / group[0] / "cgroup.events"
            if group and events.exists() and "frozen 1" in events.read_text():
                return False
    except (OSError, KeyError, IndexError):
        return False
    return True


class Witness(threading.Thread):
    """Looks again and again whether two copies run."""

    def __init__(self, a, b, pid):
        super().__init__(daemon=True)
        self.hosts, self.pid = (a, b), pid
        self.program = os.readlink(a.path(f"/proc/{pid}/exe"))
        self.saw_two = 0
        self.done = threading.Event()
        self.start()

    def run(self):
        a, b = self.hosts
        while not self.done.wait(0.002):
            if all(runs(host, self.pid, self.program) for host in (a, b, a)):
                self.saw_two += 1

    def end(self):
        self.done.set()
        self.join()
        assert not self.saw_two, f"two copies were seen to run, {self.saw_two} times"


class Move:
    """A victim on its way from a to b, held where `who` ("migrate" or "pageserver") comes to `point`."""

    def __init__(self, two_hosts, keys, start_victim, who, point, mode, size=8, hurry=HURRY):
        self.a, self.b, self.net = two_hosts
        self.victim = start_victim(self.a, "pages", str(size), "1", "500")
        self.pid = self.victim.pid
        self.before = snapshot(self.a, self.pid)
        self.server = PageServer(self.b, keys, env={**stop_at(point if who == "pageserver" else ""), **hurry})
        self.server.start()
        self.witness = Witness(self.a, self.b, self.pid)
        self.job = send_start(self.a, self.server, self.pid, mode=mode, args=["-v"],
                              env={**stop_at(point if who == "migrate" else ""), **hurry})
        self.held = self.job if who == "migrate" else self.server
        self.killed = set()

    def __enter__(self):
        self.held.wait_stopped()
        self.known = self._journals()
        return self

    def __exit__(self, kind, *_):
        self.witness.done.set()
        self.net.restore()
        self.job.kill()
        known = self.known | self._journals()
        self.server.__exit__(None, None, None)
        if kind is None:
            self.witness.end()
            wait_until(lambda: not freezers(known), 20, "all cgroups of the move are gone")

    def _journals(self):
        return {path.stem for side in (self.job, self.server) for path in side.state_dir.glob("sessions/*.journal")}

    def kill(self, who):
        self.killed.add(who)
        (self.job if who == "migrate" else self.server).kill()
        if who == "migrate":
            self.job.process.wait(20)

    def strike(self, how):
        """What is to go wrong: "migrate", "pageserver", both of them in that order ("migrate, pageserver"), "reset", "drop".
        What was held goes on, if it still can.
        """
        if how in ("reset", "drop", "down"):
            self.net.cut(how)
        else:
            for who in how.split(", "):
                self.kill(who)
        self.held.go_on()

    def lose_target(self):
        """Ends the whole host. What it leaves in the cgroup hierarchy, which a real one would not share, is removed."""
        target = set(freezers(path.stem for path in self.server.state_dir.glob("sessions/*.journal")))
        self.kill("pageserver")
        self.b.stop()
        for path in target:
            if "populated 0" in (path / "cgroup.events").read_text():
                path.rmdir()

    def cut_is_felt(self):
        """Waits until migrate has noticed that the link is cut, or has ended without having needed it any more."""
        wait_until(lambda: self.job.status is not None or "no answer to COMMIT" in self.job.stderr or
                   "the link broke" in self.job.stderr, 30, f"the cut is felt\n{self.text()}")

    def text(self):
        return self.job.text()

    def restart_server(self):
        """As a user would: the same command again."""
        self.server.env = {**stop_at(""), **HURRY}
        self.server.start()
        self.killed.discard("pageserver")

    def sessions(self):
        return [line.split()[0] for line in migrate(self.a, "status", state_dir=self.job.state_dir).stdout.splitlines()
                if " PID " in line]

    def resolve(self, *options, seconds=60):
        """migrate resolve of the one session that the source knows."""
        session, = self.sessions()
        return migrate(self.a, "resolve", session, *options, state_dir=self.job.state_dir, seconds=seconds)

    def progresses(self, host):
        """It answers that all of its pages are right, and goes on writing."""
        self.victim.check(host)
        before = int(self.victim.note["writes"])

        def more():
            self.victim.check(host)
            return int(self.victim.note["writes"]) > before

        wait_until(more, 20, "the victim goes on writing")

    def target_is_empty(self, seconds=30):
        """Nothing but the page server is left on the target."""
        def empty():
            own = self.server.pid() if self.server.process.poll() is None else None
            return set(self.b.pids()) <= {own}

        wait_until(empty, seconds, "the target has nothing of the victim any more")

    def is_back(self):
        """It runs on at the source, as it was; nothing of it is on the target, and nothing of the attempt anywhere."""
        self.target_is_empty()
        assert not self.b.alive(self.pid)
        differences = diff_settled(self.before, self.a, self.pid, seconds=15)
        assert not differences, "\n".join([*differences, self.text()])
        self.progresses(self.a)
        wait_until(lambda: not list(self.job.state_dir.glob("sessions/*.journal")), 20, "the journal is removed")

    def has_moved(self):
        """It runs on the target, the source has nothing of it any more."""
        wait_until(lambda: not self.a.alive(self.pid), 20, "the copy on the source is ended")
        self.progresses(self.b)
        wait_until(lambda: set(self.b.pids()) <= {self.pid, self.server.pid()}, 20, "its keeper is gone")
        assert not self.sessions()

    def moves_now(self):
        """Nothing of the failed attempt is in the way of the next one."""
        result = send(self.a, self.server, self.pid)
        assert result.status == 0, result.text()
        self.progresses(self.b)

    def settled(self):
        """0, 1 or 3 as migrate says it in the end; None if it was killed."""
        if "migrate" in self.killed:
            return None
        return self.job.wait(60).status
