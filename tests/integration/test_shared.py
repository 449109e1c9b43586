# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory and deleted files that processes share, written by all ways there are, moved to and fro; and what of them is left to
be sent while nobody runs.
"""
import pytest
from hosts import SHARED_MEMORY
from pagestream import PageServer, send

MIB = 1 << 20


@pytest.mark.parametrize("mode", ["hybrid", "precopy", "postcopy"])
def test_no_wrong_page(two_hosts, keys, start_victim, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "shared-pages", "16", "1000", "amsdnh")
        places = [(a, b, on_b), (b, a, on_a)]
        for number in range(6):
            source, target, server = places[number % 2]
            result = send(source, server, victim.pid, mode=mode, streams=1 + number % 3)
            assert result.status == 0, f"move {number}: {result.text()}"
            victim.host = target
            victim.check(target)


def test_children_that_end_at_once(two_hosts, keys, start_victim):
    """They write between two looks at the tree. One that is met while it ends is a reason to try again."""
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, "shared-pages", "16", "1000", "amf")
        for _ in range(50):
            result = send(a, on_b, victim.pid)
            if result.status == 0:
                break
            assert "has ended" in result.text() or "is gone" in result.text(), result.text()
            victim.check(a)
        assert result.status == 0, result.text()
        victim.host = b
        victim.check(b)


@pytest.mark.parametrize("mode", ["hybrid", "precopy", "postcopy"])
@pytest.mark.parametrize("kind, mib", [("a", 256), ("m", 256), ("n", 256), ("s", 256), ("d", 64), ("h", 256)])
def test_idle_content_goes_ahead(two_hosts, keys, start_victim, kind, mib, mode):
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, "shared-pages", str(mib), "0", kind)
        result = send(a, on_b, victim.pid, mode=mode)
        assert result.status == 0, result.text()
        victim.host = b
        victim.check(b)
        assert result.json["bytes_sent"] > mib / 2 * MIB, result.json
        assert result.json["bytes_frozen"] < 2 * MIB, result.json


def test_named_file_in_memory(two_hosts, keys, start_victim):
    """A file of /dev/shm is left alone when the target sees the very same one; another one in its place is in the way."""
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        victim = start_victim(a, "shared-pages", "4", "500", "p")
        name = SHARED_MEMORY / f"victim-{victim.pid}"
        try:
            result = send(a, on_b, victim.pid)
            assert result.status == 0, result.text()
            victim.host = b
            victim.check(b)
            a.run(["sh", "-c", f"cp -p {name} /mnt && mount -t tmpfs tmpfs {SHARED_MEMORY} && cp -p /mnt/{name.name} {name}"])
            result = send(b, on_a, victim.pid)
            assert result.status == 1 and f"file {name}: another file has that name on the restoring host" in result.text(), result.text()
            victim.check(b)
        finally:
            name.unlink()


def test_segment_shared_with_a_parent_outside(two_hosts, keys, start_victim):
    a, b, _ = two_hosts
    with PageServer(b, keys) as on_b:
        victim = start_victim(a, "shared-pages", "4", "500", "a")
        child = a.tree(victim.pid)[1]
        result = send(a, on_b, child)
        assert result.status == 1, result.text()
        assert f"PID {victim.pid} (shared-pages), which is not in the tree, uses it, too" in result.text(), result.text()
        victim.check(a)
