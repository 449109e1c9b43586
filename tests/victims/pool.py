#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""pool.py DIR [WORKERS]: a python3 program with a multiprocessing pool, that answers as the victims in C do (see victim.h).

The pool's workers hash what comes through its queues; besides there are a lock, a counter and an array in memory that all
share, a pipe with a process of its own at the other end, and an event. Each result is checked.
"""
import hashlib
import multiprocessing
import os
import sys

SIZE = 3000


def work(number):
    """In a worker: the hash, and one more in the shared counter."""
    with counter.get_lock():
        counter.value += 1
        slots[number % len(slots)] = number
    return number, hashlib.shake_128(b"%d" % number).hexdigest(SIZE)


def setup(shared_counter, shared_slots):
    global counter, slots
    counter, slots = shared_counter, shared_slots


def echo(end, event):
    """A process that sends back what it gets, once the event is set."""
    event.wait()
    while True:
        end.send(end.recv())


class Main:
    def __init__(self, directory, workers):
        self.dir = directory
        self.counter = multiprocessing.Value("q", 0)
        self.slots = multiprocessing.Array("q", 64)
        self.pool = multiprocessing.Pool(workers, setup, (self.counter, self.slots))
        self.end, other = multiprocessing.Pipe()
        event = multiprocessing.Event()
        self.echo = multiprocessing.Process(target=echo, args=(other, event), daemon=True)
        self.echo.start()
        event.set()
        self.number = 0
        self.problem = None

    def step(self):
        """One batch of work, and one message there and back."""
        first = self.number
        self.number += 50
        before = self.counter.value
        for number, digest in self.pool.imap(work, range(first, self.number), chunksize=5):
            if number != first or hashlib.shake_128(b"%d" % number).hexdigest(SIZE) != digest:
                self.problem = f"result {number} where {first} is due, or damaged"
            first += 1
        if self.counter.value != before + 50:
            self.problem = f"the shared counter went from {before} to {self.counter.value}"
        if set(range(self.number - 50, self.number)) - set(self.slots):
            self.problem = "the shared array lacks a number"
        message = {"number": self.number, "bytes": os.urandom(5000)}
        self.end.send(message)
        if self.end.recv() != message:
            self.problem = "the echo is something else"

    def run(self):
        self.step()
        self.replace("ready", f"{os.getpid()}\n")
        seen = ""
        while True:
            self.step()
            try:
                with open(os.path.join(self.dir, "check")) as file:
                    asked = file.read().strip()
            except OSError:
                asked = ""
            if asked and asked != seen:
                seen = asked
                self.step()
                self.replace("result", f"{asked} FAIL {self.problem}\n" if self.problem else f"{asked} ok\n")

    def replace(self, name, text):
        new = os.path.join(self.dir, f".{name}.python")
        with open(new, "w") as file:
            file.write(text)
        os.rename(new, os.path.join(self.dir, name))


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    Main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3).run()
