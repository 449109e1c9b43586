"""Checkpoint directories and crit, which comes with Debian's criu: every image can be decoded, and encoded again to the same
bytes; an image that was edited counts; and a directory without any file of ours is understood."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

BUILD = pathlib.Path(os.environ.get("PAGESTREAM_BUILD", pathlib.Path(__file__).parents[2] / "build"))
PROGRAM = BUILD / "tests/unit/test-image-directory"
CRIT = shutil.which("crit") or "/usr/bin/crit"
OURS = ["pagestream.state", "pagestream.seal"]

pytestmark = pytest.mark.skipif(not os.path.exists(CRIT), reason="crit (Debian package criu) is not installed")


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def crit(*arguments):
    status, out, err = run(CRIT, *arguments)
    assert status == 0, f"crit {arguments}: {err.decode()}"
    return out


def decode(path):
    return json.loads(crit("decode", "-i", path))


def encode(image, path):
    with open(f"{path}.json", "w", encoding="ascii") as file:
        json.dump(image, file)
    crit("encode", "-i", f"{path}.json", "-o", path)
    os.unlink(f"{path}.json")


def read(path):
    """What is in a directory: records by type and id, and the line that says what it is."""
    status, out, _ = run(PROGRAM, "read", path)
    lines = out.decode().splitlines()
    if status:
        return None, lines[-1]
    records = {}
    for line in lines[:-1]:
        kind, number, data = (line.split(" ") + [""])[:3]
        records.setdefault((kind, int(number)), []).append(data)
    return records, lines[-1]


def images(base):
    return sorted(path for path in base.rglob("*.img") if not path.name.startswith("pages-"))


@pytest.fixture(name="base")
def fixture_base(tmp_path):
    status, _, err = run(PROGRAM, "write", tmp_path)
    assert status == 0, err
    return tmp_path


def test_every_image_is_decoded_and_encoded_to_the_same_bytes(base):
    found = images(base)
    names = {path.name for path in found}
    for name in ("inventory.img", "pstree.img", "core-100.img", "core-101.img", "ids-100.img", "mm-100.img", "fs-100.img",
                 "fdinfo-100.img", "files.img", "pipes-data.img", "fifo-data.img", "sk-queues.img", "ghost-file-1e.img",
                 "remap-fpath.img", "memfd.img", "filelocks.img", "timens-0.img", "creds-100.img", "pagemap-100.img",
                 "pagemap-shmem-1.img", "pagemap-shmem-2.img", "eventpoll-tfd.img", "inotify-wd.img"):
        assert name in names
    for path in found:
        before = path.read_bytes()
        encode(decode(path), path)
        assert path.read_bytes() == before, path
    records, what = read(base / "top")
    assert what == "sealed 1 native 1 edited 0"
    assert records


def test_people_can_read_the_images(base):
    out = crit("decode", "--pretty", "-i", base / "top/mm-100.img").decode()
    assert "VMA_FILE_PRIVATE" in out
    inventory = decode(base / "top/inventory.img")["entries"][0]
    root = decode(base / "top/ids-100.img")["entries"][0]
    # CRIU takes equal numbers for something that the tree shares with itself, and refuses.
    assert inventory["root_ids"]["files_id"] != root["files_id"]
    # CRIU does not let the kernel repeat an interrupted system call: the registers do.
    registers = decode(base / "top/core-101.img")["entries"][0]["thread_info"]["gpregs"]
    assert (registers["ax"], registers["orig_ax"], registers["ip"]) == (230, 2**64 - 1, 0x401000 + 101 - 2)
    registers = decode(base / "top/core-100.img")["entries"][0]["thread_info"]["gpregs"]
    assert (registers["ax"], registers["ip"]) == (5, 0x401000 + 100)
    assert crit("show", base / "top/pstree.img")


def test_an_edited_image_counts(base):
    path = base / "top/core-101.img"
    image = decode(path)
    image["entries"][0]["thread_core"]["comm"] = "edited"
    image["entries"][0]["thread_info"]["fpregs"]["xmm_space"][0] = 0x11223344
    encode(image, path)
    records, error = read(base / "top")
    assert records is None
    assert "core-101.img" in error and "pagestream.seal" in error
    (base / "top/pagestream.seal").write_bytes(b"")
    records, what = read(base / "top")
    assert what == "sealed 0 native 1 edited 1"
    assert b"edited".hex() in records["core", 101][0]
    assert b"edited".hex() not in records["core", 100][0]
    # Our own record of the thread has the new register, and still what no image says.
    extra = bytes.fromhex(records["pagestream-thread", 101][0])
    assert bytes.fromhex("44332211") in extra
    assert bytes(range(200, 136, -1)) in extra


def test_what_is_not_edited_stays_as_it_was(base):
    sealed, _ = read(base / "top")
    (base / "top/pagestream.seal").write_bytes(b"")
    edited, what = read(base / "top")
    assert what == "sealed 0 native 1 edited 1"
    assert {key: sorted(data) for key, data in edited.items()} == {key: sorted(data) for key, data in sealed.items()}


def test_a_directory_of_crius_is_understood(base):
    ours, _ = read(base / "top")
    for directory in ("one", "two", "top"):
        for name in OURS:
            (base / directory / name).unlink()
    # By itself, a round without an inventory is nothing; under a checkpoint its pages count.
    status = read(base / "two")
    assert status[0] is None and "inventory.img" in status[1]
    records, what = read(base / "top")
    assert what == "sealed 0 native 0 edited 0"
    for kind in ("pstree", "core", "mm", "ids", "fs", "files", "fdinfo", "ghost-file", "remap-fpath", "sk-queues"):
        assert {key[1] for key in records if key[0] == kind} == {key[1] for key in ours if key[0] == kind}, kind
    for kind in ("pagestream-thread", "pagestream-process", "pagestream-mm"):
        assert {key[1] for key in records if key[0] == kind} == {key[1] for key in ours if key[0] == kind}, kind
    assert records["mm", 100] == ours["mm", 100]
    assert len(records["pagestream-shmem", 0]) == 2
    # Pages of one pipe become one piece.
    assert bytes.fromhex(records["pipes-data", 0][1]) == b"helloyou"
    # The opmask registers came by way of CRIU's fields.
    assert bytes(range(1, 65)) in bytes.fromhex(records["pagestream-thread", 101][0])


@pytest.mark.parametrize("change, words", [
    (lambda image: image["entries"][0].update(img_version=3), "version 3"),
    (lambda image: image["entries"][0].update(img_version=1), "version 1"),
])
def test_unknown_version(base, change, words):
    path = base / "top/inventory.img"
    image = decode(path)
    change(image)
    encode(image, path)
    (base / "top/pagestream.seal").write_bytes(b"")
    records, error = read(base / "top")
    assert records is None and words in error and "inventory.img" in error


def test_another_architecture(base):
    path = base / "top/core-100.img"
    image = decode(path)
    image["entries"][0]["mtype"] = "AARCH64"
    encode(image, path)
    (base / "top/pagestream.seal").write_bytes(b"")
    records, error = read(base / "top")
    assert records is None and "architecture" in error and "core-100.img" in error


def test_what_cannot_be_restored_is_named(base):
    (base / "top/pagestream.seal").write_bytes(b"")
    (base / "top/utsns-5.img").write_bytes(b"")
    records, error = read(base / "top")
    assert records is None and "utsns-5.img" in error and "UTS namespace" in error


VICTIM = """
import mmap, os, signal, tempfile, time
read_end, write_end = os.pipe()
os.write(write_end, b"in the pipe")
memfd = os.memfd_create("victim")
os.ftruncate(memfd, 8192)
shared = mmap.mmap(memfd, 8192)
shared[4096:4106] = b"in a memfd"
deleted = open("deleted", "w+b")
deleted.write(b"deleted".ljust(5000, b"."))
deleted.flush()
os.unlink("deleted")
def answer(*_):
    deleted.seek(0)
    with open("result.new", "wb") as result:
        result.write(os.read(read_end, 11) + b", " + shared[4096:4106] + b", " + deleted.read()[:7])
    os.rename("result.new", "result")
signal.signal(signal.SIGUSR1, answer)
open("ready", "w").close()
while True:
    time.sleep(1000)
"""


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def test_a_process_comes_back_from_crius_images_alone(tmp_path):
    migrate, images_dir = BUILD / "tools/migrate", tmp_path / "images"
    images_dir.mkdir()
    victim = subprocess.Popen(["/usr/bin/python3", "-c", VICTIM], cwd=tmp_path, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    restored = False
    try:
        wait_for(tmp_path / "ready")
        status, _, err = run(migrate, "dump", "-t", victim.pid, "-D", images_dir)
        assert status == 0, err
        victim.wait(30)
        for name in OURS:
            for path in images_dir.rglob(name):
                path.unlink()
        for path in images(images_dir):
            encode(decode(path), path)
        status, _, err = run(migrate, "restore", "-D", images_dir, "-d", stdin=subprocess.DEVNULL)
        assert status == 0, err
        restored = True
        os.kill(victim.pid, signal.SIGUSR1)
        wait_for(tmp_path / "result")
        assert (tmp_path / "result").read_bytes() == b"in the pipe, in a memfd, deleted"
    finally:
        if restored:
            os.kill(victim.pid, signal.SIGKILL)
        elif victim.poll() is None:
            victim.kill()
            victim.wait()
