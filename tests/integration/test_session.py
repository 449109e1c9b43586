# SPDX-License-Identifier: LGPL-2.1-or-later
"""The classic session, with Debian's programs: dump, kill, restore."""
import os
import pty
import re
import signal
import subprocess

import pytest
from checkpoint import Place, dump, restore, text, wait_gone
from hosts import wait_until
from pagestream import program
from programs import Memcached, PyWorker, Redis


@pytest.fixture
def place():
    with Place() as made:
        yield made


class Terminal:
    """A shell on a pseudo-terminal of its own, inside a host."""

    def __init__(self, host, place):
        self.output = ""
        self.master, slave = pty.openpty()
        argv = host.argv(["setsid", "--ctty", "sh"])
        env = {**os.environ, "PS1": "$ ", "PATH": f"{program('migrate').parent}:{os.environ['PATH']}", "HOME": str(place.path)}
        self.shell = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
        os.close(slave)
        os.set_blocking(self.master, False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shell.kill()
        self.shell.wait(20)
        os.close(self.master)

    def read(self):
        try:
            while True:
                self.output += os.read(self.master, 65536).decode(errors="replace")
        except (BlockingIOError, OSError):
            return self.output

    def type(self, line):
        os.write(self.master, line.encode() + b"\n")

    def wait_for(self, pattern, seconds=30):
        """Waits until the output since the last match has it; returns the match."""
        def found():
            return re.search(pattern, self.read())

        try:
            match = wait_until(found, seconds, pattern)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in\n{self.output}") from None
        self.output = self.output[match.end():]
        return match

    def do(self, line, status=0):
        self.type(f'{line}; echo "status:$?"')
        self.wait_for(rf"status:{status}\r")


def stat_fields(host, pid):
    """Of proc(5), from the third on; None when the process is gone."""
    try:
        return (host.proc(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def in_group(host, group):
    """Processes of a process group, which is named as outside of the host."""
    return [pid for pid in host.pids() if (stat_fields(host, pid) or ["", "", "0"])[2] == str(group)]


def has_terminal(host, pid):
    """Whether the process runs in the foreground of its terminal."""
    fields = stat_fields(host, pid)
    return fields is not None and fields[0] in "SR" and fields[2] == fields[5]  # pgrp, tpgid


@pytest.mark.parametrize("job", ["sleep 1000", "sh -c 'i=0; while :; do i=$((i+1)); echo tick:$i:; sleep 0.05; done'"],
                         ids=["sleep", "loop"])
def test_tutorial(host, place, job):
    """As a user types it; the job ends up in a second terminal."""
    options = f"-D ~/dump --shell-job --state-dir {place.state_dir}"
    with Terminal(host, place) as first:
        first.do("stty -echo")
        first.type(f"{job} & echo pid:$!:")
        pid = int(first.wait_for(r"pid:(\d+):").group(1))
        if "tick" in job:
            first.wait_for(r"tick:5:")
        first.do("migrate check > /dev/null")
        first.do("mkdir ~/dump")
        first.do(f"migrate dump -t {pid} {options} --leave-running")
        if "tick" in job:
            first.wait_for(r"tick:\d+:")
        assert host.alive(pid)
        group = host.outer_pid(pid)
        first.do(f"kill {pid}; wait {pid}", status=143)
        wait_until(lambda: not in_group(host, group), 20, "the end of the job")
        with Terminal(host, place) as second:
            second.do("stty -echo")
            second.type(f"migrate restore {options}; echo status:$?")
            wait_until(lambda: has_terminal(host, pid), 20, f"the restored job\n{second.read()}")
            if "tick" in job:
                number = int(second.wait_for(r"tick:(\d+):").group(1))
                assert number >= 5
                second.wait_for(rf"tick:{number + 3}:")
            # The shell sees that it was a SIGINT that ended the command, and drops the rest of the line.
            os.write(second.master, b"\x03")
            second.wait_for(r"\$ $")
            wait_gone(host, [pid])
            second.do("true")


def exits_with(host, place, code, words=(), caller=()):
    """A shell that waits for a file and exits then, dumped, ended, restored; what migrate restore exits with, or the caller
    that is to run it.
    """
    go, directory = place.path / "go", place.make()
    others = set(host.pids())
    pid = host.spawn_daemon(["sh", "-c", f"while ! [ -e {go} ]; do sleep 0.02; done; {code}"])
    dump(host, place, pid, directory)
    wait_until(lambda: not set(host.pids()) - others, 20, "the end of the shell and of whichever child it had")
    waiting = host.popen([*caller, program("migrate"), "restore", "-D", directory, "--state-dir", place.state_dir, *words])
    wait_until(lambda: host.alive(pid), 20, "the restored shell")
    assert waiting.poll() is None
    go.touch()
    return waiting.wait(20)


@pytest.mark.parametrize("words", [(), ("--lazy-pages",)], ids=["plain", "lazy"])
def test_exit_status(host, place, words):
    assert exits_with(host, place, "exit 3", words) == 3


def test_exit_by_signal(host, place):
    status = exits_with(host, place, "kill -USR1 $$")
    assert status in (-signal.SIGUSR1, 128 + signal.SIGUSR1), status


@pytest.mark.parametrize("words", [(), ("--lazy-pages",)], ids=["plain", "lazy"])
def test_sibling(host, place, words):
    """It is a child of whoever ran migrate restore, which has ended before."""
    caller = ("import json, os, subprocess, sys; said = subprocess.run(sys.argv[1:], check=True, capture_output=True).stdout; "
              "sys.exit(os.waitstatus_to_exitcode(os.waitpid(json.loads(said)['pid'], 0)[1]))")
    assert exits_with(host, place, "exit 3", ("-d", "-S", "--json", *words), ("/usr/bin/python3", "-c", caller)) == 3


def test_leave_stopped(host, place, start_victim):
    victim = start_victim(host, "mem-anon")
    dump(host, place, victim.pid, place.make(), "--leave-stopped")
    assert host.state(victim.pid) == "T"
    host.kill(victim.pid, signal.SIGCONT)
    victim.check(host)


@pytest.mark.parametrize("words", [(), ("--lazy-pages",)], ids=["plain", "lazy"])
@pytest.mark.parametrize("store", [Redis, Memcached], ids=["redis", "memcached"])
def test_store(host, place, store, words):
    with store(host, mib=48) as server:
        server.load()
        pids, directory = host.tree(server.pid), place.make()
        dump(host, place, server.pid, directory, "--tcp-close")
        wait_gone(host, pids)
        restore(host, place, directory, "--tcp-close", *words)
        server.verify()


def test_python(host, place):
    with PyWorker(host) as worker:
        worker.wait_ready()
        worker.check(host)
        pids, directory = host.tree(worker.pid), place.make()
        dump(host, place, worker.pid, directory)
        wait_gone(host, pids)
        restore(host, place, directory)
        worker.check(host)


def test_check(host):
    ready = host.run([program("migrate"), "check"], check=False)
    assert ready.returncode == 0 and "all that is needed is there" in ready.stdout, text(ready)
    with PyWorker(host) as worker:
        worker.wait_ready()
        one = host.run([program("migrate"), "check", "--json", worker.pid], check=False)
        assert one.returncode == 0 and '"ready": true' in one.stdout, text(one)
    nobody = host.run(["setpriv", "--reuid=65534", "--clear-groups", program("migrate"), "check"], check=False)
    assert nobody.returncode == 1, text(nobody)
    assert re.search(r"^no .*CAP_SYS_ADMIN.*\(needed\)$", nobody.stdout, re.M), nobody.stdout
