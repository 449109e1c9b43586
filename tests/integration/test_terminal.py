# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals: what is refused, and programs that live in them."""
import contextlib
import os
import re
import shutil

import pytest
from checkpoint import Place, dump, restore, wait_gone
from checkpoint import run as run_migrate
from hosts import wait_until
from pagestream import PageServer, send, send_start, stop_at
from refusal import Unharmed

READY = "import os, time\n{}\nopen({!r}, 'w').close()\nwhile True: time.sleep(0.1)\n"


@contextlib.contextmanager
def python(host, directory, setup):
    """A process that has run these lines of Python; its PID."""
    ready = directory / "ready"
    pid = host.spawn_daemon(["/usr/bin/python3", "-c", READY.format(setup, str(ready))], stderr=str(directory / "log"))
    try:
        wait_until(lambda: ready.exists() or not host.alive(pid), 20, "ready")
        assert ready.exists(), (directory / "log").read_text()
        yield pid
    finally:
        for one in host.tree(pid):
            host.kill(one)


REFUSED = {
    "virtual": ("os.open('/dev/tty1', os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)", "a virtual console stays here"),
    "serial": ("os.open('/dev/ttyS0', os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)", "a serial line stays here"),
    "one way": ("os.open('/dev/ptmx', os.O_RDONLY | os.O_NOCTTY)", "its master is open for reading or writing only"),
    "discipline": ("import fcntl, struct; m, s = os.openpty(); fcntl.ioctl(s, 0x5423, struct.pack('i', 27))",
                   "its line discipline has state that cannot be read"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(two_hosts, page_server, tmp_path, what):
    a, b, _ = two_hosts
    setup, words = REFUSED[what]
    with python(a, tmp_path, setup) as pid, Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, pid, state_dir=watch.state), words)
        assert a.alive(pid)


def test_master_outside(two_hosts, page_server, tmp_path):
    """A session on a terminal whose master somebody else holds; --shell-job, for a checkpoint, is what helps."""
    a, b, _ = two_hosts
    setup = "import pty\nchild, master = pty.fork()\nif child: open(PIDS, 'w').write(str(child))".replace(
        "PIDS", repr(str(tmp_path / "child")))
    with python(a, tmp_path, setup) as pid, Unharmed(a, b, None, page_server) as watch:
        child = int((tmp_path / "child").read_text())
        assert a.tree(pid) == [pid, child]
        watch.refused(send(a, page_server, child, state_dir=watch.state), "the terminal that the program was started from",
                      "--shell-job", "controlling terminal /dev/pts/0")
        assert a.alive(child)


@pytest.mark.parametrize("end", ["slave", "master"])
def test_used_outside(two_hosts, page_server, tmp_path, end):
    """A background job of a shell that has ended is init's child, but has the terminal still."""
    a, _, _ = two_hosts
    setup = ("import subprocess\nmaster, slave = os.openpty()\n"
             f"subprocess.run('sleep 1000 & echo $! >{tmp_path}/pid', shell=True, stderr={end}, check=True)")
    with python(a, tmp_path, setup) as pid:
        other = int((tmp_path / "pid").read_text())
        result = send(a, page_server, pid)
        assert result.status == 1, result.text()
        assert (f"descriptor /dev/pts/0, as PID {other} (sleep) does: a process outside of the tree uses the terminal"
                in result.stderr), result.text()
        a.kill(other)
        wait_gone(a, [other])
        assert send(a, page_server, pid).status == 0


def test_number_in_use(two_hosts, page_server, tmp_path, host_place):
    """The number is part of the name that programs know: it must be free on the target, also of a restore."""
    a, b, _ = two_hosts
    with python(a, tmp_path, "master, slave = os.openpty()") as pid, Unharmed(a, b, None, page_server) as watch:
        (tmp_path / "b").mkdir()
        with python(b, tmp_path / "b", "master, slave = os.openpty()"):
            watch.refused(send(a, page_server, pid, state_dir=watch.state), "/dev/pts/0",
                          "its number is in use on the restoring host")
        assert send(a, page_server, pid, dry_run=True).status == 0
    directory = host_place.make("dump")
    with python(a, tmp_path, "master, slave = os.openpty()") as pid:
        dump(a, host_place, pid, directory)
        wait_gone(a, [pid])
        (tmp_path / "a").mkdir()
        with python(a, tmp_path / "a", "master, slave = os.openpty()"):
            refused = run_migrate(a, host_place, "restore", "-D", directory, "-d")
            assert refused.returncode == 1 and "its number is in use on the restoring host" in refused.stderr


@pytest.fixture
def host_place():
    with Place() as made:
        yield made


# tmux, with shells and vim in it

ROUNDS = 5
COUNTER = "n=0; while :; do echo tick $((++n)); for ((i = 0; i < 3000; i++)); do :; done; done"


class Tmux:
    """A tmux server with three windows: a shell with jobs, vim, and a shell that prints all the time. Nobody is attached."""

    def __init__(self, host, directory):
        self.host = host
        self.command = ["tmux", "-f", "/dev/null", "-S", directory / "socket"]
        self.env = {**os.environ, "HOME": str(directory), "TERM": "xterm", "SHELL": "/bin/bash", "PS1": "$ "}
        (directory / "text").write_text("a line of the file\n")
        self("new-session", "-d", "-x", "80", "-y", "24", "bash --norc")
        self("set-option", "-g", "history-limit", "100000")
        self.pid = int(self("display-message", "-p", "#{pid}"))
        self("new-window", f"vim -u NONE -i NONE -n {directory / 'text'}")
        self("new-window", "bash --norc")
        self.type(0, "sleep 10000 &", "Enter", "cat", "Enter")
        wait_until(lambda: self("display-message", "-p", "-t", ":0", "#{pane_current_command}") == "cat\n", 10, "cat runs",
                   step=0.02)
        self.type(0, "runs", "Enter")
        self.shows(0, "runs\nruns\n")
        self.type(0, "C-z")  # which also throws away what was typed after it
        self.shows(0, r"Stopped +cat\n.*[#$]\n")
        self.type(0, "jobs", "Enter")
        self.shows(0, r"Running +sleep.*Stopped +cat")
        self.shows(1, "a line of the file")
        self.type(1, "o", "written in vim")
        self.shows(1, "written in vim")
        self.type(2, COUNTER, "Enter")
        self.shows(2, r"tick \d+\n")

    def __call__(self, *words):
        return self.host.run([*self.command, *words], env=self.env).stdout

    def type(self, window, *keys):
        self("send-keys", "-t", f":{window}", *keys)

    def screen(self, window, *words):
        return self("capture-pane", "-p", "-t", f":{window}", *words)

    def shows(self, window, pattern):
        try:
            wait_until(lambda: re.search(pattern, self.screen(window), re.S), 10, f"window {window} shows {pattern!r}",
                       step=0.05)
        except TimeoutError as e:
            raise AssertionError(f"{e}\n{self.screen(window)}") from None

    def still(self):
        """What must not change by itself."""
        return self.screen(0), self.screen(1), self("list-panes", "-s", "-F",
                                                    "#{window_index} #{pane_tty} #{pane_pid} #{pane_width}x#{pane_height}")

    def check(self, seen):
        """All is as it was seen, and the loop prints on; nothing that it printed is lost."""
        assert self.still() == seen
        last = self.ticks()[-1]
        wait_until(lambda: self.ticks()[-1] > last, 20, "the loop goes on", step=0.05)
        ticks = self.ticks()
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))

    def ticks(self):
        return list(map(int, re.findall(r"^tick (\d+)$", self.screen(2, "-S", "-2000"), re.M)))

    def use(self):
        """What a user would do next."""
        self.type(0, "fg %2", "Enter")
        self.shows(0, r"fg %2\ncat\n")
        self.type(0, "through cat", "Enter")
        self.shows(0, "fg %2\ncat\nthrough cat\nthrough cat\n")
        self.type(0, "C-c")
        self.shows(0, r"\^C\n.*[#$]\n")
        self.type(0, "jobs", "Enter")
        self.shows(0, r"\^C\n.*jobs\n\[1\]\+ +Running +sleep 10000 &\n")
        self.type(1, " and later", "Escape", ":wq", "Enter")
        self.type(2, "C-c")
        self.shows(2, r"\^C\n")

    def end(self):
        for pid in self.host.tree(self.pid):
            self.host.kill(pid)


@pytest.fixture
def tmux(two_hosts, tmp_path):
    for program in ("tmux", "vim"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    made = Tmux(two_hosts[0], tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_tmux(two_hosts, keys, tmux, tmp_path, mode):
    a, b, _ = two_hosts
    seen = tmux.still()
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        for _ in range(ROUNDS):
            for source, target, server in ((a, b, on_b), (b, a, on_a)):
                result = send(source, server, tmux.pid, mode=mode)
                assert result.status == 0, result.text()
                tmux.host = target
                tmux.check(seen)
    tmux.use()
    wait_until(lambda: (tmp_path / "text").read_text() == "a line of the file\nwritten in vim and later\n", 20, "vim has saved")


def test_tmux_checkpoint(two_hosts, tmux, host_place):
    a = two_hosts[0]
    seen = tmux.still()
    dump(a, host_place, tmux.pid, host_place.make("running"), "--leave-running")
    tmux.check(seen)
    pids = a.tree(tmux.pid)
    directory = host_place.make("ended")
    dump(a, host_place, tmux.pid, directory)
    wait_gone(a, pids)
    restore(a, host_place, directory)
    tmux.check(seen)
    tmux.use()


@pytest.mark.parametrize("phase", ["hand-over", "held"])
def test_killed(two_hosts, page_server, start_victim, phase):
    """What was copied out of terminals is there when migrate is killed afterwards."""
    a, _, _ = two_hosts
    victim = start_victim(a, "pty-queue")
    victim.check(a)
    job = send_start(a, page_server, victim.pid, env=stop_at(phase))
    job.wait_stopped()
    job.kill()
    job.wait()
    victim.check(a)
