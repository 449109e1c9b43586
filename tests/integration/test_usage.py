# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines that mean nothing: exit status 2, an error that names the option and its value, and nothing begun."""
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from pagestream import NOT_MOVED, USAGE, program

SEND = ["send", "--to", "x:1"]
SESSION = "0123456789abcdef0123456789abcdef"

MIGRATE = [
    ([], "migrate send"),
    (["frobnicate"], "'frobnicate'"),
    (["--frobnicate"], "'--frobnicate'"),
    (["send"], "--to"),
    (["send", "5"], "--to"),
    (["send", "--to"], "--to"),
    (["send", "--to", "nowhere", "5"], "--to", "'nowhere'"),
    (["send", "--to", "", "5"], "--to", "''"),
    (["send", "--to", ":7000", "5"], "--to", "':7000'"),
    (["send", "--to", "host:", "5"], "--to", "'host:'"),
    (["send", "--to", "host:http", "5"], "--to", "'host:http'"),
    (["send", "--to", "host:65536", "5"], "--to", "'host:65536'"),
    (["send", "--to", "host:0", "5"], "--to", "'host:0'"),
    (["send", "--to", "host:-1", "5"], "--to", "'host:-1'"),
    (["send", "--to", "::1:7000", "5"], "--to", "'::1:7000'", "brackets"),
    (["send", "--to", "h" * 300 + ":1", "5"], "--to", "'hhh"),
    (SEND, "one PID"),
    ([*SEND, "5", "6"], "one PID", "'6'"),
    ([*SEND, "5x"], "'5x'"),
    ([*SEND, "0"], "'0'"),
    ([*SEND, "--", "-5"], "'-5'"),
    ([*SEND, ""], "''"),
    ([*SEND, "99999999999"], "'99999999999'"),
    ([*SEND, "--frobnicate", "5"], "--frobnicate"),
    ([*SEND, "-x", "5"], "x"),
    ([*SEND, "--json=1", "5"], "--json"),
    ([*SEND, "--tls-dir"], "--tls-dir"),
    ([*SEND, "--tls-dir", "", "5"], "--tls-dir", "''"),
    ([*SEND, "--state-dir", "", "5"], "--state-dir", "''"),
    ([*SEND, "--hook", "", "5"], "--hook", "''"),
    ([*SEND, "--hook", "/no/such/program", "5"], "--hook", "/no/such/program"),
    ([*SEND, "--hook", "/etc/passwd", "5"], "--hook", "/etc/passwd"),
    ([*SEND, "--mode", "warp", "5"], "--mode", "'warp'"),
    ([*SEND, "--mode", "", "5"], "--mode", "''"),
    ([*SEND, "--downtime-limit", "soon", "5"], "--downtime-limit", "'soon'"),
    ([*SEND, "--downtime-limit", "-1", "5"], "--downtime-limit", "'-1'"),
    ([*SEND, "--downtime-limit", "10ms", "5"], "--downtime-limit", "'10ms'"),
    ([*SEND, "--downtime-limit", "3600001", "5"], "--downtime-limit", "'3600001'"),
    ([*SEND, "--max-bandwidth", "fast", "5"], "--max-bandwidth", "'fast'"),
    ([*SEND, "--max-bandwidth", "10X", "5"], "--max-bandwidth", "'10X'"),
    ([*SEND, "--max-bandwidth", "-1", "5"], "--max-bandwidth", "'-1'"),
    ([*SEND, "--max-bandwidth", "99999999T", "5"], "--max-bandwidth", "'99999999T'"),
    ([*SEND, "--max-bandwidth", "0", "5"], "--max-bandwidth", "'0'"),
    ([*SEND, "--streams", "0", "5"], "--streams", "'0'"),
    ([*SEND, "--streams", "17", "5"], "--streams", "'17'"),
    ([*SEND, "--streams", "two", "5"], "--streams", "'two'"),
    (["keys"], "--dir"),
    (["keys", "--dir"], "--dir"),
    (["keys", "--dir", "/tmp/never-made", "more"], "'more'"),
    (["keys", "--dir", "/tmp/never-made", "--name", "a b"], "'a b'"),
    (["keys", "--dir", "/tmp/never-made", "--name", "*"], "'*'"),
    (["keys", "--dir", "/tmp/never-made", "--client", "a/b"], "'a/b'"),
    (["keys", "--frobnicate"], "--frobnicate"),
    (["status", "xyz"], "'xyz'"),
    (["status", SESSION, "more"], "'more'"),
    (["cancel"], "SESSION"),
    (["cancel", "xyz"], "'xyz'"),
    (["cancel", SESSION, "more"], "'more'"),
    (["cancel", "--thaw", SESSION], "--thaw"),
    (["show"], "DIR", "FILE"),
    (["show", ""], "DIR"),
    (["show", "-D", ""], "-D", "''"),
    (["show", "a", "b"], "'b'"),
    (["show", "--frobnicate", "a"], "--frobnicate"),
    (["show", "--json=1", "a"], "--json"),
    (["core"], "DIR"),
    (["core", "-o"], "-o"),
    (["core", "a", "-o", ""], "-o", "''"),
    (["core", "a", "x"], "'x'"),
    (["core", "a", "0"], "'0'"),
    (["core", "a", "1", "2"], "'2'"),
    (["core", "--frobnicate", "a"], "--frobnicate"),
    (["resolve"], "SESSION"),
    (["resolve", "xyz"], "'xyz'"),
    (["resolve", "--thaw", "--kill", SESSION], "--thaw", "--kill"),
    (["resolve", "--frobnicate", SESSION], "--frobnicate"),
    (["resolve", "--json", SESSION], "--json"),
]

PAGESERVER = [
    ([], "--listen"),
    (["--listen"], "--listen"),
    (["--listen", ""], "--listen", "''"),
    (["--listen", "port"], "--listen", "'port'"),
    (["--listen", "65536"], "--listen", "'65536'"),
    (["--listen", "host:x"], "--listen", "'host:x'"),
    (["--listen", "::1:5"], "--listen", "'::1:5'"),
    (["--listen", "7000", "more"], "'more'"),
    (["--listen", "7000", "--max-memory", "much"], "--max-memory", "'much'"),
    (["--listen", "7000", "--max-memory", "8Q"], "--max-memory", "'8Q'"),
    (["--listen", "7000", "--max-memory", "0"], "--max-memory", "'0'"),
    (["--listen", "7000", "--max-memory", "-1"], "--max-memory", "'-1'"),
    (["--listen", "7000", "--allow"], "--allow"),
    (["--listen", "7000", "--allow", ""], "--allow", "''"),
    (["--listen", "7000", "--tls-dir", ""], "--tls-dir", "''"),
    (["--listen", "7000", "--state-dir", ""], "--state-dir", "''"),
    (["--listen", "7000", "--frobnicate"], "--frobnicate"),
    (["-x"], "x"),
]


def run(name, argv, tmp_path):
    return subprocess.run([program(name), *argv], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)


def name_of(case):
    return " ".join(case[0])[:40] or "nothing"


@pytest.mark.parametrize("case", MIGRATE, ids=name_of)
def test_migrate(case, tmp_path):
    argv, *words = case
    done = run("migrate", argv, tmp_path)
    assert done.returncode == USAGE, f"status {done.returncode}: {done.stderr}"
    assert not done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("case", PAGESERVER, ids=name_of)
def test_pageserver(case, tmp_path):
    argv, *words = case
    done = run("pageserver", argv, tmp_path)
    assert done.returncode == USAGE, f"status {done.returncode}: {done.stderr}"
    assert not done.stdout
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("name, argv", [("migrate", ["--help"]), ("migrate", ["help"]), ("migrate", ["--version"]),
                                        ("migrate", ["send", "--help"]), ("pageserver", ["--help"]),
                                        ("pageserver", ["--version"])])
def test_help(name, argv, tmp_path):
    done = run(name, argv, tmp_path)
    assert done.returncode == 0 and name in done.stdout and not done.stderr, (done.stdout, done.stderr)


@pytest.mark.parametrize("name, argv", [("migrate", [*SEND, "5"]), ("migrate", ["status"]), ("migrate", ["cancel", SESSION]),
                                        ("migrate", ["resolve", SESSION]), ("migrate", ["dump", "-t", "5", "-D", "/tmp"]),
                                        ("migrate", ["restore", "-D", "/tmp"]), ("pageserver", ["--listen", "127.0.0.1:0"])])
def test_without_root(name, argv):
    """It says so, in place of what it was the first to be denied."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        pathlib.Path(folder).chmod(0o755)
        shutil.copy(program(name), folder)
        done = subprocess.run([f"{folder}/{name}", *argv], user=65534, group=65534, extra_groups=[], cwd="/",
                              capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == NOT_MOVED and "run it as root" in done.stderr and not done.stdout, (done.stdout, done.stderr)
