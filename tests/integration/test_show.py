# SPDX-License-Identifier: LGPL-2.1-or-later
"""migrate show: what it says of a checkpoint is what /proc said of the process."""
import json
import os
import re
import shutil

import pytest
from showing import command, dump, show


@pytest.fixture
def calls(host, start_victim, tmp_path):
    victim = start_victim(host, "calls")
    return host, victim, dump(host, victim.pid, tmp_path / "checkpoint")


def maps_of(host, pid):
    """[(start, end, protection, path)] without what cannot be moved."""
    found = []
    for line in (host.proc(pid) / "maps").read_text().splitlines():
        field = line.split(None, 5)
        start, end = (int(word, 16) for word in field[0].split("-"))
        found.append((start, end, field[1], field[5] if len(field) > 5 else ""))
    return found


def test_tree_and_threads(calls):
    host, victim, directory = calls
    seen = show(host, directory)
    assert seen["complete"] and seen["problems"] == []
    assert seen["kernel"] == os.uname().release and seen["chain"][0]["writer"] == "pagestream"
    assert seen["host"] and re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", seen["written"])
    process, = seen["processes"]
    assert (process["pid"], process["name"], process["state"]) == (victim.pid, "calls", "running")
    assert {thread["name"] for thread in process["threads"]} == {"calls", "calls-1", "calls-2"}
    assert len(process["threads"]) == 3 and process["threads"][0]["tid"] == victim.pid
    assert process["credentials"]["uid"] == 0 and process["program"].endswith("/calls") and process["directory"] == "/"
    assert [os.path.basename(link["path"]) for link in seen["chain"]][0] == "checkpoint" and len(seen["chain"]) >= 2
    text = command(host, "show", directory)
    assert text.returncode == 0 and not text.stderr
    for word in ("a complete checkpoint", f"{victim.pid} calls, running, 3 threads, uid 0", "calls-2", "builds upon",
                 os.uname().release, seen["written"], "[heap]"[1:-1], "shared memory", "deleted file"):
        assert word in text.stdout, (word, text.stdout)


def test_memory(calls):
    """Every mapping of the process, and no page is forgotten: here and below together are what was resident."""
    host, victim, directory = calls
    process, = show(host, directory)["processes"]
    shown = [(int(one["start"], 16), int(one["end"], 16), one) for one in process["memory"]["mappings"]]
    for start, end, protection, path in maps_of(host, victim.pid):
        if path in ("[vsyscall]",):
            continue
        around = [one for low, high, one in shown if low <= start and end <= high]
        assert around, (hex(start), hex(end), path)
        assert around[0]["protection"] == protection, (path, around)
        if path.startswith("/") and "deleted" not in path and "/dev/zero" not in path:
            assert around[0]["file"] == path, around
        for word in ("heap", "stack", "vdso"):
            if path == f"[{word}]":
                assert around[0]["kind"] == word, around
    total = process["memory"]["pages"]
    parts = [one["pages"] for *_, one in shown if "pages" in one]
    assert sum(part["here"] for part in parts) == total["here"]
    assert sum(part["parents"] for part in parts) == total["parents"] > 0
    anonymous = int(re.search(r"RssAnon:\s+(\d+)", (host.proc(victim.pid) / "status").read_text()).group(1)) // 4
    assert 0 < total["here"] + total["parents"] - total["zero"] <= anonymous + 32, (total, anonymous)
    objects = {one["kind"]: one for one in show(host, directory)["objects"]}
    assert objects["shared memory"]["bytes"] == 8 * 4096
    assert objects["deleted file"]["bytes"] == 4 * 4096 and objects["deleted file"]["path"].endswith("/gone")


KINDS = {
    "pipes": {"pipe"}, "fifo": {"fifo"}, "files": {"file"}, "eventfd": {"eventfd"}, "epoll": {"epoll"},
    "inotify": {"inotify"}, "signalfd": {"signalfd"}, "timerfd": {"timerfd"}, "unixpair": {"unix"}, "udp": {"udp"},
    "listen-tcp": {"tcp"}, "listen-unix": {"unix"}, "netlinks": {"netlink"}, "packets": {"packet"}, "tun": {"tun"},
}


@pytest.mark.parametrize("name", KINDS)
def test_descriptors(host, start_victim, tmp_path, name):
    victim = start_victim(host, name)
    directory = dump(host, victim.pid, tmp_path / "checkpoint")
    process = show(host, directory)["processes"][0]
    shown = {one["fd"]: one for one in process["descriptors"]}
    proc = host.proc(victim.pid)
    assert sorted(shown) == sorted(int(entry) for entry in os.listdir(proc / "fd"))
    assert KINDS[name] <= {one["kind"] for one in shown.values()}, shown
    for number, one in shown.items():
        facts = dict(line.split(":", 1) for line in (proc / "fdinfo" / str(number)).read_text().splitlines()
                     if ":" in line)
        flags = int(facts["flags"], 8)
        assert ("O_NONBLOCK" in one["flags"]) == bool(flags & os.O_NONBLOCK), (number, one, facts)
        assert one["close_on_exec"] == bool(flags & os.O_CLOEXEC), (number, one, facts)
        if one["kind"] != "pipe":
            assert one["flags"][0] == ["O_RDONLY", "O_WRONLY", "O_RDWR"][flags & 3], (number, one)
        if one["kind"] in ("file", "directory"):
            assert one["offset"] == int(facts["pos"]), (number, one)
            target = os.readlink(proc / "fd" / str(number))
            assert one["path"] == target.removesuffix(" (deleted)"), (number, one)
    text = command(host, "show", directory).stdout
    for number, one in shown.items():
        assert re.search(rf"^ +{number}  {one['kind']}\b", text, flags=re.M), (number, text)


def test_socket_addresses(host, start_victim, tmp_path):
    victim = start_victim(host, "listen-tcp")
    directory = dump(host, victim.pid, tmp_path / "checkpoint")
    sockets = [one for one in show(host, directory)["processes"][0]["descriptors"] if one["kind"] == "tcp"]
    listening = host.run(["ss", "-Hltn"]).stdout
    ports = {re.search(r":(\d+) ", line).group(1) for line in listening.splitlines()}
    shown = {one["local"].rsplit(":", 1)[1] for one in sockets if one["state"] == "listening"}
    assert shown and shown == ports, (sockets, listening)


def test_timers(host, start_victim, tmp_path):
    victim = start_victim(host, "timers")
    directory = dump(host, victim.pid, tmp_path / "checkpoint")
    timers = show(host, directory)["processes"][0]["timers"]
    assert {"real", "posix"} <= {timer["kind"] for timer in timers}, timers
    assert "Timers" in command(host, "show", directory).stdout


def test_files(calls):
    """Each image can be decoded alone; a page map agrees with the directory."""
    host, victim, directory = calls
    for path in directory.glob("*.img"):
        if not path.name.startswith("pages-"):
            seen = show(host, path)
            assert seen["problems"] == [] and path.name.startswith(seen["kind"] or path.name), seen
    tree = show(host, directory / "pstree.img")["entries"]
    assert [entry["entry"]["pid"] for entry in tree] == [victim.pid] and len(tree[0]["entry"]["threads"]) == 3
    pages = [entry["entry"]["nr_pages"] for entry in show(host, directory / f"pagemap-{victim.pid}.img")["entries"][1:]]
    total = show(host, directory)["processes"][0]["memory"]["pages"]
    assert sum(pages) == total["here"] + total["parents"]
    kinds = {entry["kind"] for entry in show(host, directory / "pagestream.state")["entries"]}
    assert {"pstree", "core", "mm"} <= kinds
    text = command(host, "show", directory / "pstree.img")
    assert text.returncode == 0 and f"pid: {victim.pid}\n" in text.stdout, text.stdout
    plain = command(host, "show", next(directory.glob("pages-*.img")))
    assert plain.returncode == 1 and "plain pages" in plain.stdout, plain.stdout


def test_incomplete(calls):
    host, victim, directory = calls
    (directory / "pagestream.seal").unlink()
    seen = show(host, directory, status=1)
    assert not seen["complete"] and "incomplete" in seen["problems"][0]
    assert seen["processes"][0]["pid"] == victim.pid and len(seen["processes"][0]["threads"]) == 3
    assert seen["processes"][0]["memory"]["pages"]["parents"] > 0
    done = command(host, "show", directory)
    assert done.returncode == 1 and "not a complete checkpoint" in done.stdout and str(directory) in done.stderr
    assert f"{victim.pid} calls" in done.stdout


def test_damaged(calls):
    """Without the state file, what the images say is shown, and the ones that are damaged are named."""
    host, victim, directory = calls
    (directory / "pagestream.state").unlink()
    core = directory / f"core-{victim.pid}.img"
    core.write_bytes(core.read_bytes()[:-100])
    seen = show(host, directory, status=1)
    assert any(core.name in problem for problem in seen["problems"]), seen["problems"]
    assert seen["processes"][0]["pid"] == victim.pid
    threads = {thread["tid"]: thread.get("ip") for thread in seen["processes"][0]["threads"]}
    assert threads[victim.pid] is None and sum(ip is not None for ip in threads.values()) == 2, threads
    assert len(seen["processes"][0]["descriptors"]) >= 3
    alone = show(host, core, status=1)
    assert core.name in alone["problems"][0] and "ends" in alone["problems"][0], alone


def test_damaged_pages(calls):
    """Pages are read only on demand; --verify says which have changed."""
    host, _, directory = calls
    pages = max(directory.rglob("pages-*.img"), key=lambda path: path.stat().st_size)
    data = bytearray(pages.read_bytes())
    data[100] ^= 1
    pages.write_bytes(data)
    assert show(host, directory)["problems"] == []
    seen = show(host, directory, "--verify", status=1)
    assert pages.name in seen["problems"][0] and seen["processes"], seen["problems"]


def test_images_alone(calls):
    """A directory with nothing but CRIU's images, as CRIU writes them."""
    host, victim, directory = calls
    for path in [directory, *directory.glob("pre-copy-*")]:
        for name in ("pagestream.seal", "pagestream.state"):
            if (path / name).exists():
                (path / name).unlink()
    for path in directory.glob("pre-copy-*"):
        shutil.copy(directory / "inventory.img", path)
    seen = show(host, directory)
    assert seen["chain"][0]["writer"] == "criu" and seen["processes"][0]["pid"] == victim.pid


def test_nothing(host, tmp_path):
    done = command(host, "show", tmp_path / "never-made")
    assert done.returncode == 1 and "never-made" in done.stderr and not done.stdout
    done = command(host, "show", "--json", tmp_path)
    assert done.returncode == 1 and "no checkpoint" in json.loads(done.stdout)["problems"][0]
    (tmp_path / "some.img").write_text("nothing that is known")
    done = command(host, "show", tmp_path / "some.img")
    assert done.returncode == 1 and "some.img" in done.stdout
