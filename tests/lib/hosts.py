# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts on one machine: each has its own network, PID, IPC and mount namespaces, and all share the file
system but /mnt, /dev/shm and /dev/mqueue.

    with Host("a", pid_base=1000) as a, Host("b", pid_base=20000) as b, Net(a, b) as net:
        pid = a.spawn_daemon(["sleep", "100"])
        net.limit("100mbit")
        net.cut("drop")

/mnt is a tmpfs of each host's own, for what two real hosts could not share: a FIFO's content, a
socket's name. So is /dev/shm, but for SHARED_MEMORY in there, which is the same directory everywhere.
The pseudo-terminals in /dev/pts are each host's own, too.

The end of a Host is the end of every process in it, and so of its namespaces and devices, also when
the test itself is killed: the host's init dies when the pipe is closed that the test holds.
"""
import contextlib
import ctypes
import os
import pathlib
import re
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED_MEMORY = pathlib.Path("/dev/shm/shared")  # as in host-init.c


def build_dir():
    """Where meson built the project: PAGESTREAM_BUILD, or build/ in the repository."""
    return pathlib.Path(os.environ.get("PAGESTREAM_BUILD") or ROOT / "build").resolve()


def victim_path(name):
    return build_dir() / "tests" / "victims" / name


def wait_until(condition, seconds, what, step=0.005):
    """Polls until condition() is true and returns its value; raises TimeoutError naming what after
    so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(step)


class Host:
    """One host. `init` is the outer PID of its PID 1; `address` is set by Net."""

    def __init__(self, name, pid_base=1000):
        self.name = name
        self.pid_base = pid_base
        self.init = None
        self.address = "127.0.0.1"
        self._maker = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self._maker = subprocess.Popen([str(victim_path("host-init")), str(self.pid_base)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self._maker.stdout.readline().split()
        if len(line) != 2 or line[0] != "ready":
            self._maker.wait(10)
            raise RuntimeError(f"host {self.name}: cannot be made (see stderr)")
        self.init = int(line[1])

    def stop(self):
        """Ends the host and all of its processes; does nothing the second time."""
        if self._maker is None:
            return
        self._maker.stdin.close()
        self._maker.wait(30)
        self._maker.stdout.close()
        self._maker = None

    # Running things inside

    def argv(self, argv):
        """The command line that runs argv inside this host."""
        return ["nsenter", "-t", str(self.init), "-m", "-n", "-p", "-i", "--wd=" + os.getcwd(), "--",
                *map(str, argv)]

    def popen(self, argv, **kw):
        """subprocess.Popen inside the host. The PID it gives is that of nsenter, which ends with
        the program.
        """
        return subprocess.Popen(self.argv(argv), **kw)

    def run(self, argv, **kw):
        """subprocess.run inside the host; captures text unless told otherwise, and checks the exit
        status.
        """
        kw.setdefault("check", True)
        kw.setdefault("timeout", 120)
        kw.setdefault("text", True)
        if "stdout" not in kw and "stderr" not in kw:
            kw.setdefault("capture_output", True)
        try:
            return subprocess.run(self.argv(argv), **kw)
        except subprocess.CalledProcessError as e:
            raise RuntimeError(f"host {self.name}: {argv}: status {e.returncode}: "
                               f"{e.stdout}{e.stderr}") from None

    def spawn_daemon(self, argv, stdin="/dev/null", stdout="/dev/null", stderr="/dev/null",
                     env=None, cwd="/"):
        """Starts a child of the host's init that leads its own session; returns its PID inside the
        host.

        stdin, stdout and stderr are paths; nothing else is open in it.
        """
        done = self.run([victim_path("host-spawn"), cwd, stdin, stdout, stderr, *argv], env=env)
        return int(done.stdout)

    def path(self, path):
        """Where the test finds a path of this host's."""
        return pathlib.Path(f"/proc/{self.init}/root{path}")

    @contextlib.contextmanager
    def network(self):
        """Puts the calling thread into the host's network, for the sockets made meanwhile."""
        with open("/proc/thread-self/ns/net", "rb") as own:
            with open(f"/proc/{self.init}/ns/net", "rb") as there:
                _setns(there.fileno())
            try:
                yield
            finally:
                _setns(own.fileno())

    def connect(self, address, port, timeout=2.0):
        """A TCP connection that begins on this host."""
        with self.network():
            connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def listen(self, address, backlog=4096):
        """A TCP socket that listens on this host, on a port that was free."""
        with self.network():
            return socket.create_server((address, 0), backlog=backlog)

    # Looking at processes, by their PID inside the host

    def pids(self):
        """All PIDs in the host, 1 and those that merely look at it left out."""
        ns = os.readlink(f"/proc/{self.init}/ns/pid")
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == ns:
                    found[_inner_pid(entry)] = int(entry)
            except (OSError, ValueError):
                pass
        found.pop(1, None)
        return found

    def outer_pid(self, pid):
        """The PID as seen outside, or None when there is no such process."""
        return self.pids().get(pid)

    def proc(self, pid):
        """Path of the process's directory in this test's own /proc; raises ProcessLookupError if it
        is gone.
        """
        outer = self.init if pid == 1 else self.outer_pid(pid)
        if outer is None:
            raise ProcessLookupError(f"host {self.name}: no process {pid}")
        return pathlib.Path(f"/proc/{outer}")

    def alive(self, pid):
        """Whether the process exists and is no zombie; its main thread may be one while others run."""
        fields = self._stat(pid)
        return fields is not None and (fields[0] not in "ZX" or int(fields[17]) > 1)

    def state(self, pid):
        """The state's letter from /proc, or None when there is no such process."""
        fields = self._stat(pid)
        return fields and fields[0]

    def _stat(self, pid):
        """Fields of /proc/PID/stat behind the name, or None."""
        try:
            stat = (self.proc(pid) / "stat").read_text()
        except (OSError, ProcessLookupError):
            return None
        return stat[stat.rindex(")") + 2:].split()

    def tree(self, pid):
        """PIDs of the process and all its descendants inside the host, parents first."""
        children = {}
        for inner, outer in self.pids().items():
            try:
                stat = pathlib.Path(f"/proc/{outer}/stat").read_text()
            except OSError:
                continue
            parent = int(stat[stat.rindex(")") + 2:].split()[1])
            children.setdefault(parent, []).append((inner, outer))
        result, todo = [], [(pid, self.outer_pid(pid))]
        while todo:
            inner, outer = todo.pop(0)
            if outer is not None:
                result.append(inner)
                todo += children.get(outer, [])
        return result

    def kill(self, pid, signal=9):
        """Sends a signal; does nothing when the process is gone."""
        outer = self.outer_pid(pid)
        if outer is not None:
            try:
                os.kill(outer, signal)
            except ProcessLookupError:
                pass


def _setns(fd):
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _inner_pid(outer):
    with open(f"/proc/{outer}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    raise ValueError(outer)


class Net:
    """A veth pair between two hosts, with addresses 10.77.0.1 and 10.77.0.2 and device name eth0 in
    both.
    """

    def __init__(self, host_a, host_b, subnet="10.77.0", device="eth0"):
        self.hosts = (host_a, host_b)
        self.subnet = subnet
        self.device = device
        self.cut_by = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        a, b = self.hosts
        # Made from inside host a's network namespace only, so that names need to be unique nowhere
        # else.
        _net(a, "ip", "link", "add", self.device, "type", "veth", "peer", "name", self.device,
             "netns", str(b.init))
        for number, host in enumerate(self.hosts, 1):
            host.address = f"{self.subnet}.{number}"
            _net(host, "ip", "address", "add", f"{host.address}/24", "dev", self.device)
            _net(host, "ip", "link", "set", self.device, "up")

    def stop(self):
        a, _ = self.hosts
        if a.init is not None and a._maker is not None:
            _net(a, "ip", "link", "delete", self.device, check=False)

    def limit(self, rate, burst="256kb", latency="50ms"):
        """Limits both directions by a token bucket; rate as tc(8) has it ("100mbit"), None for no
        limit.
        """
        for host in self.hosts:
            _net(host, "tc", "qdisc", "delete", "dev", self.device, "root", check=False)
            if rate is not None:
                _net(host, "tc", "qdisc", "add", "dev", self.device, "root", "tbf", "rate", rate,
                     "burst", burst,
                     "latency", latency)

    def cut(self, how="drop"):
        """Cuts the link: "drop" loses every packet in silence, "reset" answers each of TCP with a
        reset, "down" takes the devices down.
        """
        self.restore()
        if how == "down":
            for host in self.hosts:
                _net(host, "ip", "link", "set", self.device, "down")
        elif how == "drop":
            rules = "".join(f"add {rule}\n" for rule in (
                "table inet cut",
                "chain inet cut arriving { type filter hook input priority -300; }",
                "chain inet cut leaving { type filter hook output priority -300; }",
                f"rule inet cut arriving iifname {self.device} drop",
                f"rule inet cut leaving oifname {self.device} drop"))
            for host in self.hosts:
                _net(host, "nft", "-f", "-", text=rules)
        elif how == "reset":
            for host in self.hosts:
                _net(host, "nft", "-f", "-", text=(
                    "add table inet cut\n"
                    "add chain inet cut arriving { type filter hook input priority -300; }\n"
                    f"add rule inet cut arriving iifname {self.device} tcp flags & rst == 0 "
                    "reject with tcp reset\n"))
        else:
            raise ValueError(how)
        self.cut_by = how

    def restore(self):
        """Undoes cut(); does nothing when the link is not cut."""
        for host in self.hosts:
            if self.cut_by == "down":
                _net(host, "ip", "link", "set", self.device, "up")
            elif self.cut_by in ("drop", "reset"):
                _net(host, "nft", "delete", "table", "inet", "cut")
        self.cut_by = None


def _net(host, *argv, check=True, text=None):
    done = subprocess.run(["nsenter", "-t", str(host.init), "-n", "--", *argv], text=True,
                          input=text or "", capture_output=True, timeout=30)
    if check and done.returncode != 0:
        raise RuntimeError(f"host {host.name}: {' '.join(argv)}: {done.stderr.strip()}")
    return done


class Lan:
    """A bridge, on a host of its own, that joins hosts: clients, and those that a service moves between.

        with Host("client", 40000) as client, Lan(client, a, b) as lan:
            lan.give(a)                               # the service's addresses, v4 and v6, are host a's
            client.connect(lan.service, 80)
            lan.give(b)                               # and now b's

    Host number N has 10.78.0.N/24 and fd78::N/64 on the device lan0; `addresses` and `addresses6` have them by the host's
    name. The service has `service` (10.78.0.80) and `service6` (fd78::80). The link of Net is another one, so a limit or cut
    there leaves this one alone.
    """

    device = "lan0"
    service, service6 = "10.78.0.80", "fd78::80"

    def __init__(self, *hosts):
        self.hosts = hosts
        self.switch = Host("switch", 60000)
        self.addresses = {host.name: f"10.78.0.{number}" for number, host in enumerate(hosts, 1)}
        self.addresses6 = {host.name: f"fd78::{number}" for number, host in enumerate(hosts, 1)}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.switch.start()
        try:
            self._join()
        except BaseException:
            self.stop()
            raise

    def _join(self):
        _net(self.switch, "ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        _net(self.switch, "ip", "link", "set", "bridge", "up")
        for number, host in enumerate(self.hosts, 1):
            _net(self.switch, "ip", "link", "add", f"port{number}", "type", "veth", "peer", "name", self.device,
                 "netns", str(host.init))
            _net(self.switch, "ip", "link", "set", f"port{number}", "master", "bridge", "up")
            # Not even link-local addresses wait for a second to see whether somebody else has them.
            _net(host, "sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{self.device}/accept_dad")
            self.add(host, f"{self.addresses[host.name]}/24")
            self.add(host, f"{self.addresses6[host.name]}/64")
            _net(host, "ip", "link", "set", self.device, "up")

    def stop(self):
        """The switch's end takes its devices along, and their other ends on the hosts."""
        self.switch.stop()

    def add(self, host, address):
        """An address that is usable at once."""
        _net(host, "ip", "address", "add", address, "dev", self.device, *(["nodad"] if ":" in address else []))

    def remove(self, host, address):
        _net(host, "ip", "address", "delete", address, "dev", self.device)

    def has(self, host, address):
        """Whether the host has that address on its device."""
        return f" {address}/" in _net(host, "ip", "address", "show", "dev", self.device).stdout

    def give(self, host):
        """The service's addresses go to that host, and whoever knew them has forgotten where they were; without a host,
        nobody has them.
        """
        for address, prefix in ((self.service, "32"), (self.service6, "128")):
            for other in self.hosts:
                if other is not host and self.has(other, address):
                    self.remove(other, f"{address}/{prefix}")
            if host is not None and not self.has(host, address):
                self.add(host, f"{address}/{prefix}")
            for other in self.hosts:
                if other is not host:
                    _net(other, "ip", "neighbour", "flush", "dev", self.device, "to", address)

    def neighbour(self, host, address):
        """The hardware address that a host has noted for an address, or None."""
        for line in _net(host, "ip", "neighbour", "show", "dev", self.device, "to", address).stdout.splitlines():
            words = line.split()
            if "lladdr" in words:
                return words[words.index("lladdr") + 1]
        return None

    def hardware(self, host):
        """The hardware address of a host's device."""
        return re.search(r"link/ether (\S+)", _net(host, "ip", "link", "show", "dev", self.device).stdout).group(1)


def addresses_in_use(host):
    """Listening TCP sockets of the host, as "address:port", from its own /proc/net."""
    found = set()
    for name in ("tcp", "tcp6"):
        text = pathlib.Path(f"/proc/{host.init}/net/{name}").read_text()
        for line in text.splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = re.match(r"([0-9A-F]+):([0-9A-F]+)", fields[1]).groups()
                if len(address) == 8:
                    address = ".".join(str(b) for b in bytes.fromhex(address)[::-1])
                found.add(f"{address}:{int(port, 16)}")
    return found
