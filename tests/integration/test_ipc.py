# SPDX-License-Identifier: LGPL-2.1-or-later
"""System V objects outlive processes: what becomes of them on each side, whatever happens; and whose they are."""
import re

import pytest
from hosts import wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at

KINDS = ["sysv-shm", "sysv-sem", "sysv-msg"]


def objects(host):
    """Of all three tables: (table, key, id)."""
    found = set()
    for table in ("shm", "sem", "msg"):
        lines = host.run(["cat", f"/proc/sysvipc/{table}"]).stdout.splitlines()[1:]
        found |= {(table, int(line.split()[0]), int(line.split()[1])) for line in lines}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_objects_go_with_the_tree(two_hosts, keys, start_victim, tmp_path, kind):
    """After a failure, which comes when all is made on the target, they are on the source only; after a move on the target."""
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, kind)
        before = objects(a)
        assert before
        job = send_start(a, on_b, victim.pid, env=stop_at("held"))
        job.wait_stopped()
        assert objects(b) == before
        job.kill(15)
        assert job.wait().status == 1, job.text()
        wait_until(lambda: not objects(b), 20, "the target has nothing left")
        assert objects(a) == before
        victim.check(a)
        before = objects(a)
        result = send(a, on_b, victim.pid)
        assert result.status == 0, result.text()
        assert objects(b) == before and not objects(a)
        victim.host = b
        victim.check(b)


@pytest.mark.parametrize("kind", KINDS)
def test_page_server_is_killed(two_hosts, keys, start_victim, kind):
    """What it had made is removed by the next one."""
    a, b, _ = two_hosts
    server = PageServer(b, keys, env=stop_at("restored"))
    with server:
        victim = start_victim(a, kind)
        before = objects(a)
        job = send_start(a, server, victim.pid)
        server.wait_stopped()
        server.kill()
        assert job.wait().status == 1, job.text()
        assert objects(b) and objects(a) == before
        victim.check(a)
        server.env = None
        server.start()
        assert not objects(b)
        before = objects(a)
        assert send(a, server, victim.pid).status == 0
        assert objects(b) == before and not objects(a)
        victim.host = b
        victim.check(b)


def test_migrate_is_killed_after_the_commit(two_hosts, keys, start_victim, tmp_path):
    """The objects of the source go with its copy: by migrate resolve."""
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, "sysv-shm")
        before = objects(a)
        job = send_start(a, on_b, victim.pid, state_dir=tmp_path, env=stop_at("running-read"))
        job.wait_stopped()
        job.kill()
        job.wait()
        assert objects(a) == before and objects(b) == before
        session = migrate(a, "status", state_dir=tmp_path).stdout.split()[0]
        result = migrate(a, "resolve", session, state_dir=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        assert not objects(a) and objects(b) == before
        victim.host = b
        victim.check(b)


@pytest.mark.parametrize("kind, make", [("sysv-shm", "-M 1"), ("sysv-sem", "-S 1"), ("sysv-msg", "-Q")])
def test_id_is_taken(two_hosts, page_server, start_victim, kind, make):
    a, b, _ = two_hosts
    victim = start_victim(a, kind)
    table = kind[-3:]
    for line in a.run(["cat", f"/proc/sysvipc/{table}"]).stdout.splitlines()[1:]:
        ident = int(line.split()[1])
        b.run(["sh", "-c", f"echo {ident} > /proc/sys/kernel/{table}_next_id && ipcmk {make}"])
        break
    there = objects(b)
    assert {one[2] for one in there} == {ident}
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and re.search(rf"System V .* {ident} .*taken on the restoring host", result.text()), result.text()
    assert objects(b) == there
    victim.check(a)


def test_key_is_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "sysv-shm")
    key = next(one[1] for one in objects(a) if one[1])
    b.run(["/usr/bin/python3", "-c", f"import ctypes; assert ctypes.CDLL(None).shmget({key}, 1, 0o1600) >= 0"])
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and "its key is taken on the restoring host" in result.text(), result.text()
    victim.check(a)


STRANGER = {
    "sysv-shm": "c.shmat.restype = ctypes.c_long; assert c.shmat({id}, None, 0) > 0",
    "sysv-sem": "assert c.semctl({id}, 1, 16, 1) == 0",  # SETVAL
    "sysv-msg": "assert c.msgsnd({id}, (ctypes.c_long * 2)(9, 9), 8, 0) == 0",
}


@pytest.mark.parametrize("kind", KINDS)
def test_used_by_a_stranger(two_hosts, page_server, start_victim, kind):
    a, b, _ = two_hosts
    victim = start_victim(a, kind)
    # The queue that the victim's child waits on; the last sender alone would tell of the stranger only.
    ident = next(one[2] for one in objects(a) if (one[1] > 0) == (kind != "sysv-msg"))
    stranger = a.popen(["/usr/bin/python3", "-c", "import ctypes, sys; c = ctypes.CDLL(None)\n" +
                        STRANGER[kind].format(id=ident) + "\nprint(flush=True); sys.stdin.read()"], stdin=-1, stdout=-1)
    try:
        assert stranger.stdout.readline()
        result = send(a, page_server, victim.pid)
        assert result.status == 1 and "python3" in result.text(), result.text()
        assert not objects(b)
    finally:
        stranger.stdin.close()
        stranger.wait(20)
        stranger.stdout.close()
