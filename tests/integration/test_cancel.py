# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ctrl-C, SIGTERM and migrate cancel in each phase: before the commit the process runs on as it was, after it the move is
finished.
"""
import os
import signal
import socket
import subprocess
import time

import pytest
from hosts import wait_until
from pagestream import migrate, program, send_start, stop_at
from snapshot import diff_settled, snapshot

BEFORE = ["connect", "preflight", "pre-copy", "round 1", "round 2", "freeze", "stopped", "hand-over", "held"]
# The journal has the session from its own beginning on: the cancel command finds it.
IN_JOURNAL = ["pre-copy", "round 2", "freeze", "hand-over", "held"]
AFTER = ["commit", "commit-journal", "commit-sent", "running-read", "post-copy"]
SOON = 5  # seconds: under every deadline that would end the phase without the signal


def rolled_back(a, b, victim, before, job):
    assert job.status == 1 and "interrupted" in job.stderr and "nothing was moved" in job.stderr, job.text()
    assert not diff_settled(before, a, victim.pid, seconds=15)
    wait_until(lambda: not b.alive(victim.pid), 60, "the target has discarded its copy")
    victim.check(a)


def ends_soon(job, began):
    job.wait(60)
    assert time.monotonic() - began < SOON, job.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("point", BEFORE)
def test_signal_before_the_commit(two_hosts, page_server, start_victim, point, number):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at(point))
    job.wait_stopped()
    job.kill(number)
    ends_soon(job, time.monotonic())
    rolled_back(a, b, victim, before, job)


def test_ignored_from_the_start_stays_so(two_hosts, page_server, start_victim, tmp_path):
    """nohup, and background jobs of a shell: their terminal's signals are not for them. migrate cancel still is."""
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    before = snapshot(a, victim.pid)
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", json_output=False, state_dir=tmp_path / "state",
                     prefix=["sh", "-c", 'trap "" HUP INT; exec "$0" "$@"'])
    wait_until(lambda: list((tmp_path / "state").glob("sessions/*.progress")), 20, "pre-copy has begun")
    for number in (signal.SIGHUP, signal.SIGINT):
        job.kill(number)
    wait_until(lambda: "round 1" in job.stderr, 30, "it goes on to the second round")
    assert job.status is None, job.text()
    done = migrate(a, "cancel", session_of(job), state_dir=job.state_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    job.wait(30)
    rolled_back(a, b, victim, before, job)


def test_cannot_be_suspended_from_the_terminal(two_hosts, page_server, start_victim):
    """It would hold what it has stopped: Ctrl-Z does nothing."""
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "1400")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", json_output=False)
    wait_until(lambda: "round 1" in job.stderr, 30, "the first round is over")
    a.kill(job.pid(), signal.SIGTSTP)
    finished(a, b, victim, job)


def pending(host, pid):
    """Whether a signal waits for the process."""
    try:
        status = (host.proc(pid) / "status").read_text()
    except (OSError, ProcessLookupError):
        return False
    return any(line.startswith("ShdPnd:") and int(line.split()[1], 16) for line in status.splitlines())


def cancel_start(job, session):
    return job.host.popen([program("migrate"), "cancel", "--state-dir", job.state_dir, session], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def session_of(job):
    return migrate(job.host, "status", state_dir=job.state_dir).stdout.split()[0]


@pytest.mark.parametrize("point", IN_JOURNAL)
def test_cancel_before_the_commit(two_hosts, page_server, start_victim, point):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at(point))
    job.wait_stopped()
    cancel = cancel_start(job, session_of(job))
    wait_until(lambda: pending(a, job.pid()), 20, "migrate is asked")
    assert cancel.poll() is None  # it waits for the outcome
    job.go_on()
    out, err = cancel.communicate(timeout=60)
    assert cancel.returncode == 0 and out == f"PID {victim.pid} runs on here\n", out + err
    job.wait(60)
    rolled_back(a, b, victim, before, job)


def finished(a, b, victim, job):
    job.wait(60)
    assert job.status == 0, job.text()
    victim.check(b)
    assert not a.alive(victim.pid)


@pytest.mark.parametrize("point", AFTER)
def test_signal_after_the_commit(two_hosts, page_server, start_victim, point):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy", env=stop_at(point))
    job.wait_stopped()
    job.kill(signal.SIGINT)
    wait_until(lambda: job.stderr.count("going on") == 1, 30, "it says that it is too late")
    assert job.status is None, job.text()
    # As often as the user likes: without what is here, the process there could not go on.
    job.kill(signal.SIGINT)
    wait_until(lambda: job.stderr.count("going on") == 2, 30, "it says it again")
    assert f"PID {victim.pid} runs on {page_server.to} already" in job.stderr, job.text()
    finished(a, b, victim, job)


def test_signal_when_all_pages_are_there(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    job = send_start(a, page_server, victim.pid, env=stop_at("complete"))
    job.wait_stopped()
    job.kill(signal.SIGTERM)
    finished(a, b, victim, job)


def test_signal_then_the_link_breaks_in_postcopy(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy", env=stop_at("post-copy"))
    job.wait_stopped()
    net.cut("down")
    job.kill(signal.SIGINT)
    wait_until(lambda: "connecting again" in job.stderr, 60, "it has seen that the link is broken")
    net.restore()
    finished(a, b, victim, job)


def test_cancel_after_the_commit(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy", env=stop_at("post-copy"))
    job.wait_stopped()
    done = migrate(a, "cancel", session_of(job), state_dir=job.state_dir)
    assert done.returncode == 1 and "cannot be taken back" in done.stderr, done.stdout + done.stderr
    job.go_on()
    finished(a, b, victim, job)
    assert "going on" not in job.stderr, job.text()


@pytest.mark.parametrize("point", ["freeze", "hand-over"])
def test_signal_while_the_target_is_silent(two_hosts, page_server, start_victim, point):
    """The tree stands still and nothing comes: the user need not wait for the deadline."""
    a, b, net = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at(point))
    job.wait_stopped()
    net.cut("drop")
    job.go_on()
    wait_until(lambda: a.state(victim.pid) in "tT", 10, "the victim stands still")
    began = time.monotonic()
    job.kill(signal.SIGINT)
    ends_soon(job, began)
    net.restore()
    rolled_back(a, b, victim, before, job)


def test_signal_while_connecting(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, env=stop_at("connect"))
    job.wait_stopped()
    net.cut("drop")
    job.go_on()
    pid = job.pid()
    wait_until(lambda: " 02 " in (a.proc(pid) / "net/tcp").read_text(), 10, "a SYN was sent")
    began = time.monotonic()
    job.kill(signal.SIGINT)
    ends_soon(job, began)
    rolled_back(a, b, victim, before, job)


def test_signal_while_nobody_answers_the_handshake(two_hosts, keys, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    with b.network():
        listener = socket.create_server((b.address, 7800))
    with listener:
        job = send_start(a, page_server, victim.pid, to=f"{b.address}:7800")
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            began = time.monotonic()
            job.kill(signal.SIGINT)
            ends_soon(job, began)
    rolled_back(a, b, victim, before, job)


HOOK = """#!/bin/sh
echo "$1" >> {dir}/events
[ "$1" = {event} ] || exit 0
ps -o pgid= -p $$ > {dir}/group
echo $$ > {dir}/pid.new && mv {dir}/pid.new {dir}/pid
while [ -e {dir}/hold ]; do sleep 0.01; done
echo "$1 ended" >> {dir}/events
"""


def hook_that_holds(tmp_path, event):
    hook = tmp_path / "hook"
    hook.write_text(HOOK.format(event=event, dir=tmp_path))
    hook.chmod(0o755)
    (tmp_path / "hold").touch()
    return hook


@pytest.mark.parametrize("event", ["pre-freeze", "post-freeze"])
def test_signal_while_a_hook_runs(two_hosts, page_server, start_victim, tmp_path, event):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, hook=hook_that_holds(tmp_path, event))
    wait_until((tmp_path / "pid").exists, 20, "the hook runs")
    began = time.monotonic()
    job.kill(signal.SIGINT)
    ends_soon(job, began)
    assert not a.alive(int((tmp_path / "pid").read_text()))
    assert (tmp_path / "events").read_text().splitlines()[-1] == "rolled-back"
    rolled_back(a, b, victim, before, job)


def test_hook_after_the_commit_is_not_disturbed(two_hosts, page_server, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    job = send_start(a, page_server, victim.pid, hook=hook_that_holds(tmp_path, "resumed"))
    wait_until((tmp_path / "pid").exists, 20, "the hook runs")
    pid = (tmp_path / "pid").read_text().strip()
    # A terminal's interrupt goes to migrate's group: it is not the hook's.
    assert (tmp_path / "group").read_text().strip() == pid
    job.kill(signal.SIGINT)
    wait_until(lambda: "going on" in job.stderr, 20, "it says that it is too late")
    assert a.alive(int(pid))
    os.unlink(tmp_path / "hold")
    finished(a, b, victim, job)
    assert (tmp_path / "events").read_text().splitlines()[-1] == "resumed ended"
