# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drives migrate and pageserver on test hosts.

    keys = Keys(["10.77.0.1", "10.77.0.2", "localhost"])
    with PageServer(b, keys) as server:
        result = send(a, server, pid, mode="hybrid")
        assert result.status == 0, result.text()
"""
import atexit
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading

from hosts import SHARED_MEMORY, build_dir, wait_until

MOVED, NOT_MOVED, USAGE, IN_DOUBT = 0, 1, 2, 3


def program(name):
    """Path of migrate or pageserver in the build directory, wherever meson.build puts it."""
    for candidate in (f"tools/{name}", name, f"src/{name}/{name}"):
        path = build_dir() / candidate
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(f"{name}: not in {build_dir()}")


def _new_state_dir():
    """A directory on tmpfs, as /run is: each write of a journal waits for a disk elsewhere, in the middle of the downtime."""
    return tempfile.mkdtemp(prefix="state-", dir=_state_root())


@functools.cache
def _state_root():
    """What all of them lie in. A test that kills a program leaves its journals; they go when the tests end."""
    SHARED_MEMORY.mkdir(exist_ok=True)
    root = tempfile.mkdtemp(prefix="ps-", dir=SHARED_MEMORY)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


class Keys:
    """A private CA with server and client certificates in a directory of its own; made once per
    test session.
    """

    def __init__(self, names=("10.77.0.1", "10.77.0.2", "127.0.0.1", "localhost")):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="keys-"))
        argv = [str(program("migrate")), "keys", "--dir", str(self.dir)]
        for name in names:
            argv += ["--name", name]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            self.remove()
            raise RuntimeError(f"{argv}: status {done.returncode}: {done.stdout}{done.stderr}")

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


class _Pump(threading.Thread):
    """Collects a pipe's lines so that nobody blocks on it."""

    def __init__(self, pipe):
        super().__init__(daemon=True)
        self.pipe = pipe
        self.lines = []
        self.start()

    def run(self):
        for line in self.pipe:
            self.lines.append(line)
        self.pipe.close()

    def text(self):
        return "".join(self.lines)


class PageServer:
    """A page server on a host; `to` is what migrate send takes as --to."""

    def __init__(self, host, keys, port=7711, listen=None, args=(), state_dir=None, prefix=(), env=None):
        self.host = host
        self.keys = keys
        self.env = env
        self.to = listen or f"{host.address}:{port}"
        self.args = list(map(str, args))
        self.own_state = state_dir is None
        self.state_dir = pathlib.Path(state_dir or _new_state_dir())
        self.prefix = list(prefix)
        self.process = self.out = self.err = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        if self.own_state:
            shutil.rmtree(self.state_dir, ignore_errors=True)

    def start(self, seconds=20):
        argv = [*self.prefix, program("pageserver"), "--listen", self.to, "--tls-dir",
                self.keys.dir, "--state-dir",
                self.state_dir, *self.args]
        self.process = self.host.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE,
                                       text=True, env=self.env)
        self.out, self.err = _Pump(self.process.stdout), _Pump(self.process.stderr)

        def listening():
            for line in self.out.lines:
                if line.startswith("listening on "):
                    self.to = line.split()[2]
                    return True
            if self.process.poll() is not None:
                self.out.join(5)
                self.err.join(5)
                raise RuntimeError(f"pageserver ended with status {self.process.returncode}: "
                                   f"{self.text()}")
            return False

        try:
            wait_until(listening, seconds, "pageserver listening")
        except BaseException:
            self.stop()
            raise
        return self

    def pid(self):
        """Its PID inside the host."""
        return _inside(self.host, self.process, "pageserver")

    def kill(self):
        """kill -9, as a test of failures does it; also when it is stopped."""
        pid = self.pid()
        if pid is not None:
            self.host.kill(pid, signal.SIGKILL)
        self.go_on()
        self.process.wait(20)

    def wait_stopped(self, seconds=20):
        """Waits until it has stopped at the point that its variable PAGESTREAM_STOP_AT names."""
        _wait_stopped(self.process, seconds, self.text)

    def go_on(self):
        """Lets a stopped one go on."""
        _go_on(self.process)

    def stop(self, seconds=10):
        if self.process is None:
            return
        self.go_on()
        pid = self.pid()
        if self.process.poll() is None and pid is not None:
            self.host.kill(pid, signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.host.kill(pid, signal.SIGKILL)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.out.join(2)
        self.err.join(2)

    def text(self):
        return f"--- pageserver stdout\n{self.out.text()}--- pageserver stderr\n{self.err.text()}"


class Send:
    """A running or finished migrate send. status is None while it runs; json is its object, or {}
    without one.
    """

    def __init__(self, host, server, pid, mode=None, downtime_limit=None, streams=None,
                 tcp_close=False, json_output=True,
                 keys=None, to=None, state_dir=None, max_bandwidth=None, hook=None, dry_run=False,
                 args=(), prefix=(),
                 env=None):
        self.host = host
        self.server = server
        self.own_state = state_dir is None
        self.state_dir = pathlib.Path(state_dir or _new_state_dir())
        argv = [*prefix, program("migrate"), "send", "--to", to or server.to, "--tls-dir",
                (keys or server.keys).dir,
                "--state-dir", self.state_dir]
        for option, value in (("--mode", mode), ("--downtime-limit", downtime_limit),
                              ("--streams", streams),
                              ("--max-bandwidth", max_bandwidth), ("--hook", hook)):
            if value is not None:
                argv += [option, str(value)]
        for option, wanted in (("--tcp-close", tcp_close), ("--json", json_output),
                               ("--dry-run", dry_run)):
            if wanted:
                argv.append(option)
        self.argv = [str(word) for word in [*argv, *args, pid]]
        self.process = host.popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE,
                                  text=True, env=env)
        self.out, self.err = _Pump(self.process.stdout), _Pump(self.process.stderr)

    @property
    def status(self):
        return self.process.poll()

    @property
    def stderr(self):
        return self.err.text()

    @property
    def stdout(self):
        return self.out.text()

    @property
    def json(self):
        try:
            return json.loads(self.out.text())
        except ValueError:
            return {}

    def pid(self):
        """PID of migrate inside the host, or None when it has ended."""
        return _inside(self.host, self.process, "migrate")

    def kill(self, number=signal.SIGKILL):
        """Sends a signal; one that it has stopped for makes it go on."""
        pid = self.pid()
        if pid is not None:
            self.host.kill(pid, number)
        self.go_on()

    def wait_stopped(self, seconds=20):
        """Waits until it has stopped at the point that its variable PAGESTREAM_STOP_AT names."""
        _wait_stopped(self.process, seconds, self.text)

    def go_on(self):
        """Lets a stopped one go on."""
        _go_on(self.process)

    def wait(self, seconds=120):
        """Waits for the end; kills migrate and raises AssertionError when it takes longer."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait(20)
            raise AssertionError(f"migrate send took over {seconds} s\n{self.text()}") from None
        self.out.join(5)
        self.err.join(5)
        if self.own_state and self.status in (MOVED, NOT_MOVED, USAGE):
            shutil.rmtree(self.state_dir, ignore_errors=True)
        return self

    def text(self):
        parts = [" ".join(self.argv), f"status {self.status}", "--- stdout", self.stdout,
                 "--- stderr", self.stderr]
        if self.server is not None:
            parts.append(self.server.text())
        return "\n".join(parts)


def send_start(host, server, pid, **options):
    """Starts migrate send and returns at once, for tests that interfere with it."""
    return Send(host, server, pid, **options)


def send(host, server, pid, seconds=120, **options):
    """Runs migrate send to its end."""
    return Send(host, server, pid, **options).wait(seconds)


def migrate(host, *argv, state_dir=None, seconds=60):
    """Any other subcommand (status, cancel, resolve); returns subprocess's result, whatever its
    status.
    """
    extra = ["--state-dir", str(state_dir)] if state_dir is not None else []
    return host.run([program("migrate"), *argv, *extra], check=False, timeout=seconds, errors="replace")


def stop_at(point):
    """The environment of a program that stops itself there; docs/hacking.md lists the points."""
    return {**os.environ, "PAGESTREAM_STOP_AT": point}


def _children(process):
    try:
        return pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []


def _stopped(pid):
    """Whether all threads of a process stand still."""
    try:
        tasks = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        stats = [(task / "stat").read_text() for task in tasks]
    except OSError:
        return False
    return all(stat[stat.rindex(")") + 2] == "T" for stat in stats)


def _wait_stopped(process, seconds, text):
    """nsenter stops itself when the program that it waits for has stopped."""
    def stopped():
        if process.poll() is not None:
            raise AssertionError(f"ended without having been stopped (is this a build with stop_points?)\n{text()}")
        return _stopped(process.pid) and all(map(_stopped, _children(process)))

    try:
        wait_until(stopped, seconds, "stopped")
    except TimeoutError as e:
        raise AssertionError(f"{e}\n{text()}") from None


def _go_on(process):
    """nsenter passes it on; a child that has been killed is gone already."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)


def _inside(host, process, name):
    """nsenter waits for its one child, the program: its PID inside the host."""
    children = _children(process)
    if not children:
        return None
    for inner, outer in host.pids().items():
        if str(outer) in children:
            return inner
    return None
