# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/coverage.md and the table of kinds say the same, and the tests that the page names exist."""
import json
import pathlib
import re
import subprocess

from pagestream import program

TESTS = pathlib.Path(__file__).parent
PAGE = TESTS.parents[1] / "docs" / "coverage.md"


def rows():
    """Of the page: (group, name, what becomes of it, tests)."""
    group = None
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| ") and len(cells) == 3 and cells[0] != "kind":
            yield group, cells[0], cells[1], re.findall("`([^`]+)`", cells[2])


def table():
    done = subprocess.run([program("migrate"), "check", "--kinds", "--json"], capture_output=True, text=True, timeout=60,
                          check=True)
    return json.loads(done.stdout)


def test_page_has_the_table():
    page = [(group, name, what) for group, name, what, _ in rows()]
    assert page == [(kind["group"], kind["name"], "restored" if kind["restored"] else f"refused: {kind['cause']}")
                    for kind in table()]


def has(test):
    """`test_state`, `test_state[pipes]`, `test_state::test_x`, or the unit test `test-dump-tree`: does it exist?"""
    if "-" in test.partition("[")[0]:
        return (TESTS.parent / "unit" / f"{test}.c").exists()
    name, function, parameter = re.fullmatch(r"(\w+)(?:::(\w+))?(?:\[([^\]]+)\])?", test).groups()
    source = TESTS / f"{name}.py"
    text = source.read_text() if source.exists() else ""
    return bool(text) and (not function or f"def {function}(" in text) and (not parameter or f'"{parameter}"' in text)


def test_named_tests_exist():
    missing = [(name, test) for _, name, _, tests in rows() for test in tests if not has(test)]
    assert not missing
    untested = [name for _, name, what, tests in rows() if not tests]
    assert not [name for _, name, what, tests in rows() if not tests and what == "restored"]
    assert PAGE.read_text().count("| no test |") == len(untested)


def test_text_form_names_every_kind():
    done = subprocess.run([program("migrate"), "check", "--kinds"], capture_output=True, text=True, timeout=60, check=True)
    for kind in table():
        line = f"  yes  {kind['name']}\n" if kind["restored"] else f"  no   {kind['name']}: {kind['cause']}; {kind['remedy']}\n"
        assert line in done.stdout
