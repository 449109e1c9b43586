# SPDX-License-Identifier: LGPL-2.1-or-later
"""A hook that takes the service's addresses of a Lan along."""
import contextlib
import threading
import time


class Address:
    """A hook that has the test move the service's address while nobody runs."""

    def __init__(self, lan, directory):
        self.lan, self.directory = lan, directory
        self.path = directory / "hook"
        self.path.write_text(f"#!/bin/sh\n[ $1 = post-freeze ] || exit 0\n: > {directory}/wanted\n"
                             f"while [ -e {directory}/wanted ]; do sleep 0.005; done\n")
        self.path.chmod(0o755)

    @contextlib.contextmanager
    def goes_to(self, host):
        ended = threading.Event()

        def serve():
            while not ended.is_set():
                if (self.directory / "wanted").exists():
                    self.lan.give(host)
                    (self.directory / "wanted").unlink()
                time.sleep(0.002)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(self.path)
        finally:
            ended.set()
            thread.join()
