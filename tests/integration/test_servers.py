# SPDX-License-Identifier: LGPL-2.1-or-later
"""nginx with four workers, and haproxy between it and its clients: moved with their addresses while clients are connected, that
see no connection lost, no answer missing and no wrong byte.
"""
import pytest
from programs_web import Download, Haproxy, Load, Nginx, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

TIMES = 5


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


def test_checkpoint_of_nginx(site):
    with Nginx(site.a) as nginx, Load(site.client, site.addresses) as load, \
            Download(site.client, site.lan.service, nginx.digest) as download:
        load.wait_answers()
        download.wait_bytes()
        site.checkpoint(nginx)
        load.wait_answers()
        load.end()
        download.end()


def test_checkpoint_of_haproxy(site):
    with Nginx(site.other) as nginx, Haproxy(site.a, site.lan.addresses["other"], site.lan.service) as haproxy, \
            Load(site.client, site.addresses) as load, Download(site.client, site.lan.service, nginx.digest) as download:
        load.wait_answers()
        download.wait_bytes()
        site.checkpoint(haproxy)
        load.wait_answers()
        load.end()
        download.end()
