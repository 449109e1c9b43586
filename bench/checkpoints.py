# SPDX-License-Identifier: LGPL-2.1-or-later
"""The measurements of checkpoint directories, on tmpfs. Each returns its samples, one dict per dump or restore."""
import shutil
import subprocess
import time

import checkpoint
from victim import Victim

QUIET = (0, 0)         # of the victim `tick`: pages written a second, idle threads
BUSY = (12000, 0)


class Checkpoints:
    """Methods of a Bench (measure.py): host a is where everything happens."""

    def _account(self, victim):
        return self.account(victim)["longest_ms"]

    def checkpoint(self, mib):
        """From the last tick before the dump's freeze to the first one after the restore: dump, end, restore."""
        self.partial = samples = []
        with checkpoint.Place() as place, Victim(self.a, "tick", (mib, *QUIET)) as victim:
            for run in range(self.runs):
                directory = place.make(f"run-{run}")
                pids = self.a.tree(victim.pid)
                self.account(victim)
                said = checkpoint.dump(self.a, place, victim.pid, directory)
                checkpoint.wait_gone(self.a, pids)
                ready = checkpoint.restore(self.a, place, directory)["ready_ms"]
                samples.append({"longest_ms": self._account(victim), "frozen_ms": said["downtime_ms"], "ready_ms": ready,
                                "busy_ms": said["downtime_ms"] + ready})
                print(f"  {run + 1}: longest gap {samples[-1]['longest_ms']:.1f} ms, of these stopped {said['downtime_ms']:.1f}, "
                      f"restored in {ready:.1f}", flush=True)
                shutil.rmtree(directory)
        self.partial = []
        return samples

    def leave_running(self, mib):
        """The pause that a process sees which goes on, while it writes."""
        self.partial = samples = []
        with checkpoint.Place() as place, Victim(self.a, "tick", (mib, *BUSY)) as victim:
            for run in range(self.runs):
                directory = place.make(f"run-{run}")
                self.account(victim)
                said = checkpoint.dump(self.a, place, victim.pid, directory, "--leave-running")
                samples.append({"longest_ms": self._account(victim), "said_ms": said["downtime_ms"]})
                print(f"  {run + 1}: longest gap {samples[-1]['longest_ms']:.1f} ms, migrate: {said['downtime_ms']:.1f} ms, "
                      f"{said['rounds']} rounds", flush=True)
                shutil.rmtree(directory)
                time.sleep(0.5)
        self.partial = []
        return samples

    def restore(self, mib):
        """Until it runs: with all pages, and with those to come."""
        self.partial = samples = []
        with checkpoint.Place() as place, Victim(self.a, "tick", (mib, *QUIET)) as victim:
            directory = place.make()
            pids = self.a.tree(victim.pid)
            checkpoint.dump(self.a, place, victim.pid, directory)
            for run in range(self.runs):
                sample = {}
                for key, words in (("plain_ms", ()), ("lazy_ms", ("--lazy-pages",))):
                    checkpoint.wait_gone(self.a, pids)
                    sample[key] = checkpoint.restore(self.a, place, directory, *words)["ready_ms"]
                    self.account(victim)
                    self.a.kill(victim.pid)
                samples.append(sample)
                print(f"  {run + 1}: runs after {sample['plain_ms']:.0f} ms, with --lazy-pages {sample['lazy_ms']:.1f}",
                      flush=True)
        self.partial = []
        return samples

    def dump_rate(self, mib):
        """Bytes a second of a dump of memory that nobody writes to, against cp of its largest file just before and after."""
        self.partial = samples = []
        with checkpoint.Place() as place, Victim(self.a, "tick", (mib, *QUIET)) as victim:
            for run in range(self.runs):
                directory = place.make(f"run-{run}")
                said = checkpoint.dump(self.a, place, victim.pid, directory, "--leave-running")
                largest = max(directory.rglob("pages-*.img"), key=lambda path: path.stat().st_size)
                rates = [_copy_rate(largest, place.path / "copy") for _ in range(2)]
                rate = said["bytes"] / said["total_ms"] * 1000
                samples.append({"bytes_per_s": rate, "cp_bytes_per_s": max(rates), "share": rate / max(rates)})
                print(f"  {run + 1}: dump {rate / 1e6:.0f} MB/s, cp {max(rates) / 1e6:.0f} MB/s", flush=True)
                shutil.rmtree(directory)
        self.partial = []
        return samples


def _copy_rate(source, target):
    start = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    rate = source.stat().st_size / (time.monotonic() - start)
    target.unlink()
    return rate
