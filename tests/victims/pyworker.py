#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""pyworker.py DIR [MIB]: a python3 program with threads and pipes, that answers as the victims in C
do (see victim.h).

A producer numbers its messages and sends them through a chain of pipes; each stage, a thread,
checks the number and the checksum and passes them on; the last one stores them in a table of MIB
mebibytes, of which a further thread verifies entries at random. A child process gets each hundredth
message over a pipe and answers with its hash.
"""
import hashlib
import os
import random
import struct
import sys
import threading
import time

SIZE = 1000
HEADER = struct.Struct("<Q32s")


class Wrong(Exception):
    pass


class Worker:
    def __init__(self, directory, mib):
        self.dir = directory
        self.entries = mib * 1024 * 1024 // SIZE
        self.table = {}
        self.lock = threading.Lock()
        self.problem = None
        self.stored = self.verified = self.answered = 0
        self.pipes = [os.pipe() for _ in range(4)]
        self.to_child, self.from_child = os.pipe(), os.pipe()

    @staticmethod
    def body(number):
        return hashlib.shake_128(b"%d" % number).digest(SIZE)

    @staticmethod
    def read_exactly(fd, size):
        parts = []
        while size:
            part = os.read(fd, size)
            if not part:
                raise Wrong("a pipe ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self, fd, expected):
        number, digest = HEADER.unpack(self.read_exactly(fd, HEADER.size))
        body = self.read_exactly(fd, SIZE)
        if number != expected:
            raise Wrong(f"message {number} where {expected} is due")
        if hashlib.sha256(body).digest() != digest:
            raise Wrong(f"message {number} is damaged")
        return body

    @staticmethod
    def send(fd, number, body):
        data = HEADER.pack(number, hashlib.sha256(body).digest()) + body
        while data:
            data = data[os.write(fd, data):]

    # Threads: each runs one of these for ever

    def produce(self, number):
        self.send(self.pipes[0][1], number, self.body(number))
        if number % 50 == 0:
            time.sleep(0.001)

    def make_stage(self, i):
        def stage(number):
            self.send(self.pipes[i + 1][1], number, self.receive(self.pipes[i][0], number))
        return stage

    def store(self, number):
        body = self.receive(self.pipes[-1][0], number)
        with self.lock:
            self.table[number % self.entries] = (number, body)
            self.stored += 1
        if number % 100 == 0:
            self.send(self.to_child[1], number, body)
            if self.read_exactly(self.from_child[0],
                                 32) != hashlib.sha256(body + b"child").digest():
                raise Wrong(f"the child's answer to message {number} is wrong")
            self.answered += 1

    def verify_some(self, _):
        with self.lock:
            found = self.table.get(random.randrange(self.entries))
        if found is not None:
            number, body = found
            if body != self.body(number):
                raise Wrong(f"entry of message {number} is wrong in the table")
            self.verified += 1
        time.sleep(0.0005)

    def forever(self, step):
        number = 0
        try:
            while self.problem is None:
                step(number)
                number += 1
        except Exception as e:
            self.problem = self.problem or f"{step.__name__}: {type(e).__name__}: {e}"

    def child(self):
        number = 0
        while True:
            body = self.receive(self.to_child[0], number)
            os.write(self.from_child[1], hashlib.sha256(body + b"child").digest())
            number += 100

    # The protocol of victim.h

    def answer(self, number):
        start, end = (self.stored, self.verified, self.answered), time.monotonic() + 10
        while self.problem is None and time.monotonic() < end:
            if all(now > before for now,
                   before in zip((self.stored, self.verified, self.answered), start)):
                break
            time.sleep(0.002)
        else:
            self.problem = self.problem or "a thread does not go on"
        with self.lock:
            for slot, (message, body) in list(self.table.items())[:5000]:
                if message % self.entries != slot or body != self.body(message):
                    self.problem = self.problem or f"entry {slot} is wrong"
        said = f"FAIL {self.problem}" if self.problem else f"ok stored={self.stored}"
        self.replace("result", f"{number} {said}\n")

    def replace(self, name, text):
        with open(f"{self.dir}/.{name}.new", "w") as f:
            f.write(text)
        os.rename(f"{self.dir}/.{name}.new", f"{self.dir}/{name}")

    def run(self):
        if os.fork() == 0:
            try:
                self.child()
            finally:
                os._exit(1)
        steps = [self.produce, *(self.make_stage(i) for i in range(len(self.pipes) - 1)),
                 self.store, self.verify_some]
        for step in steps:
            threading.Thread(target=self.forever, args=(step,), daemon=True).start()
        while self.stored < 100 and self.problem is None:
            time.sleep(0.002)
        self.replace("ready", f"{os.getpid()}\n")
        seen, last = None, 0
        while True:
            try:
                found = os.stat(f"{self.dir}/check")
                identity = (found.st_ino, found.st_mtime_ns)
                if identity != seen:
                    with open(f"{self.dir}/check") as f:
                        number = int(f.read() or 0)
                    seen = identity
                    if number != last:
                        last = number
                        self.answer(number)
            except FileNotFoundError:
                pass
            time.sleep(0.002)


if __name__ == "__main__":
    Worker(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8).run()
