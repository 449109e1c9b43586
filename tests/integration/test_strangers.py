# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may talk to whom: certificates, names, and bytes on the port that no migrate sends."""
import contextlib
import pathlib
import re
import shutil
import socket
import ssl
import struct
import subprocess

import pytest
from hosts import wait_until
from pagestream import Keys, PageServer, send, send_start
from refusal import Unharmed


def openssl(*argv, cwd):
    subprocess.run(["openssl", *map(str, argv)], cwd=cwd, check=True, capture_output=True, timeout=60)


class Mixed:
    """A directory of keys to be spoiled: a copy of another one."""

    def __init__(self, keys, path):
        self.dir = path / "mixed"
        shutil.copytree(keys.dir, self.dir)

    def take(self, name, source):
        shutil.copy2(source, self.dir / name)

    def sign(self, pair, usage, days, names="DNS:stranger"):
        """A new certificate of the same CA for the same key."""
        (self.dir / "ext").write_text(f"extendedKeyUsage={usage}\nsubjectAltName={names}\n")
        openssl("x509", "-in", f"{pair}.pem", "-x509toreq", "-signkey", f"{pair}-key.pem", "-out", "csr", cwd=self.dir)
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-days", days, "-extfile", "ext",
                "-out", f"{pair}.pem", cwd=self.dir)


@pytest.fixture
def mixed(keys, tmp_path):
    return Mixed(keys, tmp_path)


@pytest.fixture
def stranger():
    """Keys of another authority."""
    made = Keys()
    yield made
    made.remove()


@contextlib.contextmanager
def tls(host, server, certificate, key, ca=None):
    """A TLS connection that is not made by migrate: no name is checked, anything may be written."""
    address, port = server.to.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key)
    with host.connect(address, int(port), timeout=20) as plain, context.wrap_socket(plain) as connection:
        yield connection


def client_of(keys):
    return keys.dir / "client.pem", keys.dir / "client-key.pem"


def ends(connection):
    """What comes until the other side closes; "" for an alert or a reset."""
    got = b""
    try:
        while piece := connection.recv(65536):
            got += piece
    except TimeoutError:
        raise
    except OSError:
        pass
    return got


# Certificates: of migrate, against the page server


def test_unknown_client(two_hosts, page_server, start_victim, stranger, mixed):
    """Both are of the other CA but for the one that we check the server with: the server refuses us."""
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    mixed.take("client.pem", stranger.dir / "client.pem")
    mixed.take("client-key.pem", stranger.dir / "client-key.pem")
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, keys=mixed, state_dir=watch.state), page_server.to,
                      "refuses our certificate", "CA")
    wait_until(lambda: "it is not signed by the CA in ca.pem" in page_server.text(), 10, "a reason in the server's log")


def test_unknown_server(two_hosts, page_server, start_victim, stranger):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, keys=stranger, state_dir=watch.state),
                      f"the certificate of {page_server.to} is refused", "not signed by the CA", "migrate keys")


def test_wrong_host_name(two_hosts, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    elsewhere = Keys(names=["elsewhere.test", "10.9.9.9"])
    try:
        with PageServer(b, elsewhere) as server, Unharmed(a, b, victim) as watch:
            watch.refused(send(a, server, victim.pid, state_dir=watch.state), "elsewhere.test, 10.9.9.9",
                          "not for 10.77.0.2", "migrate keys --name")
    finally:
        elsewhere.remove()


@pytest.mark.parametrize("usage, word", [("clientAuth", "it is not made for a server"), ("serverAuth", None)])
def test_client_certificate_as_a_server(two_hosts, page_server, start_victim, keys, usage, word):
    """Whoever has a client's certificate cannot pretend to be the target. Played by openssl s_server."""
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    pair = "client" if usage == "clientAuth" else "server"
    with Unharmed(a, b, victim, page_server) as watch:
        fake = b.popen(["openssl", "s_server", "-accept", "10.77.0.2:7799", "-cert", keys.dir / f"{pair}.pem", "-key",
                        keys.dir / f"{pair}-key.pem", "-tls1_3", "-quiet"], stdin=subprocess.PIPE,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _accepts(a, "10.77.0.2", 7799), 10, "openssl s_server")
            running = send_start(a, page_server, victim.pid, to="10.77.0.2:7799", state_dir=watch.state)
            if word is None:
                # A proper server, but one that is no page server.
                fake.stdin.write(b"220 mail.example ESMTP\r\n\r\n")
                fake.stdin.flush()
            result = running.wait()
            watch.refused(result, "10.77.0.2:7799", word or "a frame of type")
        finally:
            for pid in [pid for pid in b.pids() if (b.proc(pid) / "comm").read_text().strip() == "openssl"]:
                b.kill(pid)
            fake.stdin.close()
            fake.wait(20)


def test_server_certificate_as_a_client(two_hosts, page_server, keys):
    """A page server's own key does not let its holder send to others."""
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server):
        with tls(a, page_server, keys.dir / "server.pem", keys.dir / "server-key.pem") as connection:
            assert ends(connection) == b""
        wait_until(lambda: "it is not made for a client" in page_server.text(), 10, "a reason in the server's log")


def test_no_certificate(two_hosts, page_server):
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server):
        with tls(a, page_server, None, None) as connection:
            assert ends(connection) == b""
        wait_until(lambda: "showed no certificate" in page_server.text(), 10, "a reason in the server's log")


def test_expired_client(two_hosts, page_server, start_victim, mixed):
    """migrate says so by itself; a client that does not care is refused by the server."""
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    mixed.sign("client", "clientAuth", -1)
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, keys=mixed, state_dir=watch.state), "client.pem", "expired")
        with tls(a, page_server, *client_of(mixed)) as connection:
            assert ends(connection) == b""
        wait_until(lambda: "it expired on" in page_server.text(), 10, "a reason in the server's log")


def test_expired_server(two_hosts, mixed):
    _, b, _ = two_hosts
    mixed.sign("server", "serverAuth", -1, "IP:10.77.0.2")
    refused_start(b, mixed, "server.pem", "expired")


def refused_start(host, keys, *words):
    with pytest.raises(RuntimeError) as failure:
        PageServer(host, keys).start()
    text = str(failure.value)
    assert "status 1" in text and "listening" not in text, text
    for word in words:
        assert word in text, text


# Files in --tls-dir


SIDES = {"client": ("client.pem", "client-key.pem"), "server": ("server.pem", "server-key.pem")}


def spoil_missing(keys, name):
    (keys.dir / name).unlink()


def spoil_unreadable(keys, name):
    (keys.dir / name).write_text("no PEM here\n")


def spoil_mismatch(keys, name):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name, cwd=keys.dir)
    (keys.dir / name).chmod(0o600)


def spoil_mode(keys, name):
    (keys.dir / name).chmod(0o644)


def spoil_passphrase(keys, name):
    openssl("ec", "-in", name, "-out", "locked", "-aes128", "-passout", "pass:secret", cwd=keys.dir)
    shutil.move(keys.dir / "locked", keys.dir / name)
    (keys.dir / name).chmod(0o600)


def spoil_directory(keys, name):
    (keys.dir / name).unlink()
    (keys.dir / name).mkdir()


SPOILT = [("ca", spoil_missing, "does not exist"), ("ca", spoil_unreadable, "holds no certificate in PEM form"),
          ("cert", spoil_missing, "does not exist"), ("cert", spoil_unreadable, "certificate"),
          ("cert", spoil_directory, "is not a PEM file"),
          ("key", spoil_missing, "does not exist"), ("key", spoil_unreadable, "holds no private key"),
          ("key", spoil_mismatch, "does not belong to the certificate beside it"),
          ("key", spoil_mode, "may be read by others"), ("key", spoil_passphrase, "without pass phrase")]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what, spoil, word", SPOILT, ids=[f"{what}-{spoil.__name__[6:]}" for what, spoil, _ in SPOILT])
def test_files(two_hosts, page_server, start_victim, mixed, side, what, spoil, word):
    a, b, _ = two_hosts
    name = {"ca": "ca.pem", "cert": SIDES[side][0], "key": SIDES[side][1]}[what]
    spoil(mixed, name)
    if side == "server":
        refused_start(a, mixed, f"{mixed.dir}/{name}", word)
        return
    victim = start_victim(a, "eventfd")
    with Unharmed(a, b, victim) as watch:
        watch.refused(send(a, page_server, victim.pid, keys=mixed, state_dir=watch.state), f"{mixed.dir}/{name}", word)


def test_no_directory(two_hosts, page_server, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")

    class Nowhere:
        dir = tmp_path / "nowhere"

    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, keys=Nowhere, state_dir=watch.state), str(Nowhere.dir),
                      "does not exist", "migrate keys")
    refused_start(b, Nowhere, str(Nowhere.dir), "does not exist")


# Names


def test_client_that_is_not_allowed(two_hosts, keys, start_victim, mixed):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    with PageServer(b, keys, args=["--allow", "another", "--allow", "stranger"]) as server:
        with Unharmed(a, b, victim) as watch:
            watch.refused(send(a, server, victim.pid, state_dir=watch.state), f"{server.to} says:",
                          "may not use this page server", "--allow")
        wait_until(lambda: "may not use this page server" in server.text(), 10, "a reason in the server's log")
        mixed.sign("client", "clientAuth", 1)  # for "stranger"
        result = send(a, server, victim.pid, keys=mixed)
        assert result.status == 0, result.text()
        victim.check(b)


# The way there


def test_nobody_listens(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, to="10.77.0.2:1", state_dir=watch.state), "10.77.0.2:1",
                      "refused")


def test_name_without_an_address(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    with Unharmed(a, b, victim, page_server) as watch:
        watch.refused(send(a, page_server, victim.pid, to="nowhere.invalid:7711", state_dir=watch.state),
                      "nowhere.invalid")


def test_server_of_plain_text(two_hosts, page_server, start_victim):
    a, b, _ = two_hosts
    victim = start_victim(a, "eventfd")
    with b.network():
        listener = socket.create_server(("10.77.0.2", 7798))
    with listener, Unharmed(a, b, victim, page_server) as watch:
        running = send_start(a, page_server, victim.pid, to="10.77.0.2:7798", state_dir=watch.state)
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail.example ESMTP\r\n")
            watch.refused(running.wait(), "10.77.0.2:7798", "does not speak TLS")


def test_port_in_use(two_hosts, keys, page_server):
    _, b, _ = two_hosts
    second = PageServer(b, keys, listen=page_server.to)
    with pytest.raises(RuntimeError) as failure:
        second.start()
    assert page_server.to in str(failure.value) and "in use" in str(failure.value)
    shutil.rmtree(second.state_dir)


# Bytes


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03", b"\0" * 4000, b""],
                         ids=["http", "half", "zeros", "nothing"])
def test_plain_bytes(two_hosts, page_server, data):
    a, b, _ = two_hosts
    host, port = page_server.to.rsplit(":", 1)
    with Unharmed(a, b, None, page_server):
        with a.connect(host, int(port)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(20)
            ends(connection)
        if len(data) > 2:
            wait_until(lambda: "does not speak TLS: it sent plain bytes" in page_server.text(), 10, "a reason")


def frame(kind, payload, size=None):
    return struct.pack("<IHH", len(payload) if size is None else size, kind, 0) + payload


def hello(version=1, session=bytes(16), role=0):
    return b"\x08" + bytes([version]) + b"\x12" + bytes([len(session)]) + session + b"\x18" + bytes([role])


def numbers():
    """Numbers of frames and roles, and the protocol's version, from the header that the programs use."""
    header = pathlib.Path(__file__).resolve().parents[2] / "src/transport/wire.h"
    text = header.read_text()
    return {name: int(value, 0) for name, value in re.findall(r"(?:#define )?(WIRE_\w+)\s*=?\s+(0x[0-9a-fA-F]+|\d+)", text)}


WIRE = numbers()


@pytest.mark.parametrize("what, data, says", [
    ("oversized", frame(WIRE["WIRE_HELLO"], b"", 0x7FFFFFFF), "2147483647 bytes; 1024 are allowed"),
    ("not-a-hello", frame(WIRE["WIRE_COMMIT"], b""), "unknown or not expected"),
    ("unknown-frame", frame(999, b"abc"), "a frame of type 999"),
    ("unknown-version", frame(WIRE["WIRE_HELLO"], hello(version=99, role=WIRE["WIRE_CONTROL"])), "version 99"),
    ("no-message", frame(WIRE["WIRE_HELLO"], b"\xff" * 20), "are no WireHello message"),
    ("no-session", frame(WIRE["WIRE_HELLO"], hello(session=b"abc", role=WIRE["WIRE_CONTROL"])), "session id of 3 bytes"),
    ("no-role", frame(WIRE["WIRE_HELLO"], hello(role=77)), "role 77"),
    ("commit-first", frame(WIRE["WIRE_HELLO"], hello(session=b"s" * 16, role=WIRE["WIRE_CONTROL"])) +
     frame(WIRE["WIRE_COMMIT"], b""), "COMMIT is not allowed while the session is"),
    ("oversized-later", frame(WIRE["WIRE_HELLO"], hello(session=b"t" * 16, role=WIRE["WIRE_CONTROL"])) +
     frame(WIRE["WIRE_IMAGE"], b"", 0xFFFFFFFF), "4294967295 bytes"),
    ("join-nothing", frame(WIRE["WIRE_HELLO"], hello(session=b"u" * 16, role=WIRE["WIRE_BULK"])), "no such session"),
], ids=lambda value: value if isinstance(value, str) and " " not in value else "")
def test_bad_frames(two_hosts, keys, page_server, what, data, says):
    """From a client with a proper certificate: it is told why, the log says it, others are served."""
    a, b, _ = two_hosts
    with Unharmed(a, b, None, page_server):
        with tls(a, page_server, *client_of(keys)) as connection:
            connection.sendall(data)
            answer = ends(connection)
        assert says.encode() in answer, (answer, page_server.text())
        wait_until(lambda: says in page_server.text(), 10, "the reason in the server's log")


def test_half_a_frame_then_silence(two_hosts, keys, page_server):
    """Cut off after ten seconds; others do not wait for it."""
    a, b, _ = two_hosts
    whole = frame(WIRE["WIRE_HELLO"], hello(session=b"h" * 16, role=WIRE["WIRE_CONTROL"]))
    with Unharmed(a, b, None, page_server):
        with tls(a, page_server, *client_of(keys)) as silent, tls(a, page_server, *client_of(keys)) as half:
            half.sendall(whole[:13])
            bystander = a.spawn_daemon(["/bin/sleep", "60"])
            result = send(a, page_server, bystander, dry_run=True)
            assert result.status == 0, result.text()
            a.kill(bystander)
            assert b"no HELLO has come in time" in ends(half)
            assert b"no HELLO has come in time" in ends(silent)
        assert "no HELLO has come within 10 s" in page_server.text()


def _accepts(host, address, port):
    try:
        host.connect(address, port).close()
        return True
    except OSError:
        return False
