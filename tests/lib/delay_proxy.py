#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""delay_proxy.py LISTEN:PORT TARGET:PORT DELAY_MS: forwards TCP, and holds every byte back for so
long, each way.

Stands in for a long line where the kernel has no netem. Bandwidth is not limited: bytes that came
together leave together. From a test: `with DelayProxy(host, "10.77.0.2:7711", 20) as proxy: ...
proxy.to ...`.
"""
import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time


async def hold(reader, writer, delay):
    """Copies one direction: one task reads and stamps, this one writes when the time has come."""
    queue = asyncio.Queue(maxsize=4096)

    async def collect():
        while True:
            try:
                data = await reader.read(1 << 18)
            except OSError:
                data = b""
            await queue.put((time.monotonic() + delay, data))
            if not data:
                return

    collector = asyncio.ensure_future(collect())
    try:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0, due - time.monotonic()))
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        collector.cancel()


async def serve(listen, target, delay):
    async def one(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(hold(reader, far_writer, delay), hold(far_reader, writer, delay))
        finally:
            writer.close()
            far_writer.close()

    server = await asyncio.start_server(one, *listen, limit=1 << 20)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


def split(text):
    address, _, port = text.rpartition(":")
    return address, int(port)


class DelayProxy:
    """The proxy as a process on a host; `to` is where to connect instead."""

    def __init__(self, host, target, delay_ms, port=7799, address="127.0.0.1"):
        self.to = f"{address}:{port}"
        self.process = host.popen([sys.executable, pathlib.Path(__file__).resolve(), self.to,
                                   target, str(delay_ms)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "listening":
            raise RuntimeError("delay proxy: cannot listen on " + self.to)
        # nsenter itself does not pass a signal on: its child is the one to end.
        task = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        self.children = [int(pid) for pid in (task / "children").read_text().split()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(10)
        self.process.stdout.close()


if __name__ == "__main__":
    try:
        asyncio.run(serve(split(sys.argv[1]), split(sys.argv[2]), float(sys.argv[3]) / 1000))
    except KeyboardInterrupt:
        pass
