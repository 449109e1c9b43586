# SPDX-License-Identifier: LGPL-2.1-or-later
"""nginx and haproxy from Debian, and clients that notice everything but a pause.

    with Nginx(a, lan.service) as nginx, Load(client, [lan.service]) as load, Download(client, lan.service) as download:
        load.wait_answers()
        ... move nginx.pid from a to b, its address as well ...
        nginx.host = b
        load.wait_answers()
        load.end()
        download.end()              # its hash is right

A client never connects again: a connection that is lost is a failure of the test, with what the client saw.
"""
import hashlib
import os
import pathlib
import threading
import time

from hosts import wait_until
from program import Program

NGINX, HAPROXY = "/usr/sbin/nginx", "/usr/sbin/haproxy"
PORT = 8080
BIG = 100 << 20
WORKERS = 4

NGINX_CONF = """
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
worker_processes {workers};
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    send_timeout 600s;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen [::]:{port} ipv6only=off;
        root {dir}/files;
        location /echo {{ return 200 "$arg_n $pid"; }}
    }}
}}
"""

HAPROXY_CONF = """
global
    nbthread 2
    maxconn 1000
defaults
    mode http
    option http-keep-alive
    timeout connect 10s
    timeout client 600s
    timeout server 600s
frontend all
    bind :::{port} v4v6
    default_backend web
backend web
    http-reuse always
    source {own}
    server web {to}:{port}
"""


def missing():
    """Why these cannot be tested here, or None."""
    absent = [name for name in (NGINX, HAPROXY) if not os.access(name, os.X_OK)]
    return f"needs {', '.join(absent)} (Debian: nginx, haproxy)" if absent else None


class _Server(Program):
    LOGS = ["stderr", "error.log"]

    def __init__(self, host, name):
        super().__init__(host, name, mode=0o755)  # workers are another user

    def _spawn(self, argv, processes):
        self.pid = self.host.spawn_daemon(argv, stderr=self.dir / "stderr")
        try:
            wait_until(lambda: len(self.processes()) == processes and self.listens(), 20, argv[0])
        except TimeoutError as e:
            raise RuntimeError(f"{e}\n{self.log()}") from None
        return self

    def listens(self):
        return f":{PORT:04X} " in pathlib.Path(f"/proc/{self.host.init}/net/tcp6").read_text()


class Nginx(_Server):
    """With four workers, and a file of 100 MB at /big."""

    def __init__(self, host):
        super().__init__(host, "nginx")
        files = self.dir / "files"
        files.mkdir()
        self.digest = hashlib.sha256()
        with open(files / "big", "wb") as big:
            for number in range(BIG >> 20):
                block = hashlib.shake_128(b"%d" % number).digest(1 << 20)
                self.digest.update(block)
                big.write(block)

    def __enter__(self):
        conf = self.dir / "nginx.conf"
        conf.write_text(NGINX_CONF.format(dir=self.dir, port=PORT, workers=WORKERS))
        return self._spawn([NGINX, "-c", conf, "-e", self.dir / "error.log"], 1 + WORKERS)


class Haproxy(_Server):
    """A master and a worker with two threads, in front of the server at `to`, which sees it come from its address `own`."""

    def __init__(self, host, to, own):
        super().__init__(host, "haproxy")
        self.to, self.own = to, own

    def __enter__(self):
        conf = self.dir / "haproxy.conf"
        conf.write_text(HAPROXY_CONF.format(port=PORT, to=self.to, own=self.own))
        return self._spawn([HAPROXY, "-W", "-f", conf], 2)


class _Connection:
    """HTTP/1.1 over one connection, which is never replaced."""

    def __init__(self, client, address):
        self.socket = client.connect(address, PORT, timeout=60)
        self.host = f"[{address}]" if ":" in address else address
        self.buffer = b""

    def request(self, path):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())

    def _more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise OSError("the connection has been closed")
        self.buffer += data

    def head(self):
        """Length of the content that follows."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        if " 200 " not in lines[0]:
            raise OSError(lines[0])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if fields.get("connection", "").lower() == "close":
            raise OSError("the server wants to close the connection")
        return int(fields["content-length"])

    def content(self, size):
        while len(self.buffer) < size:
            self._more()
        content, self.buffer = self.buffer[:size], self.buffer[size:]
        return content

    def get(self, path):
        self.request(path)
        return self.content(self.head())


class _Client:
    """Threads that end with `stopping`; the first failure is kept."""

    def __init__(self):
        self.failure = None
        self.stopping = threading.Event()
        self.threads = []

    def _start(self, work, *arguments):
        def guarded():
            try:
                work(*arguments)
            except (OSError, AssertionError) as e:
                self.failure = self.failure or f"{type(e).__name__}: {e}"

        self.threads.append(threading.Thread(target=guarded, daemon=True))
        self.threads[-1].start()

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(60)

    def end(self):
        self.__exit__()
        assert not any(thread.is_alive() for thread in self.threads), "a client still waits for an answer"
        assert not self.failure, self.failure


class Load(_Client):
    """Connections that are kept alive, each with one request after the other."""

    def __init__(self, client, addresses, connections=8):
        super().__init__()
        self.connections = [_Connection(client, addresses[number % len(addresses)]) for number in range(connections)]
        self.answers = [0] * connections
        self.longest = 0.0  # s that an answer has taken

    def __enter__(self):
        for number in range(len(self.connections)):
            self._start(self._ask, number)
        return self

    def _ask(self, number):
        connection = self.connections[number]
        while not self.stopping.is_set():
            begin = time.monotonic()
            word = connection.get(f"/echo?n={number}.{self.answers[number]}").decode().split()[0]
            assert word == f"{number}.{self.answers[number]}", f"{word} is the answer to another question"
            self.longest = max(self.longest, time.monotonic() - begin)
            self.answers[number] += 1
            time.sleep(0.002)

    def wait_answers(self, more=5, seconds=30):
        """Until each connection has had some more."""
        before = list(self.answers)
        wait_until(lambda: self.failure or all(now >= then + more for now, then in zip(self.answers, before)), seconds,
                   "answers on all connections")
        assert not self.failure, self.failure


class Download(_Client):
    """Of /big, slowly: it does not end before end() is called."""

    PACE = BIG // 60  # bytes a second; less than a test takes

    def __init__(self, client, address, digest):
        super().__init__()
        self.digest = digest
        self.connection = _Connection(client, address)
        self.received = 0

    def __enter__(self):
        self._start(self._read)
        return self

    def _read(self):
        digest = hashlib.sha256()
        self.connection.request("/big")
        assert self.connection.head() == BIG
        while self.received < BIG:
            block = self.connection.content(min(1 << 16, BIG - self.received))
            digest.update(block)
            self.received += len(block)
            self.stopping.wait(len(block) / self.PACE)
        assert digest.hexdigest() == self.digest.hexdigest(), "other bytes than those of the file"

    def wait_bytes(self, more=100000, seconds=30):
        before = self.received
        wait_until(lambda: self.failure or self.received >= before + more, seconds, "more of the download")
        assert not self.failure, self.failure
        assert self.received < BIG, "the download was over too early"
