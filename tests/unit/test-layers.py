# SPDX-License-Identifier: LGPL-2.1-or-later
"""The folders of src/ are layers: fails on an #include that points upward or sideways, on a dependency
that a folder's meson.build declares beyond its layers, and on uv.h or OpenSSL outside of their seams.

    test-layers.py REPOSITORY
"""
import pathlib
import re
import sys

# What each folder may include, besides itself. "proto" stands for the generated *.pb-c.h.
LAYERS = {
    "util": set(),
    "image": {"util", "proto"},
    "net": {"util", "proto"},
    "transport": {"util", "proto"},
    "tracee": {"util"},
    "track": {"tracee", "util"},
    "dump": {"tracee", "image", "net", "util", "proto"},
    "restore": {"tracee", "image", "net", "util", "proto"},
    "lazy": {"tracee", "transport", "util", "proto"},
    "pageserver": {"restore", "lazy", "transport", "tracee", "image", "net", "util", "proto"},
    "checkpoint": {"restore", "lazy", "transport", "tracee", "image", "net", "util", "proto"},
    "migrate": {"dump", "track", "transport", "tracee", "image", "net", "util", "proto"},
}

# Libraries that sit behind a seam, and the folders that are it.
SEAMS = {
    "nftables/": {"net"},
    "openssl/": {"transport"},
    "lz4": {"transport"},
    "uv.h": {"pageserver", "migrate"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')
DEPENDENCY = re.compile(r"\bdep_(\w+)")


def wrong_includes(folder, allowed):
    """Yields a line for each #include of the folder's files that its layer does not allow."""
    for path in sorted(folder.rglob("*.[chS]")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            where = f"{path.parent.name}/{path.name}:{number}"
            name = found.group(2)
            for library, seam in SEAMS.items():
                if name.startswith(library) and folder.name not in seam:
                    yield f"{where}: {name} belongs behind {' and '.join(sorted(seam))}"
            if found.group(1) != '"':
                continue
            layer = "proto" if name.endswith(".pb-c.h") else name.split("/")[0]
            if name.startswith("../"):
                yield f"{where}: {name}: write it from src/"
            elif ("/" in name or layer == "proto") and layer != folder.name and layer not in allowed:
                yield f"{where}: {folder.name} may not include {name}"


def wrong_dependencies(folder, allowed):
    """Yields a line for each layer that the folder's meson.build names and may not."""
    build = folder / "meson.build"
    if not build.exists():
        return
    for name in sorted(set(DEPENDENCY.findall(build.read_text()))):
        if (name in LAYERS or name == "proto") and name != folder.name and name not in allowed:
            yield f"src/{folder.name}/meson.build: {folder.name} may not depend on {name}"


def main():
    source = pathlib.Path(sys.argv[1]) / "src"
    wrong = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if folder.name not in LAYERS:
            wrong.append(f"src/{folder.name}: a folder without a layer: add it to {sys.argv[0]}")
            continue
        wrong += wrong_includes(folder, LAYERS[folder.name])
        wrong += wrong_dependencies(folder, LAYERS[folder.name])
    print("\n".join(wrong) if wrong else f"{len(LAYERS)} layers, no include upward or sideways")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
