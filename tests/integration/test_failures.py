# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 of either side and a cut link, before the commit and in post-copy: never two, never none, never a wrong byte."""
import pathlib
import signal
import time

import pytest
from hosts import wait_until
from pagestream import migrate, send, send_start
from snapshot import diff_settled, snapshot


def freezers():
    """The cgroups that pagestream has made on this machine: hosts share the hierarchy."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return {path for mount in mounts if mount[2] == "cgroup2" for path in pathlib.Path(mount[1]).rglob("pagestream-*")}


@pytest.fixture(autouse=True)
def no_cgroup_stays():
    before = freezers()
    yield
    wait_until(lambda: not freezers() - before, 20, "all cgroups of the test are gone")


def in_precopy(job):
    """A limited link makes the first round last; it has begun when the journal has an entry."""
    wait_until(lambda: list(job.state_dir.glob("sessions/*.journal")), 20, "the session has begun")
    time.sleep(0.3)


def start_slow(a, net, page_server, start_victim):
    victim = start_victim(a, "pages", "48", "1", "500")
    before = snapshot(a, victim.pid)
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy")
    in_precopy(job)
    assert job.status is None, job.text()
    return victim, before, job


def runs_on(a, b, victim, before):
    assert not b.alive(victim.pid)
    assert not diff_settled(before, a, victim.pid, seconds=15)
    victim.check(a)


@pytest.mark.parametrize("how", ["kill -9 migrate", "kill -9 pageserver", "ctrl-c", "drop", "down"])
def test_before_commit(two_hosts, page_server, start_victim, how):
    a, b, net = two_hosts
    victim, before, job = start_slow(a, net, page_server, start_victim)
    if how == "kill -9 migrate":
        job.kill(signal.SIGKILL)
    elif how == "kill -9 pageserver":
        page_server.kill()
    elif how == "ctrl-c":
        job.kill(signal.SIGINT)
    else:
        net.cut(how)
    job.wait(60)
    if how != "kill -9 migrate":
        assert job.status == 1, job.text()
    wait_until(lambda: not b.alive(victim.pid), 90, "the target has discarded its copy")
    runs_on(a, b, victim, before)
    if how == "kill -9 pageserver":
        page_server.start()  # takes away what the one before it has left


@pytest.mark.parametrize("how", ["drop", "down"])
def test_link_cut_in_postcopy(two_hosts, page_server, start_victim, how):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "48", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy")
    wait_until(lambda: b.alive(victim.pid) and "running" in
               migrate(a, "status", state_dir=job.state_dir).stdout, 30, "it runs on the target")
    net.cut(how)
    time.sleep(1)
    net.restore()
    net.limit("1gbit")
    job.wait(120)
    assert job.status == 0, job.text()
    assert not a.alive(victim.pid)
    victim.check(b)


def test_sender_killed_in_postcopy_and_resolved(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "48", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="postcopy")
    wait_until(lambda: b.alive(victim.pid) and "running" in
               migrate(a, "status", state_dir=job.state_dir).stdout, 30, "it runs on the target")
    job.kill(signal.SIGKILL)
    job.process.wait(20)
    net.limit("1gbit")
    session = migrate(a, "status", state_dir=job.state_dir).stdout.split()[0]
    result = migrate(a, "resolve", session, state_dir=job.state_dir, seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    wait_until(lambda: not a.alive(victim.pid), 20, "the source's copy is ended")
    victim.check(b)


HOLD = """#!/bin/sh
[ "$1" = {event} ] || exit 0
touch {dir}/reached
while [ -e {dir}/hold ]; do sleep 0.01; done
"""


def hold_at(tmp_path, event):
    """A hook that stops the migration at an event until the file "hold" goes."""
    hook = tmp_path / "hook"
    hook.write_text(HOLD.format(event=event, dir=tmp_path))
    hook.chmod(0o755)
    (tmp_path / "hold").touch()
    return hook


@pytest.mark.parametrize("who", ["migrate", "pageserver"])
@pytest.mark.parametrize("event", ["pre-freeze", "post-freeze"])
def test_killed_around_the_freeze(two_hosts, page_server, start_victim, tmp_path, event, who):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    job = send_start(a, page_server, victim.pid, hook=hold_at(tmp_path, event))
    wait_until((tmp_path / "reached").exists, 20, f"the hook has reached {event}")
    (job.kill if who == "migrate" else page_server.kill)()
    (tmp_path / "hold").unlink()
    job.wait(60)
    wait_until(lambda: not b.alive(victim.pid), 90, "the target has discarded its copy")
    runs_on(a, b, victim, before)
    if who == "pageserver":
        page_server.start()  # takes away what the one before it has left


def test_sender_killed_right_after_the_commit(two_hosts, page_server, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    job = send_start(a, page_server, victim.pid, mode="precopy", hook=hold_at(tmp_path, "resumed"))
    wait_until((tmp_path / "reached").exists, 20, "the hook has reached resumed")
    job.kill()
    (tmp_path / "hold").unlink()
    job.process.wait(20)
    session = migrate(a, "status", state_dir=job.state_dir).stdout.split()[0]
    victim.check(b)
    result = migrate(a, "resolve", session, state_dir=job.state_dir)
    assert result.returncode == 0, result.stdout + result.stderr
    wait_until(lambda: not a.alive(victim.pid), 20, "the source's copy is ended")
    victim.check(b)


def test_hook_that_fails_rolls_back(two_hosts, page_server, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "threads", "4")
    before = snapshot(a, victim.pid)
    hook = tmp_path / "hook"
    hook.write_text('#!/bin/sh\necho "$1" >> ' + f'{tmp_path}/events\n[ "$1" != post-freeze ]\n')
    hook.chmod(0o755)
    result = send(a, page_server, victim.pid, hook=hook)
    assert result.status == 1 and "post-freeze" in result.stderr, result.text()
    assert (tmp_path / "events").read_text().split() == ["pre-freeze", "post-freeze", "rolled-back"]
    wait_until(lambda: not b.alive(victim.pid), 30, "the target has discarded its copy")
    runs_on(a, b, victim, before)
