# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pytest plugin (-p results, with this folder on PYTHONPATH) for tools/test:

- writes a line of JSON to the file PAGESTREAM_RESULTS names as each test begins and ends, so that the results so far are
  there when the whole run is cut off: {"word": "START|PASS|FAIL|SKIP", "name": ..., "reason": ..., "seconds": ...};
- fails a test that takes over PAGESTREAM_TEST_SECONDS (its fixtures not counted), so that one that hangs does not take
  all others along.
"""
import json
import os
import signal

import pytest

SECONDS = int(os.environ.get("PAGESTREAM_TEST_SECONDS", "180"))


class TooLong(Exception):
    pass


def _write(word, name, reason="", seconds=0.0):
    path = os.environ.get("PAGESTREAM_RESULTS")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"word": word, "name": name, "reason": reason, "seconds": round(seconds, 3)}) + "\n")


def _skip_reason(report):
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return getattr(report, "wasxfail", "")


def pytest_runtest_logstart(nodeid, location):
    _write("START", nodeid)


def pytest_runtest_logreport(report):
    """One line a test: the first of set-up, call and tear-down that did not pass, else the call."""
    if report.when == "call" or not report.passed:
        word = "SKIP" if report.skipped else "PASS" if report.passed else "FAIL"
        name = report.nodeid if report.when == "call" or report.skipped else f"{report.nodeid} ({report.when})"
        if word == "FAIL" and report.when == "setup":
            _write("FAIL", report.nodeid, "its set-up failed")
        else:
            _write(word, name, _skip_reason(report) if report.skipped else "", report.duration)


def pytest_collectreport(report):
    if report.failed:
        _write("FAIL", f"{report.nodeid} (collection)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    def too_long(number, frame):
        raise TooLong(f"took over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
