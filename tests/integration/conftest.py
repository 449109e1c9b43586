# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the modules and fixtures of tests/lib known here."""
import importlib.util
import pathlib
import sys

LIB = pathlib.Path(__file__).resolve().parents[1] / "lib"
sys.path.insert(0, str(LIB))

_spec = importlib.util.spec_from_file_location("lib_conftest", LIB / "conftest.py")
_lib = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_lib)
can_make_hosts, host, two_hosts, lan, start_victim, keys, page_server, site = (
    _lib.can_make_hosts, _lib.host, _lib.two_hosts, _lib.lan, _lib.start_victim, _lib.keys, _lib.page_server, _lib.site)
