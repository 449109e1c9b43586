# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets that stand in the way, and the options that let them go along."""
import pathlib
import subprocess
import tempfile

import pytest
from checkpoint import Place, dump, restore, run, text, wait_gone
from hosts import wait_until
from pagestream import PageServer, send
from refusal import Unharmed

# A program that sets sockets up, says that it is ready, and answers the lines of a file.
BEGIN = """
import fcntl, os, pathlib, socket, sys, time
place = pathlib.Path(sys.argv[1])
"""
END = """
(place / "new").write_text("")
(place / "new").rename(place / "ready")
while True:
    question = place / "question"
    if question.exists():
        try:
            answer = repr(eval(question.read_text()))
        except Exception as error:
            answer = repr(error)
        question.unlink()
        (place / "new").write_text(answer)
        (place / "new").rename(place / "answer")
    time.sleep(0.002)
"""


class Program:
    """Python code on a host; ask() evaluates an expression in it."""

    def __init__(self, host, code):
        self.host, self.place = host, pathlib.Path(tempfile.mkdtemp(prefix="program-"))
        self.pid = host.spawn_daemon(["/usr/bin/python3", "-c", BEGIN + code + END, str(self.place)],
                                     stderr=str(self.place / "errors"))
        wait_until((self.place / "ready").exists, 20, "the program")

    def ask(self, expression):
        (self.place / "next").write_text(expression)
        (self.place / "next").rename(self.place / "question")
        wait_until((self.place / "answer").exists, 20, f"an answer to {expression}")
        answer = (self.place / "answer").read_text()
        (self.place / "answer").unlink()
        return answer

    def end(self):
        for pid in self.host.tree(self.pid):
            self.host.kill(pid)
        subprocess.run(["rm", "-rf", str(self.place)], check=True)


@pytest.fixture
def start():
    programs = []

    def begin(host, code):
        programs.append(Program(host, code))
        return programs[-1]

    yield begin
    for one in programs:
        one.end()


REFUSED = {
    "waits-with-data": ("""
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0sockets-test"); listener.listen(5)
client = socket.socket(socket.AF_UNIX); client.connect("\\0sockets-test"); client.send(b"early")
""", ["has data that nobody can read", "try again when it has been accepted"], "listener.accept()[0].recv(9)", "b'early'"),
    "waits-closed": ("""
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0sockets-test"); listener.listen(5)
client = socket.socket(socket.AF_UNIX); client.connect("\\0sockets-test"); client.close()
""", ["whose other end is closed"], "listener.accept()[0].recv(9)", "b''"),
    "locked-in-flight": ("""
one, other = socket.socketpair()
fd = os.open(place / "locked", os.O_RDWR | os.O_CREAT); fcntl.flock(fd, fcntl.LOCK_EX)
socket.send_fds(one, [b"x"], [fd]); os.close(fd)
""", ["a descriptor on its way through a UNIX socket", "a file with a lock"], "len(socket.recv_fds(other, 9, 9)[1])", "1"),
    "netlink": ("""
import struct
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); link.bind((0, 0))
link.send(struct.pack("=IHHIIBBHiII", 32, 18, 1, 1, 0, 0, 0, 0, 1, 0, 0))  # RTM_GETLINK of lo
""", ["messages of the kernel wait in it", "try again when the program has read them"], "len(link.recv(65536)) > 32", "True"),
    "corked": ("""
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); to.bind(("127.0.0.1", 0)); to.settimeout(5)
by = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); by.connect(to.getsockname())
by.send(b"one", socket.MSG_MORE)
""", ["a datagram is being put together", "try again when it has been sent"], "by.send(b'two'), to.recv(9)", "(3, b'onetwo')"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_at_the_freeze(two_hosts, page_server, start, kind):
    """What only shows when the tree stands still: named, and thawed as it was."""
    a, b, _ = two_hosts
    code, words, question, answer = REFUSED[kind]
    program = start(a, code)
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, program.pid, state_dir=watch.state), *words)
    assert program.ask(question) == answer


# Family, type, protocol, and what is said of such a socket.
FAMILIES = {
    "vsock": (40, 1, 0, "connects a virtual machine and its host"), "xdp": (44, 3, 0, "queue of a network card"),
    "alg": (38, 5, 0, "its key cannot be read"), "sctp": (2, 1, 132, "SCTP"), "mptcp": (10, 1, 262, "Multipath TCP"),
    "dccp": (2, 6, 33, "DCCP"), "smc": (43, 1, 0, "SMC"), "bluetooth": (31, 3, 1, "radio"), "can": (29, 3, 1, "bus"),
    "key": (15, 3, 2, "IPsec"), "tipc": (30, 1, 0, "TIPC"), "rds": (21, 5, 0, "RDS"), "pppox": (24, 1, 0, "tunnel"),
}


def test_refused_at_once(two_hosts, page_server, start):
    """Families that stay where they are, and what of packet and netlink sockets does: one list names all."""
    a, b, _ = two_hosts
    program = start(a, f"families = {dict((name, facts[:3]) for name, facts in FAMILIES.items())}" + """
have, lack = {}, {}
for name, facts in families.items():
    try:
        have[name] = socket.socket(*facts)
    except OSError as error:
        lack[name] = error.strerror
import struct
ring = socket.socket(17, socket.SOCK_RAW, 0)
ring.setsockopt(263, 5, struct.pack("IIII", 4096, 1, 2048, 2))      # PACKET_RX_RING
spread = socket.socket(17, socket.SOCK_RAW, socket.htons(0x800)); spread.bind(("lo", 0x800))
spread.setsockopt(263, 18, struct.pack("I", 77 | 6 << 16))          # PACKET_FANOUT by a classic program
generic = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16); generic.bind((0, 1))
""")
    lack = program.ask("lack")
    print(f"this kernel lacks {lack}")
    words = [facts[3] for name, facts in FAMILIES.items() if repr(name) not in lack]
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, program.pid, state_dir=watch.state), *words, "ring that it shares with the kernel",
                      "a BPF program distributes packets", "groups of generic netlink have other numbers")


def test_extended_filter(two_hosts, page_server, start):
    a, b, _ = two_hosts
    program = start(a, """
import ctypes, struct
code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, -1, 0x95, 0, 0, 0), 16)
licence = ctypes.create_string_buffer(b"GPL")
load = ctypes.create_string_buffer(struct.pack("=IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence)), 128)
bpf = ctypes.CDLL(None).syscall(321, 5, load, 128)
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.setsockopt(socket.SOL_SOCKET, 50, bpf); os.close(bpf)
""")
    with Unharmed(a, b, None, page_server) as watch:
        watch.refused(send(a, page_server, program.pid, state_dir=watch.state), "an eBPF program filters its packets")


def test_ping(two_hosts, keys, start):
    """A socket for ping goes to a host where other groups may have one."""
    a, b, _ = two_hosts
    for host, groups in ((a, "0 0"), (b, "100 200")):
        host.run(["/bin/sh", "-c", f"echo {groups} > /proc/sys/net/ipv4/ping_group_range"])
    program = start(a, """
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); ping.settimeout(5)
ping.bind(("127.0.0.1", 77)); ping.connect(("127.0.0.1", 0))
""")
    question = "ping.send(bytes.fromhex('0800f7ff00000000') + b'echo'), ping.recv(99)[8:], ping.getsockname()[1]"
    assert program.ask(question) == "(12, b'echo', 77)"
    with PageServer(b, keys) as page_server:
        result = send(a, page_server, program.pid)
        assert result.status == 0, result.text()
        program.host = b
        assert program.ask(question) == "(12, b'echo', 77)"


OUTSIDE = """
stream = socket.socket(socket.AF_UNIX); stream.connect(str(place / "stream"))
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.connect("\\0sockets-test-log")
"""
SERVER = """
listener = socket.socket(socket.AF_UNIX); listener.bind(PATH); listener.listen(5)
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind("\\0sockets-test-log"); log.settimeout(5)
"""


def start_outside(host, start, name):
    """A program that is connected to a server which is not of its tree."""
    directory = tempfile.mkdtemp(prefix=name)
    server = start(host, SERVER.replace("PATH", repr(f"{directory}/stream")))
    code = OUTSIDE.replace('str(place / "stream")', repr(f"{directory}/stream"))
    program = start(host, code)
    server.ask("globals().update(accepted=listener.accept()[0])")
    assert server.ask("accepted.send(b'last words')") == "10"
    return server, program, directory


def test_outside(two_hosts, keys, start):
    a, b, _ = two_hosts
    server, program, directory = start_outside(a, start, "outside-")
    with PageServer(b, keys) as page_server:
        with Unharmed(a, b, None, page_server) as watch:
            watch.refused(send(a, page_server, program.pid, state_dir=watch.state), "held by a process outside of the tree",
                          "use --ext-unix-sk")
        logger = start(b, SERVER.replace("PATH", repr(f"{directory}/other")))
        result = send(a, page_server, program.pid, args=["--ext-unix-sk"])
        assert result.status == 0, result.text()
        program.host = b
        assert program.ask("stream.recv(20), stream.recv(20)") == "(b'last words', b'')"
        assert program.ask("stream.send(b'x')").startswith("BrokenPipeError")
        assert program.ask("log.send(b'from there')") == "10"
        assert logger.ask("log.recv(20)") == "b'from there'"
    assert server.ask("accepted.recv(9)").startswith("ConnectionResetError")  # with words that nobody read
    subprocess.run(["rm", "-rf", directory], check=True)


def test_outside_checkpoint(host, start):
    server, program, directory = start_outside(host, start, "outside-")
    with Place() as place:
        refused = run(host, place, "dump", "-t", program.pid, "-D", place.make("refused"), "-l")
        assert refused.returncode == 1 and "use --ext-unix-sk" in refused.stderr, text(refused)
        made = place.make("made")
        dump(host, place, program.pid, made, "--ext-unix-sk")
        wait_gone(host, [program.pid])
        refused = run(host, place, "restore", "-D", made, "-d")
        assert refused.returncode != 0 and "--ext-unix-sk is not given" in refused.stderr, text(refused)
        restore(host, place, made, "--ext-unix-sk")
        assert program.ask("stream.recv(20), stream.recv(20)") == "(b'last words', b'')"
        assert program.ask("log.send(b'from there')") == "10"
        assert server.ask("log.recv(20)") == "b'from there'"
    subprocess.run(["rm", "-rf", directory], check=True)
