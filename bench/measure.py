# SPDX-License-Identifier: LGPL-2.1-or-later
"""The measurements. Each returns its samples, one dict per move; what was measured before a failure is in `partial`."""
import mmap
import os
import pathlib
import stat
import statistics
import subprocess
import sys
import tempfile
import time

import hosts
import pagestream
import peers
from checkpoints import Checkpoints
from hosts import wait_until
from victim import Victim

MADV_POPULATE_WRITE = 23
STREAM_PORT = 7799
SETTLE_SECONDS = 1.0
MOVE_SECONDS = 600


def missing_reason():
    """Why nothing can be measured, or None."""
    try:
        for name in ("migrate", "pageserver"):
            pagestream.program(name)
    except FileNotFoundError as e:
        return str(e)
    if not stream_program().exists():
        return f"{stream_program()} is not built"
    return None


def stream_program():
    return hosts.build_dir() / "bench" / "tls-stream"


def warm_memory():
    """Touches what is free, so that the virtual machine has it; leaves a tenth alone."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    step = 256 << 20
    areas = []
    start = time.monotonic()
    for _ in range(int(available * 0.9) // step):
        area = mmap.mmap(-1, step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(MADV_POPULATE_WRITE)
        areas.append(area)
    print(f"warmed {len(areas) * step >> 20} MiB in {time.monotonic() - start:.0f} s", flush=True)
    for area in areas:
        area.close()


class Bench(Checkpoints):
    """Two hosts with a page server each, for all measurements of one run."""

    def __init__(self, arguments):
        self.runs = arguments.runs
        self.mode = arguments.mode
        self.ciphers = arguments.ciphers
        self.warm = not arguments.no_warm and not arguments.quick
        self.a = hosts.Host("a", pid_base=1000)
        self.b = hosts.Host("b", pid_base=20000)
        self.net = hosts.Net(self.a, self.b)
        self.keys = None
        self.servers = {}
        self.partial = []

    def __enter__(self):
        if self.warm:
            warm_memory()
        try:
            self.a.start()
            self.b.start()
            self.net.start()
            self.keys = pagestream.Keys()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.keys:
            self.keys.remove()
        self.net.stop()
        self.a.stop()
        self.b.stop()

    # Moving

    def move(self, victim, server, other, **options):
        """Moves the victim to the host of `server`; returns what migrate says of it."""
        sent = pagestream.send(victim.host, server, victim.pid, seconds=MOVE_SECONDS, **options)
        if sent.status != pagestream.MOVED:
            raise AssertionError(f"not moved\n{sent.text()}\n--- the other page server\n{other.text()}")
        victim.host = server.host
        return sent.json

    def servers_started(self):
        """A page server on each host: context manager that gives both, keyed by the host that they move to."""
        return _Servers(self)

    def account(self, victim):
        """The victim's account since the one before."""
        victim.check(seconds=120)
        note = {key: int(value) for key, value in victim.note.items()}
        return {"longest_ms": note["longest_us"] / 1000, "stalls_ms": note["stalls_us"] / 1000,
                "stalls": note["stalls"], "writes": note["writes"], "elapsed_ms": note["elapsed_us"] / 1000,
                "writes_per_s": note["writes"] * 1e6 / note["elapsed_us"]}

    def idle(self, victim, seconds=SETTLE_SECONDS):
        """The account of a time in which nothing happens."""
        self.account(victim)
        time.sleep(seconds)
        return self.account(victim)

    def there_and_back(self, servers, run):
        """Servers of the host that run number `run` goes to and comes from."""
        return (servers[self.b], servers[self.a]) if run % 2 == 0 else (servers[self.a], servers[self.b])

    def downtime(self, mib, pages, threads):
        """Moves a ticking victim to and fro."""
        self.partial = samples = []
        with self.servers_started() as servers, Victim(self.a, "tick", (mib, pages, threads)) as victim:
            idle = self.idle(victim)
            print(f"  idle: longest gap {idle['longest_ms']:.1f} ms, stalls {idle['stalls_ms']:.1f} ms", flush=True)
            for run in range(self.runs):
                server, other = self.there_and_back(servers, run)
                self.account(victim)
                said = self.move(victim, server, other, mode=self.mode)
                sample = self.account(victim)
                sample.update({"idle": idle, "said": said})
                samples.append(sample)
                print(f"  {run + 1}: longest gap {sample['longest_ms']:.1f} ms, stalls {sample['stalls_ms']:.1f} ms, "
                      f"{_said(said)}", flush=True)
                time.sleep(SETTLE_SECONDS)
        self.partial = []
        return samples

    # Growth

    def scale(self, sizes, place):
        """Moves victims with more and more of something, that number being argument `place` of `tick`: by how much the
        longest gap grows for each, as a straight line through the n-th moves of all sizes. Without a place, it is the number
        of TCP connections."""
        self.partial = []
        gaps = {}
        for size in sizes:
            arguments = [1, 0, 0, 0, 0, 0]
            if place is not None:
                arguments[place] = size
            gaps[size] = []
            with self.servers_started() as servers, \
                 (peers.Nobody() if place is not None else peers.Peers(self.a, self.b, size)) as others, \
                 Victim(self.a, "tick", arguments + others.arguments()) as victim:
                for run in range(self.runs):
                    server, other = self.there_and_back(servers, run)
                    self.account(victim)
                    with others.goes_to(server.host) as hook:
                        said = self.move(victim, server, other, mode=self.mode, hook=hook, args=["--downtime-limit", "10000"])
                    gap = self.account(victim)["longest_ms"]
                    gaps[size].append(gap)
                    print(f"  {size}, {run + 1}: longest gap {gap:.1f} ms, {_said(said)}", flush=True)
        samples = []
        for run in range(self.runs):
            each, fit = _line([(size, gaps[size][run]) for size in sizes])
            samples.append({"each_us": each * 1000, "fit": fit, "gaps_ms": {size: gaps[size][run] for size in sizes}})
        medians = [(size, statistics.median(gaps[size])) for size in sizes]
        each, fit = _line(medians)
        print("  medians: " + ", ".join(f"{size}: {gap:.1f} ms" for size, gap in medians) +
              f"; {each * 1000:.1f} us each, fit of a straight line {fit:.3f}", flush=True)
        return samples

    # Throughput and memory

    def stream_rate(self, size):
        """Bytes a second of a plain TLS stream from host a to host b."""
        env = dict(os.environ)
        if self.ciphers:
            env["TLS_STREAM_CIPHERS"] = self.ciphers
        receiver = self.b.popen([stream_program(), "serve", self.b.address, STREAM_PORT], stdout=subprocess.PIPE,
                                text=True, env=env)
        try:
            if receiver.stdout.readline() != "listening\n":
                raise RuntimeError("tls-stream does not listen")
            done = self.a.run([stream_program(), "send", self.b.address, STREAM_PORT, size], env=env)
            receiver.wait(20)
        finally:
            if receiver.poll() is None:
                _kill_children(receiver)
                receiver.wait(20)
            receiver.stdout.close()
        rate, cipher = done.stdout.split()
        return float(rate), cipher

    def throughput(self, mib):
        """Moves a quiet victim and compares with plain TLS; reads the page server's peak memory."""
        self.partial = samples = []
        size = mib << 20
        for run in range(self.runs):
            with self.servers_started() as servers, Victim(self.a, "tick", (mib, 0, 0)) as victim:
                self.stream_rate(size // 4)
                before, cipher = self.stream_rate(size)
                start = time.monotonic()
                said = self.move(victim, servers[self.b], servers[self.a], mode="precopy")
                seconds = time.monotonic() - start
                after, _ = self.stream_rate(size)
                peak = _peak_mib(self.b, servers[self.b])
            sent = said.get("bytes_sent")
            took = said["total_ms"] / 1000 if said.get("total_ms") else seconds
            plain = max(before, after)
            samples.append({"plain_bytes_per_s": plain, "cipher": cipher, "seconds": took,
                            "bytes_per_s": sent / took if sent else None,
                            "share": sent / took / plain if sent else None, "server_mib": peak, "said": said})
            print(f"  {run + 1}: plain TLS {plain / 1e6:.0f} MB/s, move "
                  f"{'?' if not sent else format(sent / took / 1e6, '.0f')} MB/s, page server's peak {peak:.1f} MiB",
                  flush=True)
        self.partial = []
        return samples

    # The victim's own rate

    def rate(self, mib):
        """Writes done during the pre-copy, by a hook just before the freeze, against those of a quiet time."""
        self.partial = samples = []
        with self.servers_started() as servers, Victim(self.a, "tick", (mib, 12000, 0)) as victim, \
             tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            hook = pathlib.Path(scratch, "hook")
            for run in range(self.runs):
                server, other = self.there_and_back(servers, run)
                quiet = self.idle(victim, 2.0)
                self.account(victim)
                number = victim.number = victim.number + 1
                write_hook(hook, victim, number)
                said = self.move(victim, server, other, mode=self.mode, hook=hook)
                text = (victim.dir / "pre-freeze").read_text()
                note = {key: int(value) for key, value in
                        (word.split("=") for word in text.split() if "=" in word)}
                busy = note["writes"] * 1e6 / note["elapsed_us"]
                samples.append({"quiet_per_s": quiet["writes_per_s"], "busy_per_s": busy,
                                "busy_ms": note["elapsed_us"] / 1000, "share": busy / quiet["writes_per_s"],
                                "said": said})
                print(f"  {run + 1}: {quiet['writes_per_s']:.0f} writes/s before, {busy:.0f} in {note['elapsed_us'] / 1000:.0f}"
                      " ms of pre-copy", flush=True)
                (victim.dir / "pre-freeze").unlink()
        self.partial = []
        return samples


class _Servers:
    """Page servers on both hosts of a bench."""

    def __init__(self, bench):
        self.bench = bench
        self.servers = {}

    def __enter__(self):
        for host in (self.bench.a, self.bench.b):
            self.servers[host] = pagestream.PageServer(host, self.bench.keys)
            self.servers[host].__enter__()
        return self.servers

    def __exit__(self, *_):
        for server in self.servers.values():
            server.__exit__()


def _line(points):
    """Slope of the straight line that fits best, and how well it does (R squared)."""
    mean_x, mean_y = (statistics.fmean(values) for values in zip(*points))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    whole = sum((y - mean_y) ** 2 for _, y in points)
    return slope, 1 - rest / whole if whole else 1.0


def write_hook(path, victim, number):
    """A --hook that, before the freeze, asks the victim for its account and keeps the answer."""
    path.write_text(f"""#!{sys.executable}
import os, sys, time
if "pre-freeze" not in [*sys.argv[1:], *os.environ.values()]:
    sys.exit(0)
d = {str(victim.dir)!r}
with open(d + "/.check.new", "w") as new:
    new.write("{number}\\n")
os.rename(d + "/.check.new", d + "/check")
end = time.monotonic() + 10
while time.monotonic() < end:
    text = open(d + "/result").read()
    if text.startswith("{number} "):
        open(d + "/pre-freeze", "w").write(text)
        sys.exit(0)
    time.sleep(0.001)
sys.exit(1)
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _peak_mib(host, server):
    """VmHWM of the page server's process."""
    pid = wait_until(server.pid, 5, "PID of pageserver")
    for line in (host.proc(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


def _kill_children(process):
    """Ends what nsenter waits for, and so nsenter."""
    for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), 9)


def _said(said):
    names = ("downtime_ms", "total_ms", "rounds", "pages_sent", "pages_faulted", "fault_us_p99")
    return "migrate: " + ", ".join(f"{name} {said[name]}" for name in names if name in said)
