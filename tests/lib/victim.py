# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts victims (tests/victims, protocol in victim.h) on a host and asks them whether their state
is right.

    with Victim(a, "pipes") as victim:
        victim.check()
        ... move it ...
        victim.check(b)

The files of the protocol lie in a directory that both hosts share, so a check needs no connection
to the victim.
"""
import os
import pathlib
import shutil
import stat
import tempfile

from hosts import victim_path, wait_until

READY_SECONDS = 120
CHECK_SECONDS = 60


class VictimSkip(Exception):
    """The victim says that this machine lacks what it would test."""


class Victim:
    """A running victim. pid is its PID inside the host; note is what the last good check said
    besides ok.
    """

    def __init__(self, host, name, args=(), env=None, keep=False, private=False, command=None):
        """private: a directory of the host's own (under /mnt) is the last argument; see prepare().
        command: runs this instead of the victim of that name, with DIR and args added."""
        self.host = host
        self.name = name
        self.note = {}
        self.keep = keep
        self.number = 0
        if command is None:
            program = victim_path(name)
            if not program.exists():
                raise FileNotFoundError(f"{program}: build first "
                                        f"(meson compile -C {program.parents[2]})")
            command = [program]
        # Short and world-writable: UNIX socket paths are limited, and some victims give up being
        # root.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"v-{name}-"))
        self.dir.chmod(0o777)
        args = list(map(str, args))
        self.private = f"/mnt/{self.dir.name}" if private else None
        if private:
            host.path(self.private).mkdir(mode=0o777)
            args.append(self.private)
        self.pid = host.spawn_daemon([*command, self.dir, *args], stdout=self.dir / "log",
                                     stderr=self.dir / "log", env=env, cwd="/")

    def __enter__(self):
        self.wait_ready()
        return self

    def __exit__(self, *_):
        self.stop()

    def log(self):
        try:
            return (self.dir / "log").read_text(errors="replace")
        except OSError:
            return ""

    def wait_ready(self, seconds=READY_SECONDS):
        """Waits for the state to be set up; raises VictimSkip or AssertionError when it never will
        be.
        """
        def done():
            if (self.dir / "ready").exists() or (self.dir / "skip").exists():
                return True
            if not self.host.alive(self.pid) and not (self.dir / "skip").exists():
                raise AssertionError(f"victim {self.name} ended before it was ready:\n{self.log()}")
            return False

        try:
            wait_until(done, seconds, f"victim {self.name} ready")
        except BaseException:
            self.stop()
            raise
        if (self.dir / "skip").exists():
            reason = (self.dir / "skip").read_text().strip()
            self.stop()
            raise VictimSkip(reason)
        return self

    def check(self, host=None, seconds=CHECK_SECONDS):
        """Asks once. host is where the victim should be by now; it is remembered. Raises
        AssertionError with the reason.
        """
        host = self.host = host or self.host
        self.number += 1
        new = self.dir / ".check.new"
        new.write_text(f"{self.number}\n")
        new.chmod(0o644)
        os.rename(new, self.dir / "check")
        prefix = f"{self.number} "

        def answered():
            try:
                text = (self.dir / "result").read_text()
            except OSError:
                text = ""
            if text.startswith(prefix):
                return text
            if not host.alive(self.pid):
                raise AssertionError(f"victim {self.name}: PID {self.pid} is not alive on host "
                                     f"{host.name} (state {host.state(self.pid)})\n{self.log()}")
            return None

        try:
            text = wait_until(answered, seconds, "check")
        except TimeoutError:
            raise AssertionError(f"victim {self.name}: PID {self.pid} on host {host.name}, state "
                                 f"{host.state(self.pid)}, did not answer within {seconds} s\n"
                                 f"{self.log()}") from None
        words = text.split()
        if words[1] != "ok":
            raise AssertionError(f"victim {self.name}: {text.strip()}\n{self.log()}")
        self.note = dict(word.split("=", 1) for word in words[2:] if "=" in word)

    def prepare(self, host):
        """Makes the private directory on the host that the victim is to move to, with its FIFOs and
        files, as a user would.
        """
        if self.private is None:
            return
        source, target = self.host.path(self.private), host.path(self.private)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o777)
        made = {}  # inode: its first name on the target
        for entry in source.iterdir():
            status = entry.lstat()
            mode = status.st_mode
            first = made.setdefault(status.st_ino, target / entry.name)
            if first.name != entry.name:
                os.link(first, target / entry.name)
            elif stat.S_ISFIFO(mode):
                os.mkfifo(target / entry.name, stat.S_IMODE(mode))
            elif stat.S_ISDIR(mode):
                (target / entry.name).mkdir(stat.S_IMODE(mode))
            elif stat.S_ISREG(mode) and status.st_size == 0:  # to open it could break a lease
                (target / entry.name).touch(stat.S_IMODE(mode))
                os.utime(target / entry.name, ns=(status.st_atime_ns, status.st_mtime_ns))
            elif stat.S_ISREG(mode):
                shutil.copy2(entry, target / entry.name)

    def stop(self):
        """Ends the victim and its descendants, wherever they are last known to be, and removes its
        directory.
        """
        if self.pid is not None:
            for pid in self.host.tree(self.pid):
                self.host.kill(pid)
            self.pid = None
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
