# SPDX-License-Identifier: LGPL-2.1-or-later
"""A LAN for servers that move together with their addresses (hooks/move-address), while their clients are connected.

    with ServiceLan(two_hosts, keys, tmp_path) as site, Nginx(site.a) as nginx:
        site.client.connect(site.lan.service, 8080)
        site.move(nginx, "hybrid")              # to site.b
        site.move(nginx, "hybrid")              # and back
        site.checkpoint(nginx)                  # dumped, and restored where it was

What moves is anything with pid, host, processes() and log().
"""
import contextlib
import os

from checkpoint import Place, dump, restore, wait_gone
from hosts import ROOT, Host, Lan
from pagestream import PageServer, send

MOVE_ADDRESS = ROOT / "hooks" / "move-address"


class ServiceLan:
    """Hosts a and b with page servers that a service moves between, one with clients, and one other that stays."""

    def __init__(self, two_hosts, keys, directory):
        self.a, self.b, _ = two_hosts
        self.keys = keys
        self.config = directory / "move-address"
        self.env = {**os.environ, "MOVE_ADDRESS_CONFIG": str(self.config)}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.client = stack.enter_context(Host("client", pid_base=40000))
            self.other = stack.enter_context(Host("other", pid_base=50000))
            self.lan = stack.enter_context(Lan(self.client, self.a, self.b, self.other))
            self.addresses = [self.lan.service, self.lan.service6]
            self.config.write_text(f'device={self.lan.device}\naddresses="{self.lan.service}/32 {self.lan.service6}/128"\n')
            self.lan.give(self.a)
            self.servers = [stack.enter_context(PageServer(host, self.keys, args=["--hook", MOVE_ADDRESS], env=self.env))
                            for host in (self.a, self.b)]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *failure):
        return self.stack.__exit__(*failure)

    def move(self, program, mode):
        """To the one of a and b where it is not."""
        to_b = program.host is self.a
        done = send(program.host, self.servers[to_b], program.pid, mode=mode, hook=MOVE_ADDRESS, env=self.env)
        assert done.status == 0, f"{done.text()}\n{program.log()}"
        assert "hook" not in done.stderr, done.text()
        program.host = self.b if to_b else self.a

    def checkpoint(self, program):
        """Ended, with all that its clients wait for, and back."""
        with Place() as place:
            directory = place.make()
            pids = program.processes()
            dump(program.host, place, program.pid, directory, "--tcp-established")
            wait_gone(program.host, pids)
            restore(program.host, place, directory, "--tcp-established")
