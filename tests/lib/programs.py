# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real programs to be moved under load: redis-server, memcached, python3.

    with Redis(a, mib=16) as redis:
        redis.load()
        with redis.writer(rate=2000) as writer:
            writer.allow(b)             # from now on try host b as well when the connection is lost
            ... move redis.pid from a to b ...
            redis.host = b
            writer.wait_progress()
        redis.verify(writer)            # every key read back, also those of the writer

A writer knows of each key what was acknowledged and what may have been done: a request whose answer
was lost counts as either. So nothing that was acknowledged may be missing, and nothing may be there
that was never sent.
"""
import hashlib
import pathlib
import socket
import threading
import time

from hosts import wait_until
from program import Program
from victim import Victim

VALUE = 4096
BATCH = 256


def value_of(key, generation=0, size=VALUE):
    """What must be stored under a key: bytes that do not compress and differ for each key and
    generation.
    """
    return hashlib.shake_128(f"{key}/{generation}".encode()).digest(size)


class ConnectionLost(Exception):
    pass


class RedisClient:
    """As much of the Redis protocol as is needed here, over a connected socket."""

    def __init__(self, connection):
        self.socket = connection
        self.file = connection.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def command(self, *words):
        return self.pipeline([words])[0]

    def pipeline(self, commands):
        data = bytearray()
        for words in commands:
            data += b"*%d\r\n" % len(words)
            for word in words:
                word = word if isinstance(word, bytes) else str(word).encode()
                data += b"$%d\r\n%s\r\n" % (len(word), word)
        try:
            self.socket.sendall(data)
            return [self._answer() for _ in commands]
        except (OSError, ValueError) as e:
            raise ConnectionLost(str(e)) from None

    def _answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionLost("connection closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RuntimeError(f"redis: {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            data = self.file.read(int(rest) + 2)
            if len(data) != int(rest) + 2:
                raise ConnectionLost("connection closed")
            return data[:-2]
        if kind == b"*":
            return [self._answer() for _ in range(int(rest))]
        raise ConnectionLost(f"not an answer: {line!r}")

    def set_many(self, pairs):
        self.pipeline([("SET", key, value) for key, value in pairs])

    def get_many(self, keys):
        return self.pipeline([("GET", key) for key in keys])

    def alive(self):
        return self.command("PING") == "PONG"


class MemcachedClient:
    """The same for memcached's text protocol."""

    def __init__(self, connection):
        self.socket = connection
        self.file = connection.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def _line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionLost("connection closed")
        return line[:-2]

    def set_many(self, pairs):
        try:
            self.socket.sendall(b"".join(b"set %s 0 0 %d\r\n%s\r\n" % (k.encode(), len(v), v)
                                         for k, v in pairs))
            for _ in pairs:
                line = self._line()
                if line != b"STORED":
                    raise RuntimeError(f"memcached: {line.decode()}")
        except OSError as e:
            raise ConnectionLost(str(e)) from None

    def get_many(self, keys):
        found = {}
        try:
            self.socket.sendall(b"get " + " ".join(keys).encode() + b"\r\n")
            while (line := self._line()) != b"END":
                _, key, _, size = line.split()[:4]
                data = self.file.read(int(size) + 2)
                if len(data) != int(size) + 2:
                    raise ConnectionLost("connection closed")
                found[key.decode()] = data[:-2]
        except (OSError, ValueError) as e:
            raise ConnectionLost(str(e)) from None
        return [found.get(key) for key in keys]

    def alive(self):
        try:
            self.socket.sendall(b"version\r\n")
            return self._line().startswith(b"VERSION")
        except OSError as e:
            raise ConnectionLost(str(e)) from None


class Writer:
    """A thread that writes keys w:0 .. w:KEYS-1 at random over one connection, and reconnects when
    it is lost.
    """

    KEYS = 500

    def __init__(self, store, rate=2000, size=VALUE):
        self.store = store
        self.rate = rate
        self.size = size
        self.hosts = [store.host]
        self.acknowledged = {}      # key: newest generation that was answered
        self.maybe = {}             # key: generations sent since then without an answer
        self.done = 0               # writes answered
        self.reconnects = 0
        self.longest_gap = 0.0      # seconds between two answers
        self.problem = None
        self._generation = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        self.wait_progress()
        return self

    def __exit__(self, *_):
        self.stop()

    def allow(self, host):
        """Adds a host that the program may be found on."""
        if host not in self.hosts:
            self.hosts = [*self.hosts, host]

    def stop(self):
        self._end.set()
        self._thread.join(60)
        if self.problem:
            raise AssertionError(f"writer: {self.problem}")

    def wait_progress(self, seconds=30, writes=50):
        """Waits until that many more writes have been answered."""
        start = self.done

        def moved():
            if self.problem:
                raise AssertionError(f"writer: {self.problem}")
            return self.done >= start + writes

        wait_until(moved, seconds, "the writer goes on")

    def _connect(self):
        """Goes round the allowed hosts until one answers, newest first."""
        while not self._end.is_set():
            for host in reversed(self.hosts):
                client = None
                try:
                    client = self.store.client(host, timeout=1.0)
                    if client.alive():
                        return client
                except (OSError, ConnectionLost):
                    pass
                if client is not None:
                    client.close()
            time.sleep(0.005)
        return None

    def _run(self):
        client, last, start, due_base = None, time.monotonic(), time.monotonic(), 0
        try:
            while not self._end.is_set():
                if client is None:
                    client = self._connect()
                    if client is None:
                        return
                    start, due_base = time.monotonic(), self.done
                due = due_base + int((time.monotonic() - start) * self.rate)
                if self.done >= due:
                    time.sleep(0.001)
                    continue
                try:
                    self._write(client, min(16, due - self.done))
                except (ConnectionLost, OSError):
                    client.close()
                    client = None
                    self.reconnects += 1
                    continue
                now = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, now - last), now
        except Exception as e:
            self.problem = f"{type(e).__name__}: {e}"
        finally:
            if client is not None:
                client.close()

    def _write(self, client, count):
        batch = {}
        for _ in range(count):
            self._generation += 1
            key = f"w:{(self._generation * 7919) % self.KEYS}"
            batch[key] = self._generation
            self.maybe.setdefault(key, []).append(self._generation)
        client.set_many([(key, value_of(key, generation, self.size)) for key,
                         generation in batch.items()])
        for key, generation in batch.items():
            self.acknowledged[key] = generation
            self.maybe.pop(key, None)
        self.done += count

    def verify(self, client):
        """Reads every key of the writer's back. It must have stopped."""
        for i in range(0, self.KEYS, 100):
            keys = [f"w:{k}" for k in range(i, min(i + 100, self.KEYS))]
            for key, found in zip(keys, client.get_many(keys)):
                allowed = {value_of(key, g, self.size): g for g in self.maybe.get(key, [])}
                if key in self.acknowledged:
                    newest = self.acknowledged[key]
                    allowed[value_of(key, newest, self.size)] = newest
                else:
                    allowed[None] = None
                if found not in allowed:
                    what = "nothing" if found is None else found[:16].hex()
                    raise AssertionError(f"{key}: acknowledged generation "
                                         f"{self.acknowledged.get(key)}, maybe "
                                         f"{self.maybe.get(key)}, found {what}")


class Store(Program):
    """What redis and memcached have in common."""

    CLIENT = None
    PORT = None

    def __init__(self, host, mib=16, port=None, size=VALUE, args=()):
        super().__init__(host, type(self).__name__.lower(), mode=0o777)
        self.port = port or self.PORT
        self.size = size
        self.keys = mib * 1024 * 1024 // size
        self.pid = host.spawn_daemon([*self.argv(mib), *map(str, args)], stdout=self.dir / "log",
                                     stderr=self.dir / "log",
                                     cwd=self.dir)

    def argv(self, mib):
        raise NotImplementedError

    def __enter__(self):
        try:
            wait_until(self.answers, 30, f"{type(self).__name__} answers")
        except BaseException:
            self.stop()
            raise
        return self

    def client(self, host=None, timeout=60.0):
        return self.CLIENT((host or self.host).connect("127.0.0.1", self.port, timeout))

    def answers(self):
        if not self.host.alive(self.pid):
            raise RuntimeError(f"{type(self).__name__} ended: {self.log()[-2000:]}")
        try:
            client = self.client(timeout=2.0)
        except OSError:
            return False
        try:
            return client.alive()
        except (ConnectionLost, OSError):
            return False
        finally:
            client.close()

    def load(self):
        """Stores the fixed keys k:0 .. k:keys-1."""
        client = self.client()
        try:
            for i in range(0, self.keys, BATCH):
                keys = [f"k:{k}" for k in range(i, min(i + BATCH, self.keys))]
                client.set_many([(key, value_of(key, 0, self.size)) for key in keys])
        finally:
            client.close()

    def writer(self, rate=2000):
        return Writer(self, rate, self.size)

    def verify(self, writer=None):
        """Reads every key back, and those of a writer that has stopped; raises AssertionError
        naming the first wrong one.
        """
        client = self.client()
        try:
            for i in range(0, self.keys, BATCH):
                keys = [f"k:{k}" for k in range(i, min(i + BATCH, self.keys))]
                for key, found in zip(keys, client.get_many(keys)):
                    if found != value_of(key, 0, self.size):
                        what = "missing" if found is None else f"wrong: {found[:16].hex()}..."
                        raise AssertionError(f"{key}: {what}")
            if writer is not None:
                writer.verify(client)
        finally:
            client.close()


class Redis(Store):
    """redis-server without persistence. digest() compares while nobody writes."""

    CLIENT = RedisClient
    PORT = 6379

    def argv(self, mib):
        return ["/usr/bin/redis-server", "--port", str(self.port), "--bind", "0.0.0.0", "--save",
                "", "--appendonly", "no",
                "--daemonize", "no", "--protected-mode", "no", "--enable-debug-command", "yes",
                "--dir", str(self.dir)]

    def digest(self):
        client = self.client()
        try:
            return client.command("DEBUG", "DIGEST")
        finally:
            client.close()

    def size_check(self):
        """Number of keys in the database."""
        client = self.client()
        try:
            return client.command("DBSIZE")
        finally:
            client.close()

    def start_saving(self):
        """BGSAVE: gives redis a child that shares its memory copy-on-write. Slowed down so that it
        lasts.
        """
        client = self.client()
        try:
            client.command("CONFIG", "SET", "rdb-key-save-delay", "200")
            client.command("BGSAVE")
        finally:
            client.close()
        wait_until(lambda: len(self.host.tree(self.pid)) > 1, 10, "redis has a child that saves")

    def saved(self, seconds=60):
        """Waits until no save is running and returns the result of the last one ("ok")."""
        def info():
            client = self.client()
            try:
                client.command("CONFIG", "SET", "rdb-key-save-delay", "0")
                text = client.command("INFO", "persistence").decode()
                return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            finally:
                client.close()

        def ended():
            found = info()
            return found if found["rdb_bgsave_in_progress"] == "0" else None

        return wait_until(ended, seconds, "the save ends", step=0.1)["rdb_last_bgsave_status"]


class Memcached(Store):
    """memcached with four threads; its memory limit leaves room for everything, so nothing is
    evicted.
    """

    CLIENT = MemcachedClient
    PORT = 11211

    def argv(self, mib):
        return ["/usr/bin/memcached", "-u", "root", "-l", "0.0.0.0", "-p", str(self.port), "-U",
                "0", "-t", "4", "-m",
                str(mib * 2 + 64)]


class PyWorker(Victim):
    """A python3 program with threads, pipes and a child; it checks itself and answers like a
    victim.
    """

    def __init__(self, host, mib=8):
        script = pathlib.Path(__file__).resolve().parents[1] / "victims" / "pyworker.py"
        super().__init__(host, "pyworker", [mib], command=["/usr/bin/python3", "-B", script])
