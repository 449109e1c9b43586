# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a victim with TCP connections is connected to: a third host, on a network where the victim's address moves with it."""
import contextlib
import pathlib
import resource
import tempfile
import threading

import address_hook
import hosts


class Peers:
    """Accepts `count` connections, holds them, and says nothing."""

    def __init__(self, a, b, count):
        self.a, self.b, self.count = a, b, count
        self.accepted = []

    def __enter__(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            client = stack.enter_context(hosts.Host("client", pid_base=40000))
            self.lan = stack.enter_context(hosts.Lan(client, self.a, self.b))
            self.lan.give(self.a)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            self.address = address_hook.Address(self.lan, pathlib.Path(scratch))
            self.listener = stack.enter_context(client.listen(self.lan.addresses["client"]))
            stack.callback(lambda: [connection.close() for connection in self.accepted])
            thread = threading.Thread(target=self._accept, daemon=True)
            thread.start()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *failure):
        return self.stack.__exit__(*failure)

    def _accept(self):
        while len(self.accepted) < self.count:
            self.accepted.append(self.listener.accept()[0])

    def arguments(self):
        """Of `tick`, for its connections: their number, where from, where to."""
        return [self.count, self.lan.service, self.lan.addresses["client"], self.listener.getsockname()[1]]

    def goes_to(self, host):
        """Context manager: a hook that takes the address along to that host."""
        return self.address.goes_to(host)


class Nobody:
    """For victims without connections."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def arguments(self):
        return []

    def goes_to(self, _):
        return contextlib.nullcontext()
