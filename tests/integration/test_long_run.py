# SPDX-License-Identifier: LGPL-2.1-or-later
"""A page server that has served many sessions is what it was after the first ones."""
import os

from hosts import wait_until
from pagestream import PageServer, send, send_start, stop_at

WARM, MOVES = 6, 40
GROWTH_KIB = 4096  # of memory that never comes back: less than 100 KiB a session


def look(host, server):
    """Descriptors, threads, KiB in memory, children."""
    pid = host.pids()[server.pid()]
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status", encoding="ascii"))
    children = open(f"/proc/{pid}/task/{pid}/children", encoding="ascii").read().split()
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(status["Threads"]),
            "kib": int(status["RssAnon"].split()[0]), "children": len(children)}


def journals(server):
    return len(list((server.state_dir / "sessions").glob("*.journal")))


def settled(host, server, first):
    """As it is when the last session has been freed."""
    def same():
        now = look(host, server)
        return now if all(now[name] == first[name] for name in ("descriptors", "threads", "children")) else None
    try:
        return wait_until(same, 10, "the page server as it was")
    except TimeoutError:
        return look(host, server)


def test_many_sessions(two_hosts, keys, start_victim):
    a, b, _ = two_hosts
    victim, fixed = start_victim(a, "pages", "4", "1", "200"), start_victim(a, "unmovable")
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        empty = look(b, on_b)
        for number in range(WARM + MOVES):
            source, server = ((a, on_b), (b, on_a))[number % 2]
            result = send(source, server, victim.pid, mode=("hybrid", "postcopy", "precopy")[number % 3])
            assert result.status == 0, f"move {number}: {result.text()}"
            assert number % 4 or send(a, on_b, fixed.pid).status == 1
            if number % 8 == 0:
                job = send_start(b, on_a, victim.pid, env=stop_at("freeze"))
                job.wait_stopped()
                job.kill()
                job.process.wait(20)
            if number == WARM - 1:
                first = settled(b, on_b, empty)
        wait_until(lambda: look(b, on_b)["children"] == 0, 20, "no child")
        last = settled(b, on_b, first)
        assert all(last[name] <= first[name] for name in ("descriptors", "threads", "children")), (first, last)
        assert last["kib"] < first["kib"] + GROWTH_KIB, (first, last)
        # One for each move: neither what was refused nor what was given up before all was there leaves one.
        assert journals(on_b) == (WARM + MOVES) // 2
        assert journals(on_a) == (WARM + MOVES) // 2
    victim.check(a)
