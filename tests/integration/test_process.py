# SPDX-License-Identifier: LGPL-2.1-or-later
"""What belongs to a process or thread beyond memory and files, where a victim cannot see for itself that it is right."""
import json
import shutil
import subprocess

import pytest
from checkpoint import Place, dump
from pagestream import PageServer, send

LOG = 2  # SECCOMP_FILTER_FLAG_LOG


@pytest.fixture
def place():
    with Place() as made:
        yield made


def crit(directory, name):
    done = subprocess.run(["crit", "decode", "-i", directory / name], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)["entries"]


@pytest.mark.skipif(not shutil.which("crit"), reason="crit (Debian package criu) is not installed")
def test_seccomp_flags(two_hosts, keys, start_victim, place):
    """Which filters are logged: only a tracer can tell."""
    a, b, _ = two_hosts
    victim = start_victim(a, "seccomp")
    with PageServer(b, keys) as server:
        result = send(a, server, victim.pid)
    assert result.status == 0, result.text()
    victim.host = b
    directory = place.make()
    dump(b, place, victim.pid, directory, "--leave-running")
    filters = crit(directory, "seccomp.img")[0]["seccomp_filters"]
    assert [(one.get("prev"), one.get("flags", 0)) for one in filters] == [(None, 0), (0, LOG), (1, 0)], filters
    victim.check(b)
