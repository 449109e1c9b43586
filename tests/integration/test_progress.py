# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a user sees while it goes on: one line drawn in place on a terminal, plain lines in a pipe, and migrate status."""
import fcntl
import json
import os
import pty
import re
import struct
import termios
import threading

from hosts import wait_until
from pagestream import migrate, program, send, send_start

COLUMNS = 80
ROUND = re.compile(r"round (\d+): (\d+)/(\d+) pages, ([\d.]+) MiB/s")


class Terminal(threading.Thread):
    """The reading side of a terminal, and what would be on its screen."""

    def __init__(self, columns):
        super().__init__(daemon=True)
        self.columns = columns
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.bytes = b""
        self.start()

    def run(self):
        try:
            while chunk := os.read(self.master, 4096):
                self.bytes += chunk
        except OSError:
            pass  # the last writer is gone

    def end(self):
        os.close(self.slave)
        self.join(10)
        os.close(self.master)
        return self

    def drawn(self):
        """All that was ever drawn, in order: what stands between returns."""
        return [text for text in re.split(r"\r|\n|\033\[K", self.bytes.decode()) if text]

    def screen(self):
        """The lines as they are in the end. A character behind the last column wraps, as it does on a terminal."""
        lines, column = [""], 0
        for token in re.findall(r"\033\[K|\033.|.|\s", self.bytes.decode(), re.S):
            if token == "\r":
                column = 0
            elif token == "\n":
                lines.append("")
                column = 0
            elif token == "\033[K":
                lines[-1] = lines[-1][:column]
            else:
                assert token[0] != "\033", f"an escape that is not expected: {token!r}"
                if column >= self.columns and not self.long(lines[-1]):
                    raise AssertionError(f"wraps: {lines[-1]!r}")
                lines[-1] = lines[-1][:column] + token + lines[-1][column + 1:]
                column += 1
        return lines

    @staticmethod
    def long(line):
        """Lines of the summary and messages may be as long as they need."""
        return line.startswith(("  ", "migrate:", "PID"))


def send_on_terminal(host, server, pid, tmp_path, *args, term="xterm", columns=COLUMNS):
    terminal = Terminal(columns)
    argv = [program("migrate"), "send", "--to", server.to, "--tls-dir", server.keys.dir, "--state-dir", tmp_path / "state",
            *args, pid]
    process = host.popen(list(map(str, argv)), stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave,
                         env={**os.environ, "TERM": term})
    return terminal, process


def rounds_drawn(terminal, number):
    """Pages done as drawn for a round, the total left out, where only part of it was done."""
    found = [tuple(map(int, m.groups()[:3])) for m in map(ROUND.match, terminal.drawn()) if m]
    return [done for n, done, pages in found if n == number and 0 < done < pages]


def test_one_line_in_place(two_hosts, page_server, start_victim, tmp_path):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "1400")
    net.limit("80mbit")
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--mode", "precopy", "--downtime-limit",
                                         200)
    assert process.wait(120) == 0, terminal.bytes.decode()
    terminal.end()
    # Drawn several times a second within the first round, which takes two seconds.
    done = rounds_drawn(terminal, 1)
    assert len(set(done)) >= 4 and done == sorted(done), terminal.drawn()
    assert any("written" in text and "downtime ~" in text for text in terminal.drawn()), terminal.drawn()
    lines = terminal.screen()
    # Nothing of it stays: what is left are the lines of the summary.
    assert lines[0].startswith(f"PID {victim.pid} moved to"), lines
    assert not any("round 1" in line or "hand-over" in line for line in lines), lines
    assert lines[-1] == "" and terminal.bytes.endswith(b"\n")
    victim.check(b)


def test_cut_to_the_width_of_the_terminal(two_hosts, page_server, start_victim, tmp_path):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "8", "1", "500")
    net.limit("80mbit")
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--mode", "precopy", columns=20)
    assert process.wait(60) == 0, terminal.bytes.decode()
    lines = terminal.end().screen()
    assert lines[0].startswith(f"PID {victim.pid} moved to"), lines
    drawn = [text for text in terminal.drawn() if text.startswith("round")]
    assert len(drawn) > 2 and {len(text) for text in drawn} == {19}, drawn
    victim.check(b)


def test_postcopy_says_what_is_missing(two_hosts, page_server, start_victim, tmp_path):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--mode", "postcopy")
    assert process.wait(120) == 0, terminal.bytes.decode()
    terminal.end()
    missing = [int(m[1]) for m in re.finditer(r"post-copy: (\d+) pages missing, \d+ faults, [\d.]+ MiB/s",
                                              terminal.bytes.decode())]
    assert len(set(missing)) >= 4 and missing == sorted(missing, reverse=True), terminal.drawn()
    assert not any("missing" in line for line in terminal.screen()), terminal.screen()
    victim.check(b)


def test_other_output_is_on_lines_of_its_own(two_hosts, page_server, start_victim, tmp_path):
    a, _, net = two_hosts
    victim = start_victim(a, "pages", "8", "1", "500")
    net.limit("80mbit")
    hook = tmp_path / "hook"
    hook.write_text('#!/bin/sh\necho "hook says $1" >&2\n[ "$1" != pre-freeze ]\n')
    hook.chmod(0o755)
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--hook", hook)
    assert process.wait(120) == 1, terminal.bytes.decode()
    lines = terminal.end().screen()
    assert lines[0] == "hook says pre-freeze" and "hook says rolled-back" in lines, lines
    assert lines[-2].startswith("migrate: hook") and lines[-1] == "", lines
    assert rounds_drawn(terminal, 1), terminal.drawn()
    victim.check(a)


def test_dumb_terminal_gets_plain_lines(two_hosts, page_server, start_victim, tmp_path):
    a, b, _ = two_hosts
    victim = start_victim(a, "pages", "4", "1", "500")
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--mode", "precopy", term="dumb")
    assert process.wait(60) == 0, terminal.bytes.decode()
    text = terminal.end().bytes.decode()
    assert "\033" not in text and "\r" not in text.replace("\r\n", "\n") and "migrate: round 1: " in text
    victim.check(b)


def test_json_shows_nothing_else(two_hosts, page_server, start_victim, tmp_path):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "8", "1", "500")
    net.limit("80mbit")
    terminal, process = send_on_terminal(a, page_server, victim.pid, tmp_path, "--json")
    assert process.wait(60) == 0, terminal.bytes.decode()
    assert json.loads(terminal.end().bytes)["outcome"] == "moved"
    victim.check(b)


def test_pipe_gets_plain_lines(two_hosts, page_server, start_victim):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "8", "1", "500")
    net.limit("80mbit")
    result = send(a, page_server, victim.pid, mode="precopy", json_output=False)
    assert result.status == 0, result.text()
    assert re.search(r"^migrate: round 1: \d+ pages in [\d.]+ ms", result.stderr, re.M), result.text()
    assert "\r" not in result.stderr + result.stdout and "\033" not in result.stderr + result.stdout
    victim.check(b)


def status_of(job):
    found = json.loads(migrate(job.host, "status", "--json", state_dir=job.state_dir).stdout)
    return found[0]["progress"] if found else None


def test_status_of_a_running_session(two_hosts, page_server, start_victim, tmp_path):
    a, b, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", state_dir=tmp_path / "state")
    seen = []

    def more():
        assert job.status is None, job.text()
        progress = status_of(job)
        if progress and progress["phase"] == "pre-copy" and 0 < progress["pages_done"] < progress["pages_round"]:
            seen.append(progress["pages_done"])
        return len(set(seen)) >= 3

    wait_until(more, 30, "the status shows three numbers of pages")
    assert seen == sorted(seen)
    progress = status_of(job)
    assert progress["pages_round"] > 4000 and progress["rate_bytes_per_s"] > 1e6, progress
    text = migrate(a, "status", state_dir=job.state_dir).stdout
    assert re.search(rf"PID {victim.pid} .*\n  round \d+: \d+/\d+ pages, [\d.]+ MiB/s", text), text
    job.wait(60)
    assert job.status == 0, job.text()
    assert not list((tmp_path / "state" / "sessions").iterdir())
    victim.check(b)


def test_progress_goes_with_a_killed_migrate(two_hosts, page_server, start_victim, tmp_path):
    a, _, net = two_hosts
    victim = start_victim(a, "pages", "24", "1", "500")
    net.limit("80mbit")
    job = send_start(a, page_server, victim.pid, mode="precopy", state_dir=tmp_path / "state")
    sessions = tmp_path / "state" / "sessions"
    wait_until(lambda: list(sessions.glob("*.progress")), 30, "there is progress")
    job.kill()
    wait_until(lambda: not list(sessions.iterdir()), 30, "the guardian has cleaned up")
    victim.check(a)
