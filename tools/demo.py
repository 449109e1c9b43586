#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Called by tools/demo. Two hosts on this machine (network, PID and mount namespaces of their own), redis-server on the
first, `pageserver` on the second, one `migrate send`.
"""
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "lib"))

import hosts  # noqa: E402
import pagestream  # noqa: E402
from programs import Redis  # noqa: E402


def say(text):
    print(f"\n** {text}", flush=True)


def move(a, b, server, keys):
    with pagestream.PageServer(b, keys) as target:
        say(f"pageserver listens on {target.to}; redis-server is PID {server.pid} on host a. Moving it:")
        argv = [pagestream.program("migrate"), "send", "--to", target.to, "--tls-dir", keys.dir, "--state-dir",
                target.state_dir / "source", "--tcp-close", server.pid]
        print("   ", " ".join(map(str, argv)), "\n", flush=True)
        if a.popen([str(word) for word in argv], stdin=subprocess.DEVNULL).wait() != 0:
            print(target.text())
            return 1
    return 0


def main():
    mib = int(sys.argv[1])
    keys = pagestream.Keys()
    with hosts.Host("a", pid_base=1000) as a, hosts.Host("b", pid_base=20000) as b, hosts.Net(a, b):
        with Redis(a, mib=mib) as server:
            say(f"filling redis-server with {mib} MiB")
            server.load()
            with server.writer() as writer:
                writer.wait_progress()
                if move(a, b, server, keys):
                    return 1
                server.host = b
                writer.allow(b)
                writer.wait_progress()
                writer.stop()
                say("it answers on host b; reading back every key, and every write that was acknowledged")
                server.verify(writer)
            say(f"all data is right; on host a PID {server.pid} is " +
                ("STILL THERE" if a.alive(server.pid) else "gone"))
    keys.remove()
    return 0


sys.exit(main())
