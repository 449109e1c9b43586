# SPDX-License-Identifier: LGPL-2.1-or-later
"""What outlives processes, System V objects and files in memory: what becomes of it on each side, whatever happens; and whose
it is.
"""
import contextlib
import re
import subprocess
import time

import pytest
from hosts import wait_until
from pagestream import PageServer, migrate, send, send_start, stop_at

KINDS = ["sysv-shm", "sysv-sem", "sysv-msg", "posix-shm", "mqueue"]


def objects(host):
    """Of all three tables: (table, key, id); and ("file", 0, name) of /dev/shm and /dev/mqueue."""
    names = host.run(["find", "/dev/shm", "/dev/mqueue", "-mindepth", "1", "-not", "-name", "shared", "-not", "-path", "/dev/shm/shared/*"]).stdout
    found = {("file", 0, name) for name in names.splitlines()}
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
        made = objects(b)
        assert made == before or (kind == "posix-shm" and not made & before)  # names of files come with the commit
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
        assert not objects(b) or kind == "posix-shm"  # of which the next move takes them away
        before = objects(a)
        assert send(a, server, victim.pid).status == 0
        assert objects(b) == before and not objects(a)
        victim.host = b
        victim.check(b)


@pytest.mark.parametrize("kind", ["sysv-shm", "posix-shm", "mqueue"])
def test_migrate_is_killed_after_the_commit(two_hosts, keys, start_victim, tmp_path, kind):
    """The objects of the source go with its copy: by migrate resolve."""
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, kind)
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


def test_name_is_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "posix-shm")
    name = f"/dev/shm/victim-open-{victim.pid}"
    b.run(["sh", "-c", f"head -c 1000 /dev/zero > {name}"])
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and f"file {name}: another file has that name on the restoring host" in result.text(), result.text()
    assert objects(b) == {("file", 0, name)}
    victim.check(a)


def test_queue_name_is_taken(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "mqueue")
    b.run(["touch", f"/dev/mqueue/victim-{victim.pid}"])
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and f"message queue /victim-{victim.pid}: its name is taken" in result.text(), result.text()
    victim.check(a)


def test_mq_notify(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "mqueue", "notify")
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and "mq_notify" in result.text(), result.text()
    assert not objects(b)


STRANGER = {
    "mqueue": "f = open('{id}')",
    "posix-shm": "import mmap; f = open('{id}', 'r+b'); m = mmap.mmap(f.fileno(), 4096)",
    "sysv-shm": "c.shmat.restype = ctypes.c_long; assert c.shmat({id}, None, 0) > 0",
    "sysv-sem": "assert c.semctl({id}, 1, 16, 1) == 0",  # SETVAL
    "sysv-msg": "assert c.msgsnd({id}, (ctypes.c_long * 2)(9, 9), 8, 0) == 0",
}


def stranger(kind, ident):
    """The command of a program that uses such an object, then says so and waits."""
    return ["/usr/bin/python3", "-c", "import ctypes, sys; c = ctypes.CDLL(None)\n" + STRANGER[kind].format(id=ident) +
            "\nprint(flush=True); sys.stdin.read()"]


@contextlib.contextmanager
def waiting(process):
    """Such a program, from the moment that it has said so."""
    try:
        assert process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def test_attached_by_somebody_unseen(two_hosts, page_server, start_victim):
    """A process in a PID namespace above, as of a host around a container: the number of mappings tells."""
    a, b, _ = two_hosts
    victim = start_victim(a, "sysv-shm")
    ident = next(one[2] for one in objects(a) if one[1] > 0)
    unseen = subprocess.Popen(["nsenter", "-t", str(a.init), "-i", "--", *stranger("sysv-shm", ident)], stdin=-1, stdout=-1)
    with waiting(unseen):
        result = send(a, page_server, victim.pid)
        assert result.status == 1 and "processes outside of the tree use it, too" in result.text(), result.text()
        assert not objects(b)


def test_segment_that_nobody_has_attached(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "sysv-shm", "unattached")
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and re.search("System V segment .* nobody has it attached", result.text()), result.text()
    assert not objects(b)


def test_adjustments_of_a_thread(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "sysv-sem", "thread")
    result = send(a, page_server, victim.pid)
    assert result.status == 1 and "clone without CLONE_SYSVSEM" in result.text(), result.text()
    assert not objects(b)
    victim.check(a)


@pytest.mark.parametrize("kind", KINDS)
def test_used_by_a_stranger(two_hosts, page_server, start_victim, kind):
    a, b, _ = two_hosts
    victim = start_victim(a, kind)
    # The queue that the victim's child waits on; the last sender alone would tell of the stranger only.
    ident = next(one[2] for one in objects(a) if one[0] == "file" and ("mapped" in one[2] or "asking" in one[2]) or
                 one[0] != "file" and (one[1] > 0) == (kind != "sysv-msg"))
    with waiting(a.popen(stranger(kind, ident), stdin=-1, stdout=-1)):
        result = send(a, page_server, victim.pid)
        assert result.status == 1 and "python3" in result.text(), result.text()
        assert not objects(b)


USES = {"semaphore set": "i = c.semget(0, 1, 0o1600); c.semop(i, (ctypes.c_short * 3)(0, 1, 0), 1)",
        "message queue": "i = c.msgget(0, 0o1600); c.msgsnd(i, (ctypes.c_long * 2)(1, 2), 8, 0)"}


def test_used_by_an_earlier_process(two_hosts, page_server):
    """A process that got the number of one that has ended is not taken for it."""
    a, b, _ = two_hosts

    def run_as(pid, command):
        a.run(["sh", "-c", f"echo {pid - 1} > /proc/sys/kernel/ns_last_pid; {command}"])

    for pid, use in zip((5000, 5100), USES.values()):
        run_as(pid, f"python3 -c 'import ctypes; c = ctypes.CDLL(None); {use}'; :")
    used = time.time()
    wait_until(lambda: time.time() > used + 4, 10, "a while has passed")
    for pid, kind in zip((5000, 5100), USES):
        run_as(pid, "setsid sleep 100 >/dev/null 2>&1 </dev/null & :")
        wait_until(lambda pid=pid: a.tree(pid), 5, "the process runs")
        before = objects(a)
        result = send(a, page_server, pid)
        assert result.status == 1 and re.search(f"{kind} .* before the process began", result.text()), result.text()
        assert objects(a) == before and not objects(b)
        a.kill(pid)
