# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lock on a tree's TCP connections: a table of nftables on each side, which is gone whatever way a move ends."""
import re
import signal

import pytest
from hosts import wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at

TABLE = re.compile(r"^table inet pagestream-([0-9a-f]{32})-[0-9a-f]+-(source|target)$", re.M)


def tables(host):
    """Of the host: [(session, side), ...]."""
    return TABLE.findall(host.run(["nft", "list", "tables"]).stdout)


def session_of(host, job):
    (session, side), = tables(host)
    assert side == "source", job.text()
    return session


def hold(a, server, victim, point, **options):
    """A move that has been stopped at that point, with a lock on the source."""
    job = send_start(a, server, victim.pid, env=stop_at(point), **options)
    job.wait_stopped()
    assert [side for _, side in tables(a)] == ["source"], job.text()
    return job


@pytest.fixture
def listener(two_hosts, start_victim):
    return start_victim(two_hosts[0], "listen-tcp")


@pytest.fixture
def state(tmp_path):
    """Directory of migrate's journals."""
    return tmp_path / "state"


def test_success(two_hosts, page_server, listener):
    a, b, _ = two_hosts
    job = hold(a, page_server, listener, "held")
    assert [side for _, side in tables(b)] == ["target"]
    job.go_on()
    assert job.wait(60).status == 0, job.text()
    assert tables(a) == tables(b) == []
    listener.check(b)


def test_no_table_without_tcp(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "pipes")
    job = send_start(a, page_server, victim.pid, env=stop_at("held"))
    job.wait_stopped()
    assert tables(a) == tables(b) == []
    job.go_on()
    assert job.wait(60).status == 0, job.text()
    victim.check(b)


NO_ADMIN = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]


def test_listener_without_permission(two_hosts, page_server, listener):
    """For sockets that only listen there need be no lock: without, a connection may be reset that begins just then."""
    a, b, _ = two_hosts
    job = send_start(a, page_server, listener.pid, prefix=NO_ADMIN, env=stop_at("held"))
    job.wait_stopped()
    assert tables(a) == []
    job.go_on()
    assert job.wait(60).status == 0, job.text()
    listener.check(b)


@pytest.mark.parametrize("how", ["interrupt", "cancel", "target dies", "killed"])
@pytest.mark.parametrize("point", ["round 1", "stopped"])
def test_taken_back(two_hosts, keys, listener, state, how, point):
    a, b, _ = two_hosts
    with PageServer(b, keys) as server:
        job = hold(a, server, listener, point, state_dir=state)
        if how == "target dies":
            server.kill()
            job.go_on()
        else:
            job.kill({"interrupt": signal.SIGINT, "cancel": signal.SIGTERM, "killed": signal.SIGKILL}[how])
        status = job.wait(60).status
        assert status != 0, job.text()
        wait_until(lambda: not tables(a), 10, "the source's lock is gone")
        if how == "target dies":
            server.start()
        wait_until(lambda: not tables(b), 10, "the target's lock is gone")
    listener.check(a)


def kill_all(host, job):
    """migrate and its guardian, at once."""
    guardian = next(pid for pid in host.pids() if (host.proc(pid) / "comm").read_text() == "migrate-guard\n")
    host.kill(guardian)
    job.kill()
    job.wait(20)


def test_found_by_the_next(two_hosts, page_server, listener, start_victim, state):
    """Nobody was left to remove it: the next migrate does, also if it moves something else."""
    a, b, _ = two_hosts
    other = start_victim(a, "pipes")
    job = hold(a, page_server, listener, "round 1", state_dir=state)
    kill_all(a, job)
    assert len(tables(a)) == 1
    done = send(a, page_server, other.pid, state_dir=state)
    assert done.status == 0, done.text()
    assert "1 table of nftables removed" in done.stderr
    assert tables(a) == []
    listener.check(a)
    other.check(b)


def test_left_to_its_owner(two_hosts, page_server, listener, start_victim, state, tmp_path):
    """What is under way, and what belongs to another state directory, is left alone."""
    a, b, _ = two_hosts
    one, two = start_victim(a, "pipes"), start_victim(a, "eventfd")
    job = hold(a, page_server, listener, "round 1", state_dir=state)
    for victim, directory in ((one, state), (two, tmp_path / "other")):
        done = send(a, page_server, victim.pid, state_dir=directory)
        assert done.status == 0 and "removed" not in done.stderr, done.text()
    assert len(tables(a)) == 1
    job.go_on()
    assert job.wait(60).status == 0, job.text()
    assert tables(a) == []
    listener.check(b)


def test_in_doubt(two_hosts, keys, listener, state):
    """COMMIT was sent, and all are killed: the source must not answer until it is known who runs."""
    a, b, _ = two_hosts
    with PageServer(b, keys, env=stop_at("committed")) as server:
        job = hold(a, server, listener, "commit-sent", state_dir=state)
        session = session_of(a, job)
        server.wait_stopped()
        job.kill()
        job.wait(20)
        server.kill()
        assert [side for _, side in tables(a)] == ["source"]
        assert [side for _, side in tables(b)] == ["target"]
        server.env = None
        server.start()
        assert tables(b) == []
        wait_until(lambda: "in doubt" in migrate(a, "status", state_dir=state).stdout, 10, "the guardian has been there")
        assert len(tables(a)) == 1
        done = migrate(a, "resolve", session, state_dir=state)
        assert done.returncode == 0, done.stdout + done.stderr
        assert tables(a) == []
        listener.check(b)


def test_resolved_to_run_here(two_hosts, keys, listener, state):
    a, b, _ = two_hosts
    with PageServer(b, keys, env=stop_at("prepared")) as server:
        job = hold(a, server, listener, "freeze", state_dir=state)
        job.go_on()
        server.wait_stopped()
        server.kill()
        assert job.wait(60).status == 1, job.text()
        assert tables(a) == []
        assert [side for _, side in tables(b)] == ["target"]
        server.env = None
        server.start()
        assert tables(b) == []
    listener.check(a)
