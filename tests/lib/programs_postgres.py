# SPDX-License-Identifier: LGPL-2.1-or-later
"""PostgreSQL 15, as Debian has it: a server with its processes, in a data directory that both hosts see.

    with Postgres(a, load=True) as server:
        server.fill()                   # tables of pgbench, and one of commits
        server.begin()                  # a client in the tree commits rows over several connections
        ... move server.pid from a to b ...
        server.host = b
        server.wait_commits()           # some more
        server.end()
        server.check()                  # every commit that was acknowledged is there; pg_amcheck finds nothing

pid is what is to be moved: the server's first process, or with load=True a client that is its parent. Other clients connect
through the UNIX socket in /mnt, which each host has for itself, or to 127.0.0.1, and are outside of the tree. So is pgbench
on a third host, whose connections go along with the server:

    with Postgres(a) as server, Pgbench(server, client, lan.service) as bench:
        ... move server.pid and the address ...
        bench.wait_transactions()
        bench.end()                     # every transaction that it knows of is there, over the connections it began with
"""
import collections
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile

from hosts import wait_until
from program import Program

CLIENT = pathlib.Path(__file__).with_name("postgres_client.py")
BIN = pathlib.Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
PORT = 5432
SETTINGS = {
    "listen_addresses": "*", "port": PORT, "unix_socket_directories": "/mnt", "max_connections": 50, "shared_buffers": "32MB",
    "autovacuum_naptime": 1, "logging_collector": "off", "log_min_messages": "warning", "wal_level": "minimal",
    "max_wal_senders": 0, "checkpoint_timeout": 30,
}


def missing():
    """Why it cannot be tested here, or None."""
    return None if (BIN / "postgres").exists() else "needs Debian's postgresql-15"


class Postgres(Program):
    """A running server."""

    def __init__(self, host, settings=None, load=False):
        super().__init__(host, "postgres", mode=0o777)
        self.load = load
        self.commits = 0  # by commit()
        self.data = self.dir / "data"
        self.settings = {**SETTINGS, **(settings or {})}

    def __enter__(self):
        try:
            self._as_user([BIN / "initdb", "-D", self.data, "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"])
            with open(self.data / "pg_hba.conf", "a", encoding="ascii") as rules:
                rules.write("host all all all trust\n")
            with open(self.data / "postgresql.conf", "a", encoding="ascii") as conf:
                conf.writelines(f"{name} = '{value}'\n" for name, value in self.settings.items())
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self):
        user = pwd.getpwnam(USER)
        server = [BIN / "postgres", "-D", self.data]
        shutil.copy(CLIENT, self.dir)  # where the server's user may read it
        client = ["/usr/bin/python3", self.dir / CLIENT.name, f"/mnt/.s.PGSQL.{self.settings['port']}", self.dir]
        words = [*client, *server] if self.load else server
        self.pid = self.host.spawn_daemon(["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--",
                                           *words], stdout=self.dir / "log", stderr=self.dir / "log", cwd=self.dir)
        wait_until(self.answers, 60, "PostgreSQL answers")

    def _as_user(self, argv, **kw):
        user = pwd.getpwnam(USER)
        done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120, cwd=self.dir,
                              user=user.pw_uid, group=user.pw_gid, extra_groups=[], **kw)
        assert done.returncode == 0, f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    # Clients

    def program(self, name, *words):
        """The command line of a client program (psql, pgbench, pg_amcheck), to be run on a host."""
        return [BIN / name, "-h", "/mnt", "-p", str(self.settings["port"]), "-U", USER, *map(str, words)]

    def run(self, name, *words, check=True, host=None, seconds=120):
        return (host or self.host).run(self.program(name, *words), check=check, timeout=seconds)

    def sql(self, text, host=None):
        """What one statement, or several, gives: lines of fields between bars."""
        return self.run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", text,
                        host=host).stdout.strip()

    def answers(self):
        if not self.host.alive(self.pid):
            raise RuntimeError(f"PostgreSQL ended: {self.log()[-2000:]}")
        return self.run("psql", "-X", "-q", "-d", "postgres", "-c", "select 1", check=False).returncode == 0

    def fill(self, scale=1):
        self.run("pgbench", "-i", "-q", "-s", scale, "postgres")
        self.sql("create table commits (number bigint primary key)")

    def commit(self, count=1):
        """Rows that must be there from now on, by a client outside of the tree."""
        for _ in range(count):
            self.commits += 1
            self.sql(f"insert into commits values ({-self.commits})")

    # The client in the tree

    def begin(self):
        (self.dir / "go").touch()
        self.wait_commits()

    def acknowledged(self):
        """Commits of the client in the tree so far; it has lost a connection if this fails."""
        assert self.host.alive(self.pid), self.log()
        try:
            return int((self.dir / "acknowledged").read_text())
        except (OSError, ValueError):
            return 0

    def wait_commits(self, more=50):
        before = self.acknowledged()
        wait_until(lambda: self.acknowledged() >= before + more, 60, "the client in the tree goes on")

    def end(self):
        (self.dir / "stop").touch()
        wait_until((self.dir / "stopped").exists, 30, "the client in the tree ends")

    def check(self):
        """What was committed is there, and nothing else. The client in the tree has stopped."""
        wanted = f"{self.commits}|{self.acknowledged() if self.load else 0}"
        assert self.sql("select count(*) filter (where number < 0), count(*) filter (where number >= 0) from commits") == wanted
        done = self.run("pg_amcheck", "-d", "postgres", "--heapallindexed", "--install-missing", check=False)
        assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr

    def processes(self):
        """PIDs of all its processes."""
        return self.host.tree(self.pid)


# What pgbench does if not told otherwise, and the history says which of its clients it was.
TRANSACTION = """
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;
update pgbench_branches set bbalance = bbalance + :delta where bid = :bid;
insert into pgbench_history (tid, bid, aid, delta, mtime, filler) values (:tid, :bid, :aid, :delta, now(), :client_id);
commit;
"""


class Pgbench:
    """pgbench with several clients on another host, connected over TCP. It gives up what has lost its connection."""

    def __init__(self, server, client, address, clients=4):
        self.server, self.client = server, client
        self.address, self.clients = address, clients
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="p-pgbench-"))
        self.pid = None

    def __enter__(self):
        try:
            (self.dir / "script").write_text(TRANSACTION)
            self.pid = self.client.spawn_daemon(
                [BIN / "pgbench", "-h", self.address, "-p", str(PORT), "-U", USER, "-n", "-c", str(self.clients), "-T", "3600", "-l",
                 "--log-prefix", self.dir / "transactions", "-f", self.dir / "script", "postgres"],
                stdout=self.dir / "report", stderr=self.dir / "errors")
            self.wait_transactions()
            self.connections = self._connections()
            assert len(self.connections) == self.clients
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.pid is not None:
            self.client.kill(self.pid)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _connections(self):
        """As the server sees them: process, since when, address and port of the client."""
        return self.server.sql("select pid, backend_start, client_addr, client_port from pg_stat_activity"
                               " where application_name = 'pgbench' order by pid").splitlines()

    def _errors(self):
        return (self.dir / "errors").read_text()

    def committed(self):
        """How many transactions of each client the server has."""
        lines = self.server.sql("select filler, count(*) from pgbench_history group by filler").splitlines()
        return collections.Counter({int(client): int(count) for client, count in (line.split("|") for line in lines)})

    def wait_transactions(self, more=5, seconds=30):
        """Until each client has done some more."""
        before = self.committed()

        def are_there():
            assert self.client.alive(self.pid) and not self._errors(), self._errors()
            now = self.committed()
            return all(now[client] >= before[client] + more for client in range(self.clients))

        wait_until(are_there, seconds, "transactions of all clients of pgbench")

    def end(self):
        """Each client's transaction comes to its end, and then all must agree."""
        assert self._connections() == self.connections
        self.client.kill(self.pid, signal.SIGALRM)  # as when its time is over
        wait_until(lambda: not self.client.alive(self.pid), 30, "pgbench ends")
        report = (self.dir / "report").read_text()
        assert not self._errors(), self._errors()
        assert "number of failed transactions: 0 " in report, report
        reported = int(re.search(r"^number of transactions actually processed: ([0-9]+)$", report, re.M).group(1))
        noted = collections.Counter(int(line.split()[0]) for log in self.dir.glob("transactions.*")
                                    for line in log.read_text().splitlines())
        committed = self.committed()
        assert committed == noted and committed.total() == reported, f"{committed} in the server, {noted} noted\n{report}"
        sums = [self.server.sql(f"select sum({column}) from pgbench_{table}") for table, column in (
            ("history", "delta"), ("accounts", "abalance"), ("tellers", "tbalance"), ("branches", "bbalance"))]
        assert len(set(sums)) == 1, sums
