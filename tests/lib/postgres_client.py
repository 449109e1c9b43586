# SPDX-License-Identifier: LGPL-2.1-or-later
"""postgres_client.py SOCKET DIR SERVER...: starts a PostgreSQL server and is a client of it, over several connections.

Waits for DIR/go; then each connection inserts rows into the table commits, one a transaction, and DIR/acknowledged has how many
are known to be committed. At DIR/stop it writes DIR/stopped, and stays. A lost connection or an error of the server ends it.
"""
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time

CONNECTIONS = 4


class Connection:
    """As much of the protocol (version 3) as simple queries need."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")
        words = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!ii", 8 + len(words), 196608) + words)
        self.finish()

    def begin(self, query):
        data = query.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", 4 + len(data)) + data)

    def finish(self):
        """Reads up to ReadyForQuery."""
        kind = b""
        while kind != b"Z":
            head = self.file.read(5)
            if len(head) < 5:
                raise SystemExit("a connection was lost")
            kind, size = head[:1], struct.unpack("!i", head[1:])[0]
            body = self.file.read(size - 4)
            if kind == b"E":
                raise SystemExit(f"the server says: {body!r}")


def main():
    path, directory, server = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    child = subprocess.Popen(server)
    while not (directory / "go").exists():
        time.sleep(0.01)
    connections = [Connection(path) for _ in range(CONNECTIONS)]
    done = 0
    while not (directory / "stop").exists():
        for number, connection in enumerate(connections):
            connection.begin(f"insert into commits values ({done + number})")
        for connection in connections:
            connection.finish()
        done += CONNECTIONS
        (directory / "acknowledged.new").write_text(str(done))
        os.rename(directory / "acknowledged.new", directory / "acknowledged")
    (directory / "stopped").touch()
    child.wait()


main()
