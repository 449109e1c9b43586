# SPDX-License-Identifier: LGPL-2.1-or-later
"""A shell that starts a program each millisecond: a tree that is never the same at two looks."""
import subprocess

import pytest
from hosts import wait_until
from pagestream import PageServer, send

LOOP = 'echo $$ > "$0/pid"; i=0; while :; do i=$((i + 1)); /bin/true; echo $i > "$0/new"; mv "$0/new" "$0/count"; done'
MOVES = 6
TRIES = 4  # a move that meets the shell at a bad moment too often gives up, and the shell goes on


def read(path):
    return int(path.read_text()) if path.exists() and path.read_text().strip() else 0


@pytest.mark.parametrize("mode", ["hybrid", "precopy", "postcopy"])
def test_shell_loop(two_hosts, keys, tmp_path, mode):
    a, b, _ = two_hosts
    with PageServer(a, keys) as on_a, PageServer(b, keys) as on_b:
        shell = a.popen(["setsid", "sh", "-c", LOOP, tmp_path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
        try:
            pid = wait_until(lambda: read(tmp_path / "pid"), 10, "PID of the shell")
            places = [(a, on_b), (b, on_a)]
            for number in range(MOVES):
                host, server = places[number % 2]
                for _ in range(TRIES):
                    before = wait_until(lambda: read(tmp_path / "count"), 10, "count")
                    result = send(host, server, pid, mode=mode)
                    assert result.status in (0, 1), result.text()
                    wait_until(lambda last=before: read(tmp_path / "count") > last + 3, 10, "the shell to go on")
                    if result.status == 0:
                        break
                assert result.status == 0, f"move {number}: {result.text()}"
            places[MOVES % 2][0].kill(pid, 9)
        finally:
            if shell.poll() is None:
                shell.kill()
            shell.wait(20)
