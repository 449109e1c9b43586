# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man pages and the programs know the same commands and options."""
import pathlib
import re
import subprocess

import pytest
from pagestream import USAGE, program

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MAN = REPOSITORY / "docs" / "man"
MACROS = {"Ar", "Op", "Oo", "Oc", "Cm", "Ns", "Nm", "Xr", "Pa", "Dv"}
# The options of these are described with another command.
DESCRIBED_WITH = {"pre-dump": "dump", "cancel": "status", "resolve": "status"}


def flags(line):
    """Of one line of mdoc: what stands behind Fl, up to the next macro."""
    inside = False
    for token in line.lstrip(".").split():
        if token == "Fl":
            inside = True
        elif token in MACROS:
            inside = False
        elif inside and token[0] not in "|,=":
            yield f"-{token}"


def page(name):
    return next(MAN.glob(f"{name}.[1-8]")).read_text().splitlines()


def synopsis(name):
    """Options by command, in order; those of a program without commands are under None."""
    lines = page(name)
    start = lines.index(".Sh SYNOPSIS")
    found, command = {}, None
    for line in lines[start + 1:lines.index(".Sh DESCRIPTION")]:
        if line == ".Nm":
            command = None
        elif line.startswith(".Cm ") and command is None:
            command = line.split()[1]
            found[command] = set()
        else:
            found.setdefault(command, set()).update(flags(line))
    return found


def described(name, command):
    """Options that have an entry of a list, in the section of the command; None: in the whole page."""
    found, inside = set(), command is None
    for line in page(name):
        if line.startswith((".Ss ", ".Sh ")) and command:
            inside = line == f".Ss {name} {command}"
        elif inside and line.startswith(".It Fl "):
            found.update(flags(line))
    return found


def everything_described(name):
    return set().union(*(flags(line) for line in page(name) if line.startswith(".")))


def run(name, *argv, cwd=None):
    return subprocess.run([program(name), *argv], capture_output=True, text=True, timeout=20, check=False, cwd=cwd)


def options_of(text):
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text))


COMMANDS = synopsis("migrate")


def test_commands():
    said = re.findall(r"^  migrate (\S+)", run("migrate", "--help").stdout, re.M)
    assert said == list(COMMANDS)
    assert [command for command in said if f".Ss migrate {command}" not in page("migrate")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_synopsis(command):
    said = options_of(run("migrate", command, "--help").stdout.partition("migrate")[2])
    assert said == COMMANDS[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_synopsis_is_described(command):
    with_other = DESCRIBED_WITH.get(command)
    text = described("migrate", command) | (described("migrate", with_other) if with_other else set())
    assert COMMANDS[command] - text == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_described_is_taken(command, tmp_path):
    """Each option of the section is one of the program. The first of the words behind it may become its value."""
    wrong = {}
    for option in sorted(described("migrate", command) | COMMANDS[command]):
        done = run("migrate", command, option, "--frobnicate", "--frobnicate", cwd=tmp_path)
        if done.returncode != USAGE or f"{option} is no option" in done.stderr or "frobnicate" not in done.stderr:
            wrong[option] = (done.returncode, done.stderr)
    assert wrong == {}


def test_pageserver():
    said = options_of(run("pageserver", "--help").stdout.partition("\n")[2])
    assert said | {"-h"} == described("pageserver", None)
    assert synopsis("pageserver")[None] - described("pageserver", None) == set()


@pytest.mark.parametrize("name, sources", [("migrate", ["command.*", "checkpoint-options.*", "migrate*"]),
                                           ("pageserver", ["pageserver.c"])])
def test_all_are_described(name, sources):
    """Long options, as the sources have them in their tables."""
    text = "".join(path.read_text() for pattern in sources for path in (REPOSITORY / "tools").glob(pattern))
    taken = {f"--{option}" for option in re.findall(r'\{ "([\w-]+)", (?:no|required|optional)_argument', text)}
    assert len(taken) > 5
    assert taken - everything_described(name) == set()
