# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sqlite3 shell, to be moved in the middle of a transaction."""
import os
import sqlite3

from hosts import wait_until
from program import Program


class Sqlite(Program):
    """The sqlite3 shell in the middle of a transaction. It reads from a FIFO that it holds open
    itself, read-write, in the host's own /mnt; prepare() makes the same FIFO on the host that it is
    to move to. The database is shared by both.
    """

    def __init__(self, host, rows=20000):
        super().__init__(host, "sqlite")
        self.rows = rows
        self.marks = 0
        self.database = self.dir / "data.db"
        self.fifo = f"/mnt/{self.dir.name}"
        os.mkfifo(host.path(self.fifo))
        self.pid = host.spawn_daemon(["/usr/bin/sqlite3", "-batch", "-bail", self.database],
                                     stdin=self.fifo,
                                     stdout=self.dir / "log", stderr=self.dir / "log", cwd=self.dir)

    def __enter__(self):
        try:
            self.execute("PRAGMA journal_mode=delete;"
                         "CREATE TABLE t(n INTEGER PRIMARY KEY, body BLOB, sum INTEGER);"
                         "INSERT INTO t VALUES(0, x'00', 0);")
        except BaseException:
            self.stop()
            raise
        return self

    def prepare(self, host):
        """As a user would before the move."""
        if not host.path(self.fifo).exists():
            os.mkfifo(host.path(self.fifo))

    def execute(self, sql, seconds=60):
        """Has the shell run the statements, and waits until it has."""
        self.marks += 1
        mark = self.dir / f"mark-{self.marks}"
        text = f"{sql}\nSELECT writefile('{mark}', 'x') > 9;\n".encode()
        pipe = os.open(self.host.path(self.fifo), os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, text)
        finally:
            os.close(pipe)

        def done():
            if not self.host.alive(self.pid):
                raise AssertionError(f"sqlite3 ended: {self.log()[-2000:]}")
            return mark.exists()

        wait_until(done, seconds, f"sqlite3 runs {sql[:60]}")

    def begin(self):
        """Begins a transaction and writes all rows but does not commit."""
        self.execute("BEGIN IMMEDIATE; WITH RECURSIVE c(n) AS "
                     f"(SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {self.rows}) "
                     "INSERT INTO t SELECT n, randomblob(200), n * n % 9973 FROM c;")

    def commit(self):
        """Adds a last row to the transaction and commits."""
        self.execute(f"INSERT INTO t VALUES({self.rows + 1}, x'ff', 77); COMMIT;")

    def verify(self, committed=True):
        """Opens the database anew: integrity, and all rows or none of the transaction."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            found = connection.execute("PRAGMA integrity_check").fetchall()
            assert found == [("ok",)], f"integrity_check: {found[:5]}"
            count = connection.execute("SELECT count(*) FROM t").fetchone()[0]
            wanted = self.rows + 2 if committed else 1
            assert count == wanted, f"{count} rows, not {wanted}"
            if committed:
                bad = connection.execute("SELECT count(*) FROM t WHERE n BETWEEN 1 AND ? AND "
                                         "(sum <> n * n % 9973 OR length(body) <> 200)",
                                         (self.rows,)).fetchone()[0]
                assert bad == 0, f"{bad} rows are wrong"
        finally:
            connection.close()
