# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mode precopy when the process writes faster than the link carries: it is slowed down until the limit is kept, and where
that does not help it stays where it is.
"""
import pathlib
import re
import signal
import time

import pytest
from hosts import wait_until
from pagestream import send, send_start
from snapshot import diff_settled, snapshot

# As fast as it can: some hundred MiB/s of 4 MiB or more, far over every limit below.
FAST = ("1", "0")
SLOWED = re.compile(r"slowed by (\d+)%")


def writes_per_s(host, victim, seconds=1.0):
    """Pages that the victim writes in a second by its own account; each check verifies all of its pages, too."""
    victim.check(host)
    before, began = int(victim.note["writes"]), time.monotonic()
    wait_until(lambda: time.monotonic() - began >= seconds, seconds + 5, "a second is over")
    victim.check(host)
    return (int(victim.note["writes"]) - before) / (time.monotonic() - began)


def cgroup_of(host, pid):
    """Directory of the process's cgroup of version 2."""
    path = re.search(r"^0::(.*)$", (host.proc(pid) / "cgroup").read_text(), re.M)[1]
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return pathlib.Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2") + path)


def in_throttled_round(job, victim, percent=50):
    """Waits for a round line that says that the tree is slowed down by so much. Returns the cgroup that does it."""
    def slowed():
        assert job.status is None, job.text()
        found = [int(n) for n in SLOWED.findall(job.stderr)]
        return found and found[-1] >= percent

    wait_until(slowed, 60, f"slowed by {percent}%")
    cgroup = cgroup_of(job.host, victim.pid)
    assert cgroup.name.startswith("pagestream-") and cgroup.exists()
    return cgroup


def runs_on_at_full_rate(a, b, victim, before, rate, cgroup):
    wait_until(lambda: not b.alive(victim.pid), 60, "the target has discarded its copy")
    assert not diff_settled(before, a, victim.pid, seconds=15)
    assert not cgroup.exists()
    wait_until(lambda: writes_per_s(a, victim) > rate / 2, 30, f"it writes {rate:.0f} pages/s again")


def test_converges_within_the_limit(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "32", *FAST)
    net.limit("1gbit", burst="1mb")
    limit = 100
    result = send(a, page_server, victim.pid, mode="precopy", downtime_limit=limit, json_output=True)
    assert result.status == 0, result.text()
    facts = result.json
    assert facts["downtime_ms"] < limit, result.text()
    assert facts["throttle_percent_max"] >= 20, result.text()
    assert facts["pages_postcopy"] == 0 and facts["rounds"] > 3, result.text()
    victim.check(b)
    assert not a.alive(victim.pid)


def test_stays_slowed_while_the_hook_runs(two_hosts, page_server, start_victim, tmp_path):
    """What a hook before the freeze takes its time for would be written at full speed otherwise."""
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "16", *FAST)
    rate = writes_per_s(a, victim)
    hook = tmp_path / "hook"
    hook.write_text(f'#!/bin/sh\n[ "$1" = pre-freeze ] || exit 0\ntouch {tmp_path}/reached\n'
                    f'while [ -e {tmp_path}/hold ]; do sleep 0.01; done\n')
    hook.chmod(0o755)
    (tmp_path / "hold").touch()
    net.limit("1gbit", burst="1mb")
    job = send_start(a, page_server, victim.pid, mode="precopy", hook=hook)
    wait_until((tmp_path / "reached").exists, 60, "the hook runs")
    slowed = writes_per_s(a, victim)
    (tmp_path / "hold").unlink()
    job.wait(60)
    assert job.status == 0 and job.json["throttle_percent_max"] >= 50, job.text()
    assert slowed < rate * 0.7, f"{slowed:.0f} of {rate:.0f} pages/s"
    victim.check(b)


def test_not_slowed_when_the_link_is_fast_enough(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "16", "1", "500")
    result = send(a, page_server, victim.pid, mode="precopy", downtime_limit=200, json_output=False)
    assert result.status == 0 and "slowed" not in result.text(), result.text()
    victim.check(b)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_while_throttled(two_hosts, page_server, start_victim, how):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "16", *FAST)
    rate = writes_per_s(a, victim)
    before = snapshot(a, victim.pid)
    net.limit("200mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", downtime_limit=20, json_output=False)
    cgroup = in_throttled_round(job, victim)
    job.kill(how)
    job.wait(30)
    if how != signal.SIGKILL:
        assert job.status == 1 and "interrupted" in job.stderr, job.text()
    runs_on_at_full_rate(a, b, victim, before, rate, cgroup)


def test_page_server_killed_while_throttled(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "16", *FAST)
    rate = writes_per_s(a, victim)
    before = snapshot(a, victim.pid)
    net.limit("200mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", downtime_limit=20, json_output=False)
    cgroup = in_throttled_round(job, victim)
    page_server.kill()
    job.wait(60)
    assert job.status == 1, job.text()
    runs_on_at_full_rate(a, b, victim, before, rate, cgroup)
    page_server.start()  # takes away what the one before it has left


def test_impossible_limit_is_refused(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "4", *FAST)
    rate = writes_per_s(a, victim)
    before = snapshot(a, victim.pid)
    net.limit("100mbit")
    result = send_start(a, page_server, victim.pid, mode="precopy", downtime_limit=20, json_output=False)
    cgroup = in_throttled_round(result, victim)
    result.wait(60)
    assert result.status == 1, result.text()
    said = re.search(r"writes [\d.]+ MiB/s or more \([\d.]+ when it stands still for 95% of the time\) and the link carries "
                     r"([\d.]+): it cannot be moved with a pause of at most 20 ms; use --mode hybrid, or "
                     r"--downtime-limit (\d+) or more", result.stderr)
    assert said, result.text()
    assert 5 < float(said[1]) < 20 and int(said[2]) > 20, result.text()
    runs_on_at_full_rate(a, b, victim, before, rate, cgroup)
    # What it recommends works.
    result = send(a, page_server, victim.pid, mode="precopy", downtime_limit=2 * int(said[2]))
    assert result.status == 0, result.text()
    victim.check(b)
