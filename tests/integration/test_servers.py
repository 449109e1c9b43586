# SPDX-License-Identifier: LGPL-2.1-or-later
"""nginx with four workers, and haproxy between it and its clients: moved with their addresses while clients are connected, that
see no connection lost, no answer missing and no wrong byte.
"""
import contextlib
import os

import pytest
from checkpoint import Place, dump, restore, wait_gone
from hosts import ROOT, Host, Lan
from pagestream import PageServer, send
from programs_web import Download, Haproxy, Load, Nginx, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

MOVE_ADDRESS = ROOT / "hooks" / "move-address"
TIMES = 5


class Site:
    """A LAN of a client, hosts a and b with page servers that a service moves between, and one that stays."""

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


@pytest.fixture
def site(two_hosts, keys, tmp_path):
    with Site(two_hosts, keys, tmp_path) as made:
        yield made


def there_and_back(site, program, mode, load, download):
    for _ in range(2 * TIMES):
        load.wait_answers()
        download.wait_bytes()
        site.move(program, mode)
    load.wait_answers()
    download.wait_bytes()
    load.end()
    download.end()


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_nginx(site, mode):
    with Nginx(site.a) as nginx, Load(site.client, site.addresses) as load, \
            Download(site.client, site.lan.service, nginx.digest) as download:
        there_and_back(site, nginx, mode, load, download)


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_haproxy(site, mode):
    """Its clients, and its own connections to a server on another host."""
    with Nginx(site.other) as nginx, Haproxy(site.a, site.lan.addresses["other"], site.lan.service) as haproxy, \
            Load(site.client, site.addresses) as load, Download(site.client, site.lan.service, nginx.digest) as download:
        there_and_back(site, haproxy, mode, load, download)


@pytest.mark.parametrize("mode", ["hybrid", "postcopy"])
def test_nginx_behind_haproxy(site, mode):
    """What moves is behind a proxy, which keeps connections to it open."""
    with Nginx(site.a) as nginx, Haproxy(site.other, site.lan.service, site.lan.addresses["other"]), \
            Load(site.client, [site.lan.addresses["other"], site.lan.addresses6["other"]]) as load, \
            Download(site.client, site.lan.addresses["other"], nginx.digest) as download:
        there_and_back(site, nginx, mode, load, download)


def checkpoint(program):
    """Ended, with all that its clients wait for, and back."""
    with Place() as place:
        directory = place.make()
        pids = program.processes()
        dump(program.host, place, program.pid, directory, "--tcp-established")
        wait_gone(program.host, pids)
        restore(program.host, place, directory, "--tcp-established")


def test_checkpoint_of_nginx(site):
    with Nginx(site.a) as nginx, Load(site.client, site.addresses) as load, \
            Download(site.client, site.lan.service, nginx.digest) as download:
        load.wait_answers()
        download.wait_bytes()
        checkpoint(nginx)
        load.wait_answers()
        load.end()
        download.end()


def test_checkpoint_of_haproxy(site):
    with Nginx(site.other) as nginx, Haproxy(site.a, site.lan.addresses["other"], site.lan.service) as haproxy, \
            Load(site.client, site.addresses) as load, Download(site.client, site.lan.service, nginx.digest) as download:
        load.wait_answers()
        download.wait_bytes()
        checkpoint(haproxy)
        load.wait_answers()
        load.end()
        download.end()
