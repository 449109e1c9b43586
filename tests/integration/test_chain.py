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
