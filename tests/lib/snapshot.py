# SPDX-License-Identifier: LGPL-2.1-or-later
"""A picture of a process tree from /proc that two moments can be compared by.

Taken of what a failed or cancelled migration must leave as it was: memory map, descriptors, signal
state, threads, tracer, cgroup. Not taken: what changes as the process merely runs (times, resident
pages, CPU, stack contents).

    before = snapshot(host, pid)
    ...
    assert diff_settled(before, host, pid) == []
"""
import os
import re
import time

# The heap and the stacks of a running program grow on their own.
GROWS = ("[heap]", "[stack]")
STATUS = ("Name", "Umask", "Tgid", "NStgid", "PPid", "TracerPid", "Uid", "Gid", "Groups", "SigPnd",
          "ShdPnd", "SigBlk", "SigIgn",
          "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
          "Cpus_allowed_list")
RUNNING = {"R": "running", "S": "running", "D": "running", "I": "running", "T": "stopped",
           "t": "traced", "Z": "zombie"}


def snapshot(host, pid, maps=True):
    """Dictionary of flat keys ("1000/fd/3") and text values, of the process and all its
    descendants.
    """
    picture = {}
    for inner in host.tree(pid):
        try:
            _process(picture, inner, str(host.proc(inner)), maps)
        except (FileNotFoundError, ProcessLookupError):
            picture[f"{inner}/gone"] = "yes"
    return picture


def diff(before, after):
    """Readable lines, one for each difference; empty when there is none."""
    lines = []
    for key in sorted(set(before) | set(after),
                      key=lambda k: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", k)]):
        a, b = before.get(key), after.get(key)
        if a is None:
            lines.append(f"{key}: new: {b}")
        elif b is None:
            lines.append(f"{key}: gone, was: {a}")
        elif a != b:
            lines.append(f"{key}: was {a!r}, is {b!r}")
    return lines


def diff_settled(before, host, pid, seconds=5):
    """diff() with the present, taken again for so long as it is not empty: a running process has a
    signal pending or a file open for a moment. Returns the last differences.
    """
    end = time.monotonic() + seconds
    while True:
        lines = diff(before, snapshot(host, pid))
        if not lines or time.monotonic() > end:
            return lines
        time.sleep(0.02)


def _process(picture, pid, proc, maps):
    picture[f"{pid}/exe"] = _link(f"{proc}/exe")
    picture[f"{pid}/cwd"] = _link(f"{proc}/cwd")
    picture[f"{pid}/root"] = _link(f"{proc}/root")
    for name in ("cmdline", "cgroup", "limits", "personality", "loginuid", "oom_score_adj",
                 "coredump_filter", "timerslack_ns",
                 "timers"):
        picture[f"{pid}/{name}"] = _read(f"{proc}/{name}")
    picture[f"{pid}/timers"] = _timers(picture[f"{pid}/timers"])
    if maps:
        for key, value in _maps(_read(f"{proc}/maps"), _read(f"{proc}/smaps")):
            picture[f"{pid}/map/{key}"] = value
    for fd in os.listdir(f"{proc}/fd"):
        try:
            info = _fdinfo(_read(f"{proc}/fdinfo/{fd}"))
            picture[f"{pid}/fd/{fd}"] = f"{_link(f'{proc}/fd/{fd}')} {info}"
        except FileNotFoundError:
            pass
    for tid in os.listdir(f"{proc}/task"):
        _thread(picture, pid, f"{proc}/task/{tid}")


def _thread(picture, pid, task):
    try:
        status = dict(line.split(":\t", 1) for line in _read(f"{task}/status").splitlines()
                      if ":\t" in line)
        stat = _read(f"{task}/stat")
    except FileNotFoundError:
        return
    tid = status["NSpid"].split()[-1]
    base = f"{pid}/thread/{tid}"
    for name in STATUS:
        if name in status:
            picture[f"{base}/{name}"] = status[name].strip()
    picture[f"{base}/state"] = RUNNING.get(status["State"][0], status["State"])
    # Fields 16 on of stat(5), counted from after the name: priority and nice, then scheduling
    # policy.
    fields = stat[stat.rindex(")") + 2:].split()
    picture[f"{base}/sched"] = f"nice {fields[16]} rt {fields[37]} policy {fields[38]}"


def _maps(maps, smaps):
    flags = {}
    for line in smaps.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            area = line.split()[0]
        elif line.startswith("VmFlags:"):
            flags[area] = " ".join(sorted(set(line.split()[1:]) - {"sd"}))
    for line in maps.splitlines():
        fields = line.split(None, 5)
        path = fields[5] if len(fields) > 5 else ""
        area = "grows " + path if path in GROWS else fields[0]
        yield area, f"{fields[1]} {fields[2]} {path} [{flags.get(fields[0], '')}]"


def _fdinfo(text):
    kept = []
    for line in text.splitlines():
        # Positions of devices and ticks of timers move on their own, and so does what is left of a
        # timer.
        if line.startswith(("mnt_id:", "ino:", "it_value:", "ticks:", "utime", "stime", "NSpid",
                            "rtime")):
            continue
        kept.append(re.sub(r"\s+", " ", line.strip()))
    return "; ".join(kept)


def _timers(text):
    return re.sub(r"sigval: .*|it_value.*", "", text)


def _read(path):
    try:
        with open(path, "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (PermissionError, OSError) as e:
        if isinstance(e, FileNotFoundError):
            if path.endswith(("/status", "/stat", "/maps", "/smaps")) or "/fdinfo/" in path:
                raise
            return "absent"
        return f"error {e.errno}"


def _link(path):
    return os.readlink(path)
