# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 of either side and of both, and the link cut, wherever a move can be held: never two, never none, never a wrong
byte, never a trace. docs/protocol.md says what is to happen in each state.
"""
import pytest
from hosts import wait_until
from matrix import Move
from pagestream import PageServer, send
from snapshot import diff_settled, snapshot

KILLS = ["migrate", "pageserver", "migrate, pageserver", "pageserver, migrate"]
CUTS = ["reset", "drop", "down"]
# Silence is felt after a second at best: where it differs, not everywhere.
SILENT = {("migrate", "pre-copy"), ("migrate", "hand-over"), ("pageserver", "laid out"), ("pageserver", "prepared"),
          ("migrate", "held"), ("migrate", "post-copy"), ("pageserver", "committed"), ("pageserver", "running-sent")}


def strikes(places, hows):
    return [(who, point, mode, how) for who, point, mode in places for how in hows
            if how not in ("drop", "down") or (who, point) in SILENT and (how == "drop" or mode == "postcopy")]


@pytest.fixture
def move(two_hosts, keys, start_victim):
    def begin(who, point, mode="hybrid", **options):
        return Move(two_hosts, keys, start_victim, who, point, mode, **options)
    return begin


# Where the right to run is the source's: (who is held, where, mode).
BEFORE = [("migrate", "connect", "hybrid"), ("migrate", "preflight", "hybrid"), ("migrate", "pre-copy", "hybrid"),
          ("migrate", "round 2", "precopy"), ("migrate", "freeze", "hybrid"), ("migrate", "stopped", "precopy"),
          ("migrate", "hand-over", "postcopy"), ("pageserver", "new", "hybrid"), ("pageserver", "checked", "hybrid"),
          ("pageserver", "laid out", "precopy"), ("pageserver", "round done", "precopy"),
          ("pageserver", "restored", "postcopy"), ("pageserver", "prepared", "postcopy")]
# COMMIT is about to be sent, which fails if the link is cut.
ABOUT_TO = [("migrate", "held", "postcopy"), ("migrate", "commit-journal", "precopy")]


def back_at_the_source(m):
    m.is_back()
    m.net.restore()
    if "pageserver" in m.killed:
        m.restart_server()
        m.target_is_empty()
    m.moves_now()


@pytest.mark.parametrize("who, point, mode, how", strikes(BEFORE, KILLS + CUTS) + strikes(ABOUT_TO, KILLS))
def test_before_commit(move, who, point, mode, how):
    with move(who, point, mode) as m:
        m.strike(how)
        assert m.settled() in (None, 1), m.text()
        back_at_the_source(m)


# COMMIT has been sent or is about to be: the target decides.
AFTER = [("migrate", "commit", "postcopy"), ("migrate", "commit-sent", "postcopy"), ("migrate", "commit-sent", "precopy"),
         ("migrate", "running-read", "postcopy"), ("migrate", "post-copy", "postcopy"), ("migrate", "complete", "postcopy"),
         ("migrate", "done", "postcopy"), ("pageserver", "kept", "postcopy"), ("pageserver", "committed", "postcopy"),
         ("pageserver", "committed", "precopy"), ("pageserver", "let-go", "postcopy"), ("pageserver", "running", "postcopy"),
         ("pageserver", "running", "precopy"), ("pageserver", "running-sent", "postcopy"),
         ("pageserver", "complete", "postcopy"), ("pageserver", "finished", "postcopy")]


def after_what_the_user_does(m):
    """The page server is started again, the link mended, and migrate resolve asked for where that is the word."""
    if "pageserver" in m.killed:
        m.restart_server()
    m.net.restore()
    status = m.settled()
    if status == 3 or (status is None and m.sessions()):
        result = m.resolve()
        assert result.returncode == 0, result.stdout + result.stderr + m.text()
    return status


@pytest.mark.parametrize("who, point, mode, how", strikes(AFTER, KILLS + CUTS) + strikes(ABOUT_TO, CUTS))
def test_after_commit(move, who, point, mode, how):
    with move(who, point, mode) as m:
        m.strike(how)
        if how in CUTS:
            m.cut_is_felt()
        status = after_what_the_user_does(m)
        if m.a.alive(m.pid):
            assert status != 0, m.text()
            back_at_the_source(m)
        else:
            assert status != 1, m.text()
            m.has_moved()


def test_in_doubt_until_the_link_is_back(move):
    """The target runs it, and the source never hears of it: frozen there, until migrate resolve can ask."""
    with move("pageserver", "committed", "postcopy") as m:
        m.strike("reset")
        assert m.settled() == 3, m.text()
        session, = m.sessions()
        assert f"migrate resolve {session}" in m.job.stderr
        result = m.resolve()
        assert result.returncode == 3 and "--thaw or --kill" in result.stderr, result.stderr
        assert m.a.alive(m.pid) and m.b.alive(m.pid)
        m.net.restore()
        result = m.resolve("--thaw")
        assert result.returncode == 1 and "there would be two" in result.stderr, result.stderr
        result = m.resolve()
        assert result.returncode == 0, result.stderr
        m.has_moved()


def test_in_doubt_and_the_target_never_ran_it(move):
    """COMMIT was lost on the way: asked, the target gives up."""
    with move("migrate", "held", "postcopy") as m:
        m.strike("drop")
        assert m.settled() == 3, m.text()
        m.net.restore()
        result = m.resolve("--kill")
        assert result.returncode == 1 and "there would be none" in result.stderr, result.stderr
        result = m.resolve()
        assert result.returncode == 0 and "runs on here" in result.stdout, result.stdout + result.stderr
        back_at_the_source(m)


def test_operator_decides_to_thaw(move):
    """The whole target is lost, and with it its copy, which was never seen to run."""
    with move("pageserver", "committed", "precopy") as m:
        m.lose_target()
        assert m.settled() == 3, m.text()
        result = m.resolve("--thaw")
        assert result.returncode == 0 and "runs on here" in result.stdout, result.stdout + result.stderr
        assert not diff_settled(m.before, m.a, m.pid, seconds=15)
        m.progresses(m.a)
        assert not m.sessions()


def test_operator_decides_to_kill(move):
    with move("pageserver", "running", "precopy") as m:
        m.strike("reset")
        assert m.settled() == 3, m.text()
        result = m.resolve("--kill")
        assert result.returncode == 0, result.stdout + result.stderr
        m.net.restore()
        m.has_moved()


def test_held_in_doubt_it_cannot_be_sent_again(move):
    with move("pageserver", "committed", "postcopy") as m:
        session, = m.sessions()
        m.strike("migrate")
        result = send(m.a, m.server, m.pid, state_dir=m.job.state_dir)
        assert result.status == 1 and session in result.stderr and "migrate resolve" in result.stderr, result.text()
        result = m.resolve()
        assert result.returncode == 0, result.stderr
        m.has_moved()


def test_resolve_leaves_a_session_alone_that_is_under_way(move):
    with move("migrate", "commit", "hybrid") as m:
        result = m.resolve("--thaw")
        assert result.returncode == 1 and "under way" in result.stderr, result.stderr
        m.job.go_on()
        assert m.settled() == 0, m.text()
        m.has_moved()


def test_a_target_that_hangs_has_a_deadline(move):
    """It is there, and its kernel answers, but it does nothing any more."""
    with move("pageserver", "round done", "precopy", hurry={"PAGESTREAM_HURRY": "40"}) as m:
        assert m.settled() == 1, m.text()
        assert not diff_settled(m.before, m.a, m.pid, seconds=15)
        m.server.go_on()
        back_at_the_source(m)


def test_a_source_that_hangs_has_a_deadline(move):
    with move("migrate", "hand-over", "precopy", hurry={"PAGESTREAM_HURRY": "40"}) as m:
        m.target_is_empty()
        m.job.go_on()
        assert m.settled() == 1, m.text()
        back_at_the_source(m)


def test_two_page_servers_do_not_share_a_directory(move, keys):
    """The second would take the first one's sessions for those of a dead one."""
    with move("migrate", "post-copy", "postcopy") as m:
        second = PageServer(m.b, keys, port=7712, state_dir=m.server.state_dir)
        with pytest.raises(RuntimeError, match="another page server"):
            second.start()
        m.job.go_on()
        assert m.settled() == 0, m.text()
        m.has_moved()


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
    assert not diff_settled(before, a, victim.pid, seconds=15)
    victim.check(a)
