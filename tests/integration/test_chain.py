# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chains of checkpoints: pre-dumps while a process goes on, and a dump on top of them."""
import os
import shutil

import pytest
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import wait_until
from pagestream import program
from snapshot import diff_settled, snapshot

MIB = 1 << 20
LENGTH = 5
STEPS = 150  # of the victim between two directories


@pytest.fixture
def place():
    with Place() as made:
        yield made


def pre_dump(host, place, pid, name, previous=None, *words):
    """The directory `name` of the place, on top of another one there."""
    directory = place.make(name)
    if previous:
        words += ("--prev-images-dir", f"../{previous}")
    return dump(host, place, pid, directory, *words, command="pre-dump")


def blocks(directory):
    """Bytes that the pages in it take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("pages-*.img"))


def dedup(host, directory):
    host.run([program("migrate"), "dedup", "-D", directory])


def go_on(host, victim, steps=STEPS):
    """Lets the victim go that far, and checks it."""
    victim.check(host)
    goal = int(victim.note["steps"]) + steps

    def there():
        victim.check(host)
        return int(victim.note["steps"]) >= goal
    wait_until(there, 60, f"{steps} steps of the victim", step=0.05)


def chain(host, place, victim, length=LENGTH):
    """Pre-dumps, with time for changes behind each; returns the name of the last one."""
    name = None
    for number in range(1, length + 1):
        pre_dump(host, place, victim.pid, str(number), name)
        name = str(number)
        go_on(host, victim)
    return name


def end(host, pid):
    pids = host.tree(pid)
    for one in pids:
        host.kill(one)
    wait_gone(host, pids)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_churn(host, place, start_victim, seed):
    """Mappings, guards and children come and go; what is restored is exact, at once or lazily, and again after a dedup."""
    victim = start_victim(host, "mem-churn", seed)
    go_on(host, victim)
    last = chain(host, place, victim)
    pids = host.tree(victim.pid)
    final = place.make("final")
    dump(host, place, victim.pid, final, "--prev-images-dir", f"../{last}")
    wait_gone(host, pids)
    before = [blocks(place.path / str(number)) for number in range(1, LENGTH + 1)]
    for words in ((), ("--lazy-pages",)):
        restore(host, place, final, *words)
        go_on(host, victim)
        end(host, victim.pid)
    dedup(host, final)
    after = [blocks(place.path / str(number)) for number in range(1, LENGTH + 1)]
    assert sum(after) < sum(before) and all(a <= b for a, b in zip(after, before)), (before, after)
    for words in (("--lazy-pages",), ()):
        restore(host, place, final, *words)
        go_on(host, victim)
        end(host, victim.pid)


def test_dedup_meanwhile(host, place, start_victim):
    """A dedup in the middle of a chain that goes on, and pre-dumps upon what it has left whole."""
    victim = start_victim(host, "mem-churn", 4)
    go_on(host, victim)
    name = chain(host, place, victim, 3)
    before = blocks(place.path / "1")
    dedup(host, place.path / name)
    assert blocks(place.path / "1") < before
    pre_dump(host, place, victim.pid, "upon", name)
    go_on(host, victim)
    refused(run(host, place, "pre-dump", "-t", victim.pid, "-D", place.make("too-late"), "--prev-images-dir", "../2"), "/2:")
    pids = host.tree(victim.pid)
    dump(host, place, victim.pid, place.make("final"), "--prev-images-dir", "../upon")
    wait_gone(host, pids)
    restore(host, place, place.path / "final")
    go_on(host, victim)


def refused(result, *words):
    assert result.returncode == 1, text(result)
    for word in words:
        assert word in result.stderr, text(result)


def test_dedup_of_another_one(host, place, start_victim):
    """Two checkpoints upon one: what one of them has taken out, the other one does not read as zeros."""
    victim = start_victim(host, "pages", 4, 1, 2000)
    dump(host, place, victim.pid, place.make("first"), "-R")
    for name in ("left", "right"):
        dump(host, place, victim.pid, place.make(name), "-R", "--prev-images-dir", "../first")
    dedup(host, place.path / "left")
    end(host, victim.pid)
    for name in ("first", "right"):
        refused(run(host, place, "restore", "-D", place.path / name, "-d"), name, "dedup")
        wait_until(lambda: not host.pids(), 10, "the end of what was begun")
    restore(host, place, place.path / "left")
    victim.check(host)


def test_refused(host, place, start_victim):
    """A chain that is not whole any more is refused by name; one that was moved as a whole is not."""
    victim = start_victim(host, "mem-cow", 4)
    whole = place.make("whole")
    for number in (1, 2, 3):
        words = ("--prev-images-dir", f"../{number - 1}") if number > 1 else ()
        dump(host, place, victim.pid, place.make(f"whole/{number}"), *words, command="pre-dump")
    other = start_victim(host, "mem-cow", 1)
    refused(run(host, place, "pre-dump", "-t", other.pid, "-D", place.make("other"), "--prev-images-dir", whole / "1"),
            "whole/1 is of another process", str(victim.pid))
    refused(run(host, place, "pre-dump", "-t", victim.pid, "-D", place.path / "other", "--prev-images-dir", "../none"),
            "other/../none")
    pids = host.tree(victim.pid)
    dump(host, place, victim.pid, place.make("whole/final"), "--prev-images-dir", "../3")
    assert os.readlink(whole / "2" / "parent") == "../1"
    wait_gone(host, pids)
    running = host.pids()

    def spoiled(name, spoil):
        copy = place.path / name
        shutil.copytree(whole, copy, symlinks=True)
        spoil(copy)
        return copy

    def in_wrong_order(copy):
        (copy / "1").rename(copy / "0")
        (copy / "2").rename(copy / "1")
        (copy / "0").rename(copy / "2")

    def apart(copy):
        place.make("far").joinpath("away").mkdir()
        (copy / "2").rename(place.path / "far" / "away" / "2")

    for name, spoil, named in (("missing", lambda copy: shutil.rmtree(copy / "1"), "missing/2"),
                               ("order", in_wrong_order, "order/3"), ("apart", apart, "apart/3")):
        copy = spoiled(name, spoil)
        for words in ((), ("--lazy-pages",)):
            refused(run(host, place, "restore", "-D", copy / "final", "-d", *words), named)
        wait_until(lambda: host.pids() == running, 10, "the end of what was begun")
    refused(run(host, place, "restore", "-D", place.path / "whole" / "3", "-d"), "whole/3", "pre-dump")
    moved = place.path / "far" / "moved"
    whole.rename(moved)
    restore(host, place, moved / "final")
    victim.check(host)


def test_size(host, place, start_victim):
    """Of 64 MiB of which about 1 MiB was written, about 1 MiB is dumped."""
    victim = start_victim(host, "pages", 64, 1, 300)
    first = pre_dump(host, place, victim.pid, "1")
    assert first["bytes"] > 40 * MIB, first
    victim.check(host)
    goal = int(victim.note["writes"]) + 256

    def written():
        victim.check(host)
        return int(victim.note["writes"]) >= goal
    wait_until(written, 60, "1 MiB written", step=0.05)
    second = pre_dump(host, place, victim.pid, "2", "1")
    assert MIB / 2 < second["bytes"] < 4 * MIB, second
    assert abs(blocks(place.path / "2") - second["bytes"]) < MIB / 4, (blocks(place.path / "2"), second)
    victim.check(host)


def test_deleted_files(host, place, start_victim):
    """The content of deleted files is in the dump only: a pre-dump has no use for it."""
    victim = start_victim(host, "deleted", "map")
    pids = host.tree(victim.pid)
    pre_dump(host, place, victim.pid, "1")
    pre_dump(host, place, victim.pid, "2", "1")
    dump(host, place, victim.pid, place.make("final"), "--prev-images-dir", "../2")
    assert {path.parent.name for path in place.path.rglob("*ghost*")} == {"final"}
    wait_gone(host, pids)
    restore(host, place, place.path / "final")
    victim.check(host)


def test_untouched(host, place, start_victim):
    """A pre-dump leaves the tree as it was."""
    victim = start_victim(host, "mem-cow", 8)
    victim.check(host)
    before = snapshot(host, victim.pid)
    pre_dump(host, place, victim.pid, "1")
    assert diff_settled(before, host, victim.pid) == []
    pre_dump(host, place, victim.pid, "2", "1")
    assert diff_settled(before, host, victim.pid) == []
    victim.check(host)


def test_pause(host, place, start_victim):
    """A process stands still for as long as a pre-dump begins to track it, not while its memory is written."""
    victim = start_victim(host, "tick", 256, 2000)
    stalls = []
    for number in range(3):  # others run on this machine too
        victim.check(host)
        pre_dump(host, place, victim.pid, f"{number}", f"{number - 1}" if number else None)
        victim.check(host)
        stalls.append(int(victim.note["longest_us"]))
    assert min(stalls) < 30000, stalls


def test_shared_after_fork(host, place, start_victim):
    """What a child has from its parent is in memory once, after a restore too."""
    victim = start_victim(host, "mem-cow", 32)
    pids = host.tree(victim.pid)

    def memory():
        return sum(int(line.split()[1]) for pid in host.tree(victim.pid)
                   for line in (host.proc(pid) / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")) * 1024
    before = memory()
    dump(host, place, victim.pid, place.make("final"))
    wait_gone(host, pids)
    restore(host, place, place.path / "final")
    assert memory() < before + 8 * MIB, (before, memory())
    victim.check(host)
