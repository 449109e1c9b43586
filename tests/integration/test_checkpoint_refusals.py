# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checkpoints that cannot be made or restored: an error names what is wrong, nothing is left half made or half restored, and
the process runs on as it was."""
import ctypes
import os
import re
import signal
import subprocess

import pytest
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import wait_until
from pagestream import NOT_MOVED, USAGE, program, stop_at
from refusal import cgroups_of
from snapshot import diff_settled, snapshot


@pytest.fixture
def place():
    with Place() as made:
        yield made


class Unharmed:
    """At the end of the block the host has no process that it had not at its beginning, no journal is left, and the victim,
    if there is one, is as it was."""

    def __init__(self, host, place, victim=None):
        self.host, self.place, self.victim = host, place, victim
        self.sessions = set()

    def __enter__(self):
        if self.victim:
            self.victim.check(self.host)  # all of its threads run by then
        self.before = self.victim and snapshot(self.host, self.victim.pid)
        self.pids = set(self.host.pids())
        return self

    def note_session(self):
        """While a journal is there: its cgroups have to be gone at the end."""
        self.sessions |= {path.name.split(".")[0] for path in self.place.state_dir.glob("sessions/*")}

    def no_new_process(self):
        try:
            wait_until(lambda: set(self.host.pids()) <= self.pids, 10, "the host has no process that it had not")
        except TimeoutError as e:
            now = self.host.pids()
            more = {pid: (self.host.state(pid), self.host.run(["ps", "-o", "args=", "-p", pid], check=False).stdout)
                    for pid in set(now) - self.pids}
            raise AssertionError(f"{e}; {more}") from None

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        self.no_new_process()
        wait_until(lambda: not list(self.place.state_dir.glob("sessions/*")), 10, "no journal is left")
        assert not [cgroup for session in self.sessions for cgroup in cgroups_of(session)]
        if self.victim:
            lines = diff_settled(self.before, self.host, self.victim.pid)
            assert not lines, lines
            self.victim.check(self.host)


def refused(result, *words, status=NOT_MOVED):
    assert result.returncode == status, text(result)
    for word in words:
        assert str(word) in result.stderr, f"{word!r} is not in what it says\n{text(result)}"


def refused_restore(host, place, directory, *words):
    with Unharmed(host, place):
        refused(run(host, place, "restore", "-D", directory, "-d"), directory, *words)


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Command lines

T, D = ["-t", "5"], ["-D", "/tmp"]
USES = [
    (["dump"], "-t PID"),
    (["dump", *D], "-t PID"),
    (["dump", *T], "-D DIR"),
    (["dump", "-t"], "-t"),
    (["dump", *T, "-D"], "-D"),
    (["dump", *T, "-D", ""], "-D", "''"),
    (["dump", *T, "-D", "/no/such/place"], "-D", "/no/such/place"),
    (["dump", *T, "-D", "/etc/passwd"], "-D", "/etc/passwd"),
    (["dump", *D, "-t", "5x"], "'5x'"),
    (["dump", *D, "-t", "0"], "'0'"),
    (["dump", *D, "-t", "-1"], "'-1'"),
    (["dump", *D, "--tree", "99999999999"], "'99999999999'"),
    (["dump", *T, *D, "more"], "'more'"),
    (["dump", *T, *D, "-R", "-s"], "-R", "-s"),
    (["dump", *T, *D, "-R", "-R"], "-R"),
    (["dump", *T, *D, "--frobnicate"], "--frobnicate"),
    (["dump", *T, *D, "-x"], "-x"),
    (["dump", *T, *D, "--json=1"], "--json"),
    (["dump", *T, *D, "--leave-running=1"], "--leave-running"),
    (["dump", *T, *D, "--shell-job=1"], "--shell-job"),
    (["dump", *T, *D, "--tcp-close=1"], "--tcp-close"),
    (["dump", *T, *D, "--file-locks=1"], "--file-locks"),
    (["dump", *T, *D, "-o"], "-o"),
    (["dump", *T, *D, "-o", ""], "-o", "''"),
    (["dump", *T, *D, "-W", ""], "-W", "''"),
    (["dump", *T, *D, "-v9"], "-v", "'9'"),
    (["dump", *T, *D, "-vx"], "-v", "'x'"),
    (["dump", *T, *D, "--state-dir", ""], "--state-dir", "''"),
    (["dump", *T, *D, "--pidfile", ""], "--pidfile", "''"),
    (["dump", *T, *D, "--ghost-limit"], "--ghost-limit"),
    (["dump", *T, *D, "--ghost-limit", "big"], "--ghost-limit", "'big'"),
    (["dump", *T, *D, "--ghost-limit", "-1"], "--ghost-limit", "'-1'"),
    (["dump", *T, *D, "--status-fd", "x"], "--status-fd", "'x'"),
    (["dump", *T, *D, "--status-fd", "-1"], "--status-fd", "'-1'"),
    (["dump", *T, *D, "--status-fd", "999"], "--status-fd", "999"),
    (["dump", *T, *D, "--prev-images-dir", ""], "--prev-images-dir", "''"),
    (["pre-dump", *D], "-t PID"),
    (["pre-dump", *T], "-D DIR"),
    (["pre-dump", *T, *D, "-R"], "-R"),
    (["pre-dump", *T, *D, "-s"], "-s"),
    (["pre-dump", *T, *D, "--prev-images-dir"], "--prev-images-dir"),
    (["pre-dump", *T, *D, "more"], "'more'"),
    (["restore"], "-D DIR"),
    (["restore", "-D"], "-D"),
    (["restore", "-D", ""], "-D", "''"),
    (["restore", "-D", "/no/such/place"], "-D", "/no/such/place"),
    (["restore", "-D", "/etc/passwd"], "-D", "/etc/passwd"),
    (["restore", *D, "more"], "'more'"),
    (["restore", *D, "-S"], "-S", "-d"),
    (["restore", *D, "-t", "5"], "-t"),
    (["restore", *D, "--lazy-pages=1"], "--lazy-pages"),
    (["restore", *D, "--restore-detached=1"], "--restore-detached"),
    (["restore", *D, "--pidfile"], "--pidfile"),
    (["restore", *D, "-v5"], "-v", "'5'"),
    (["dedup"], "-D DIR"),
    (["dedup", "-D"], "-D"),
    (["dedup", "-D", ""], "-D", "''"),
    (["dedup", "/no/such/place"], "/no/such/place"),
    (["dedup", "/etc/passwd"], "/etc/passwd"),
    (["dedup", "/tmp", "more"], "'more'"),
    (["dedup", "-x", "/tmp"], "-x"),
    (["check", "5x"], "'5x'"),
    (["check", "0"], "'0'"),
    (["check", "5", "6"], "'6'"),
    (["check", "--json=1"], "--json"),
    (["check", "--frobnicate"], "--frobnicate"),
]


@pytest.mark.parametrize("case", USES, ids=lambda case: " ".join(case[0])[:50])
def test_usage(case, tmp_path):
    argv, *words = case
    done = subprocess.run([program("migrate"), *argv], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)
    refused(done, *words, status=USAGE)
    assert not done.stdout and not list(tmp_path.iterdir())


# Directories that cannot be written to


@pytest.mark.parametrize("command", ["dump", "pre-dump"])
def test_read_only_directory(host, place, start_victim, command):
    victim = start_victim(host, "threads", "2")
    host.run(["mkdir", "/mnt/fixed"])
    host.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/mnt/fixed"])
    with Unharmed(host, place, victim):
        refused(run(host, place, command, "-t", victim.pid, "-D", "/mnt/fixed"), "/mnt/fixed", "Read-only file system")
        refused(run(host, place, command, "-t", victim.pid, "-D", "/mnt/fixed", "-o", "log"), "-o", "/mnt/fixed/log",
                "Read-only file system")


def test_pidfile(host, place, start_victim):
    """Known to be impossible before anything is done."""
    victim, directory = start_victim(host, "threads", "2"), place.make()
    words = ("-D", directory, "--pidfile", "no/such/pid")
    with Unharmed(host, place, victim):
        refused(run(host, place, "dump", "-t", victim.pid, *words), "--pidfile", "no/such/pid")
        assert not contents(directory)
    pids = host.tree(victim.pid)
    dump(host, place, victim.pid, directory, "--pidfile", "pid")
    assert (directory / "pid").read_text() == f"{victim.pid}\n"
    wait_gone(host, pids)
    with Unharmed(host, place):
        refused(run(host, place, "restore", "-d", *words), "--pidfile", "no/such/pid")
    (directory / "pid").write_text("a longer text than that of a PID\n")
    restore(host, place, directory, "--pidfile", "pid")
    assert (directory / "pid").read_text() == f"{victim.pid}\n"
    victim.check(host)


@pytest.mark.parametrize("command", ["dump", "pre-dump"])
def test_disk_full(host, place, start_victim, command):
    victim = start_victim(host, "pages", "16")
    host.run(["mkdir", "/mnt/small"])
    host.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", "/mnt/small"])
    with Unharmed(host, place, victim):
        refused(run(host, place, command, "-t", victim.pid, "-D", "/mnt/small"), "/mnt/small", "No space left on device")
        refused(run(host, place, "restore", "-D", "/mnt/small", "-d"), "/mnt/small", "it holds no checkpoint")
    # What was written has not stayed: with room enough the same directory will do.
    host.run(["mount", "-o", "remount,size=512m", "/mnt/small"])
    dump(host, place, victim.pid, "/mnt/small", *(["--leave-running"] if command == "dump" else []), command=command)
    victim.check(host)


def test_disk_full_at_each_file(host, place, start_victim):
    """Also where the tree stands still, and where the records are written."""
    victim = start_victim(host, "mem-shared")
    host.run(["mkdir", "/mnt/small"])
    files, done = 2, False
    with Unharmed(host, place, victim):
        while not done:
            host.run(["mount", "-t", "tmpfs", "-o", f"nr_inodes={files}", "none", "/mnt/small"])
            result = run(host, place, "dump", "-t", victim.pid, "-D", "/mnt/small", "-R")
            done = result.returncode == 0
            if not done:
                refused(result, "/mnt/small", "No space left on device")
                assert not list(host.path("/mnt/small").iterdir()), files
            host.run(["umount", "/mnt/small"])
            files += 1
    assert files > 20


@pytest.mark.parametrize("first", ["dump", "pre-dump"])
@pytest.mark.parametrize("second", ["dump", "pre-dump"])
def test_directory_is_taken(host, place, start_victim, first, second):
    victim, directory = start_victim(host, "threads", "2"), place.make()
    dump(host, place, victim.pid, directory, *(["--leave-running"] if first == "dump" else []), command=first)
    before = contents(directory)
    with Unharmed(host, place, victim):
        refused(run(host, place, second, "-t", victim.pid, "-D", directory), directory, "checkpoint")
    assert contents(directory) == before


def test_directory_builds_upon_what_is_none(host, place, start_victim):
    victim, directory, other = start_victim(host, "threads", "2"), place.make(), place.make("other")
    with Unharmed(host, place, victim):
        for previous, word in ((other, "it holds no checkpoint"), (place.path / "gone", "No such file or directory")):
            refused(run(host, place, "dump", "-t", victim.pid, "-D", directory, "--prev-images-dir", previous), previous, word)
    assert not contents(directory)


def test_nobody_has_that_pid(host, place):
    with Unharmed(host, place):
        refused(run(host, place, "dump", "-t", "77777", "-D", place.make()), "77777")


def test_deleted_file_over_the_limit(host, place, start_victim):
    victim = start_victim(host, "deleted")
    with Unharmed(host, place, victim):
        refused(run(host, place, "dump", "-t", victim.pid, "-D", place.make(), "--ghost-limit", "4K"),
                f"PID {victim.pid}: ", "gone", "--ghost-limit")


def test_lock_without_its_option(host, place):
    path = place.path / "locked"
    pid = host.spawn_daemon(["/usr/bin/flock", path, "/bin/sleep", "1000"])
    wait_until(lambda: len(host.tree(pid)) == 2, 20, "the lock is held")
    with Unharmed(host, place):
        refused(run(host, place, "dump", "-t", pid, "-D", place.make()), path, "lock", "--file-locks")
    for one in host.tree(pid):
        host.kill(one)


# Directories that cannot be restored


def test_empty_directory(host, place):
    refused_restore(host, place, place.make(), "it holds no checkpoint", "inventory.img")


def test_pre_dump(host, place, start_victim):
    victim, directory = start_victim(host, "threads", "2"), place.make()
    dump(host, place, victim.pid, directory, command="pre-dump")
    refused_restore(host, place, directory, "pre-dump")
    victim.check(host)


class Ended:
    """A victim that was dumped and has ended."""

    def __init__(self, host, place, victim, *words):
        self.host, self.place, self.victim = host, place, victim
        self.directory = place.make()
        pids = host.tree(victim.pid)
        dump(host, place, victim.pid, self.directory, *words)
        wait_gone(host, pids)

    def refused(self, *words):
        with Unharmed(self.host, self.place):
            refused(run(self.host, self.place, "restore", "-D", self.directory, "-d"), *words)

    def restored(self):
        restore(self.host, self.place, self.directory)
        self.victim.check(self.host)

    def uses(self, path):
        """Pages are checked as they are read: a file of a round of which later rounds have every page is not. Then, what is
        restored is right."""
        result = run(self.host, self.place, "restore", "-D", self.directory, "-d")
        if result.returncode != 0:
            refused(result, path)
            return True
        self.victim.check(self.host)
        pids = self.host.tree(self.victim.pid)
        for pid in pids:
            self.host.kill(pid)
        wait_gone(self.host, pids)
        return False


KINDS = [("deleted", "map"), ("mem-shared",), ("pipes",)]


def truncate(data):
    return data[:len(data) // 2]


def flip(data):
    return data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1:]


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_damage(host, place, start_victim, kind, damage):
    """Each file, one after the other."""
    ended = Ended(host, place, start_victim(host, *kind))
    files, unused = contents(ended.directory), 0
    assert len(files) > 15
    for path, data in files.items():
        if not data:
            continue
        path.write_bytes(damage(data))
        if damage is flip and path.name.startswith("pages-") and path.parent != ended.directory and not ended.uses(path):
            unused += 1
        else:
            ended.refused(path)
        path.write_bytes(data)
    assert unused <= 1
    if not unused:
        ended.restored()


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_damage_without_seal(host, place, start_victim, kind):
    """Who empties the seal says that the images are as they should be: what is cut off in the middle is found all the same."""
    ended = Ended(host, place, start_victim(host, *kind))
    (ended.directory / "pagestream.seal").write_bytes(b"")
    for path, data in contents(ended.directory).items():
        if not data or path.parent != ended.directory:
            continue
        path.write_bytes(data[:-1])
        ended.refused(path.name)
        path.write_bytes(data)
    ended.restored()


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_wrong_bits_without_seal(host, place, start_victim, kind):
    """What they mean nobody can know: it is refused, or a tree comes of it, but never half of one."""
    victim = start_victim(host, *kind)
    ended = Ended(host, place, victim)
    (ended.directory / "pagestream.seal").write_bytes(b"")
    for path, data in contents(ended.directory).items():
        if path.parent != ended.directory or path.name.startswith("pages"):
            continue
        for at in range(8, len(data), max(len(data) // 6, 1)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1:])
            before = set(host.pids())
            result = run(host, place, "restore", "-D", ended.directory, "-d")
            if result.returncode == 0:
                for pid in set(host.pids()) - before:
                    host.kill(pid)
            else:
                assert result.returncode == NOT_MOVED and result.stderr, f"{path} at {at}: {text(result)}"
            wait_until(lambda: set(host.pids()) <= before, 20, f"{path} at {at}: nothing is left of it")
        path.write_bytes(data)


def test_file_is_missing(host, place, start_victim):
    ended = Ended(host, place, start_victim(host, "pipes"))
    for path, data in contents(ended.directory).items():
        path.unlink()
        ended.refused(path.parent if path.name == "pagestream.seal" else path)
        path.write_bytes(data)
    ended.restored()


def test_chain_with_a_hole(host, place, start_victim):
    victim, first = start_victim(host, "threads", "2"), place.make("first")
    dump(host, place, victim.pid, first, command="pre-dump")
    ended = Ended(host, place, victim, "--prev-images-dir", first)
    for directory in (first, ended.directory / "pre-copy-1"):
        away = place.path / "away"
        directory.rename(away)
        ended.refused(directory.name, "No such file or directory")
        directory.mkdir()
        ended.refused(directory)
        directory.rmdir()
        away.rename(directory)
    ended.restored()


def test_file_changed_since(host, place):
    path, directory = place.path / "data", place.make()
    path.write_text("old")
    os.link(path, place.path / "second-name")  # or it would be in the checkpoint, as files on tmpfs are
    pid = host.spawn_daemon(["/bin/sleep", "1000"], stdin=path)
    before = path.stat()
    dump(host, place, pid, directory)
    wait_gone(host, [pid])
    path.write_text("longer")
    refused_restore(host, place, directory, f"PID {pid}: file {path}", "had 3 bytes, has 6 here")
    path.write_text("new")
    refused_restore(host, place, directory, f"PID {pid}: file {path}", "was modified at")
    path.unlink()
    refused_restore(host, place, directory, f"PID {pid}: file {path}", "is missing")
    path.mkdir()
    refused_restore(host, place, directory, f"PID {pid}: file {path}", "a directory here")
    path.rmdir()
    path.write_text("old")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    restore(host, place, directory)
    host.kill(pid)


def test_pid_taken(host, place, start_victim):
    victim, directory = start_victim(host, "threads", "2"), place.make()
    dump(host, place, victim.pid, directory, "--leave-running")
    with Unharmed(host, place, victim):
        refused(run(host, place, "restore", "-D", directory, "-d"), directory, f"PID {victim.pid}: process number {victim.pid}",
                "(threads has it)", "its PID is in use", "PID namespace")


# Other machines


def rewrite_state(directory, change):
    """Edits our own records; the seal is emptied, as for every edit."""
    path = directory / "pagestream.state"
    data = path.read_bytes()
    assert data[-16:] == xxh3(data[:-16])
    changed = change(data[:-16])
    assert changed != data[:-16] and len(changed) == len(data) - 16
    path.write_bytes(changed + xxh3(changed))
    (directory / "pagestream.seal").write_bytes(b"")


class Hash(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def xxh3(data):
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_128bits.restype = Hash
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    value = library.XXH3_128bits(data, len(data))
    return value.high.to_bytes(8, "big") + value.low.to_bytes(8, "big")


# A CpuidWord of leaf 1 or 7, index 1 to 3 with a value of five bytes: after it all bits are set, which no processor has.
FEATURES = re.compile(rb"(\x08[\x01\x07]\x10\x00\x18[\x01-\x03]\x20)[\x80-\xff]{4}[\x01-\x0f]")


def test_feature_is_missing(host, place, start_victim):
    ended = Ended(host, place, start_victim(host, "threads", "2"))
    files = contents(ended.directory)
    rewrite_state(ended.directory, lambda data: FEATURES.sub(lambda match: match[1] + b"\xff\xff\xff\xff\x0f", data))
    ended.refused("processor CPUID leaf", "the restoring host's processor lacks these features", ended.directory)
    for path, data in files.items():
        path.write_bytes(data)
    ended.restored()


def test_other_architecture(host, place, start_victim):
    ended = Ended(host, place, start_victim(host, "threads", "2"))
    path = ended.directory / f"core-{ended.victim.pid}.img"
    data = path.read_bytes()
    # Two numbers, the size, then the message, whose first field is the architecture: x86-64 is 1, AArch64 3.
    assert data[12:14] == b"\x08\x01"
    path.write_bytes(data[:13] + b"\x03" + data[14:])
    ended.refused(path)
    (ended.directory / "pagestream.seal").write_bytes(b"")
    ended.refused(path, "architecture", "x86-64")


# Ends in the middle


class Job:
    """A migrate that stops itself at a point."""

    def __init__(self, host, place, point, *words):
        self.host = host
        self.process = host.popen([program("migrate"), *map(str, words), "--state-dir", place.state_dir], text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=stop_at(point))
        self.pid = wait_until(self._find, 20, "migrate has begun")
        wait_until(lambda: host.state(self.pid) in ("T", None), 20, f"migrate has stopped at {point}")
        assert host.state(self.pid) == "T", self.process.communicate(timeout=20)

    def _find(self):
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as children:
                outer = children.read().split()
        except OSError:
            return None
        return next((inner for inner, pid in self.host.pids().items() if str(pid) in outer), None)

    def end(self, number):
        """Its status as the host sees it, and what it said."""
        self.host.kill(self.pid, number)
        self.host.kill(self.pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # nsenter stops with its child
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


DUMP_POINTS = ["connect", "preflight", "pre-copy", "round 1", "round 2", "freeze", "stopped", "hand-over", "held"]


@pytest.mark.parametrize("point", DUMP_POINTS)
def test_killed_dump(host, place, start_victim, point):
    victim, directory = start_victim(host, "threads", "2"), place.make()
    with Unharmed(host, place, victim) as watch:
        job = Job(host, place, point, "dump", "-t", victim.pid, "-D", directory)
        watch.note_session()
        job.end(signal.SIGKILL)
        watch.no_new_process()
        assert not (directory / "pagestream.seal").exists()
        refused(run(host, place, "restore", "-D", directory, "-d"), directory,
                "incomplete" if contents(directory) else "it holds no checkpoint")
    assert not contents(directory) or (directory / "pre-copy-1").is_dir()


def test_dump_killed_once_it_is_complete(host, place, start_victim):
    """What is left of the tree is ended: there is never half of one."""
    victim, directory = start_victim(host, "tree"), place.make()
    victim.check()
    pids = host.tree(victim.pid)
    with Unharmed(host, place) as watch:
        job = Job(host, place, "killing", "dump", "-t", victim.pid, "-D", directory)
        watch.note_session()
        job.end(signal.SIGKILL)
        wait_gone(host, pids)
    restore(host, place, directory)
    victim.check(host)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("point", DUMP_POINTS)
def test_interrupted_dump(host, place, start_victim, point, number):
    victim, directory = start_victim(host, "threads", "2"), place.make()
    with Unharmed(host, place, victim) as watch:
        job = Job(host, place, point, "dump", "-t", victim.pid, "-D", directory)
        watch.note_session()
        status, said = job.end(number)
        assert status == NOT_MOVED and "interrupted" in said, (status, said)
    assert not list(directory.iterdir())


RESTORE_POINTS = ["restore-level 0", "restore-level 1", "restore-finished"]


@pytest.mark.parametrize("words", [("-d",), (), ("-d", "--lazy-pages")], ids=["detached", "waiting", "lazy"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_restore_ends_in_the_middle(host, place, start_victim, point, number, words):
    ended = Ended(host, place, start_victim(host, "tree"))
    with Unharmed(host, place):
        job = Job(host, place, point, "restore", "-D", ended.directory, *words)
        status, said = job.end(number)
        if number != signal.SIGKILL:
            assert status == NOT_MOVED and "interrupted: nothing was restored" in said, (status, said)
    ended.restored()
