# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals: what is refused, and programs that live in them."""
import contextlib

import pytest
from checkpoint import Place, dump, wait_gone
from checkpoint import run as run_migrate
from hosts import wait_until
from pagestream import send
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
