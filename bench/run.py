#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the benchmarks (README.md beside this file says how they measure) and writes JSON, a table and a picture.

Exit status: 0 when everything was measured, whether it reaches its goal or not; 1 when something could not be measured;
77 when this machine cannot run them at all.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "lib"))
sys.path.insert(0, str(HERE))


class Work:
    """One line of the table: a name, what is measured, and the goal. `of` names the measurement that gives it."""

    def __init__(self, name, of, text, unit, goal, later, criu, key, most=True):
        self.name = name      # in --only, JSON
        self.of = of          # measurement
        self.text = text      # for people
        self.unit = unit      # ms, us, MiB or "" (a share)
        self.goal = goal      # reach now
        self.later = later    # where this is going
        self.criu = criu      # what CRIU 4.2 does on such a machine
        self.key = key        # which of the measurement's samples
        self.most = most      # the goal is a maximum (else a minimum)


WORKS = [
    Work("downtime-16m", "16m", "downtime, 16 MiB, one thread", "ms", 10, 1, "39-49", "longest_ms"),
    Work("downtime-16m-256t", "16m-256t", "downtime, 16 MiB, 256 threads", "ms", 40, 10, "104-161", "longest_ms"),
    Work("downtime-1g", "1g", "downtime, 1 GiB, 12,000 pages/s, hybrid", "ms", 15, 2, "98-116 lazy", "longest_ms"),
    Work("downtime-8g", "8g", "downtime, 8 GiB, 12,000 pages/s, hybrid", "ms", 40, 8, "504-539 lazy", "longest_ms"),
    Work("stalls-8g", "8g", "stalls over 2 ms, 8 GiB, the same", "ms", 500, 20, "19,000-56,000 lazy", "stalls_ms"),
    Work("throughput", "throughput", "bytes/s, of a plain TLS stream", "", 0.6, 0.9, "0.1-0.2", "share", most=False),
    Work("rate", "rate", "victim's own rate during pre-copy", "", 0.9, 0.97, "-", "share", most=False),
    Work("memory", "throughput", "memory of pageserver receiving 1 GiB", "MiB", 64, 32, "-", "server_mib"),
    Work("scale-processes", "processes", "downtime, for each process", "us", 300, 100, "-", "each_us"),
    Work("scale-threads", "threads", "downtime, for each thread", "us", 20, 10, "400", "each_us"),
    Work("scale-descriptors", "descriptors", "downtime, for each descriptor", "us", 20, 10, "-", "each_us"),
    Work("scale-mappings", "mappings", "downtime, for each mapping", "us", 4, 2, "-", "each_us"),
    Work("scale-connections", "connections", "downtime, for each TCP connection", "us", 60, 30, "-", "each_us"),
    Work("checkpoint-16m", "checkpoint", "dump, end and restore, 16 MiB, downtime", "ms", 10, 10, "39-49", "busy_ms"),
    Work("leave-running-1g", "leave_running", "dump --leave-running, 1 GiB, 12,000 pages/s, pause", "ms", 15, 15, "380",
         "longest_ms"),
    Work("restore-1g", "restore", "restore, 1 GiB from tmpfs, until it runs", "ms", 250, 250, "460", "plain_ms"),
    Work("restore-1g-lazy", "restore", "the same with --lazy-pages", "ms", 15, 15, "-", "lazy_ms"),
    Work("dump-rate", "dump_rate", "dump of 1 GiB, bytes/s, of cp", "", 0.9, 0.9, "0.9", "share", most=False),
]

# Measurements of downtime: what the victim `tick` is given (MiB, pages a second, idle threads).
MOVES = {
    "16m": (16, 0, 0),
    "16m-256t": (16, 0, 256),
    "1g": (1024, 12000, 0),
    "8g": (8192, 12000, 0),
}
# Measurements of how downtime grows: sizes, and where the victim `tick` takes the number.
SCALES = {
    "processes": ([100, 400, 1000], 3),
    "threads": ([100, 800, 2000], 2),
    "descriptors": ([1000, 8000, 19600], 4),
    "mappings": ([1000, 10000, 30000], 5),
    "connections": ([500, 2000, 5000], None),  # with peers.py
}
QUICK_MIB = 64
# Measurements of checkpoints, and the size of the victim.
CHECKPOINTS = {"checkpoint": 16, "leave_running": 1024, "restore": 1024, "dump_rate": 1024}
MEASUREMENTS = [*MOVES, *SCALES, "throughput", "rate", *CHECKPOINTS]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.environ.get("PAGESTREAM_BUILD", str(HERE.parent / "build")))
    parser.add_argument("--output", help="directory for the results (default: BUILD/bench/results)")
    parser.add_argument("--runs", type=int, help="moves per measurement (default: 10; 2 with --quick)")
    parser.add_argument("--only", default="", help="measurements, separated by commas")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see whether it works, not how fast it is")
    parser.add_argument("--list", action="store_true", help="name the measurements and stop")
    parser.add_argument("--no-warm", action="store_true", help="do not touch the machine's memory first")
    parser.add_argument("--mode", default="hybrid", help="of the moves whose downtime is measured")
    parser.add_argument("--ciphers", default="TLS_AES_128_GCM_SHA256",
                        help="cipher suite of the plain TLS stream (default: the page server's first choice)")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs or (2 if arguments.quick else 10)
    arguments.output = pathlib.Path(arguments.output or pathlib.Path(arguments.build) / "bench" / "results")
    wanted = [name for name in arguments.only.split(",") if name]
    for name in wanted:
        if name not in MEASUREMENTS:
            parser.error(f"--only: there is no {name}; {', '.join(MEASUREMENTS)}")
    arguments.measurements = wanted or MEASUREMENTS
    return arguments


def machine():
    """What the figures depend on."""
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    model = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return {"kernel": platform.release(), "cores": os.cpu_count(), "processor": model[0] if model else "unknown",
            "memory_mib": int(memory) // 1024, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}


def summarize(samples, work):
    """Median and worst of the samples that a line of the table is made of; None when there are none."""
    values = [sample[work.key] for sample in samples if sample.get(work.key) is not None]
    if not values:
        return None
    return {"name": work.name, "text": work.text, "unit": work.unit, "median": statistics.median(values),
            "worst": max(values) if work.most else min(values), "runs": len(values), "values": values,
            "goal": work.goal, "later": work.later, "criu": work.criu,
            "reached": statistics.median(values) <= work.goal if work.most else statistics.median(values) >= work.goal}


def table(lines):
    """The lines as text."""
    rows = [("work", "CRIU 4.2", "goal", "later", "median", "worst", "runs", "")]
    for line in lines:
        digits = 2 if line["unit"] == "" else 1
        rows.append((line["text"], line["criu"], str(line["goal"]), str(line["later"]),
                     f"{line['median']:.{digits}f} {line['unit']}".strip(), f"{line['worst']:.{digits}f}",
                     str(line["runs"]), "reached" if line["reached"] else "short of it"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows) + "\n"


def write_results(arguments, results):
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = [line for line in (summarize(results["samples"].get(work.of, []), work) for work in WORKS) if line]
    results["table"] = lines
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(lines)
    (arguments.output / "results.txt").write_text(text)
    return text


def main():
    arguments = parse_arguments()
    if arguments.list:
        print("\n".join(MEASUREMENTS))
        return 0
    os.environ["PAGESTREAM_BUILD"] = str(pathlib.Path(arguments.build).resolve())
    import conftest
    import measure
    import picture

    reason = conftest.missing_reason() or measure.missing_reason()
    if reason:
        print(f"cannot measure here: {reason}")
        return 77
    results = {"machine": machine(), "quick": arguments.quick, "mode": arguments.mode, "samples": {}, "failures": []}
    with measure.Bench(arguments) as bench:
        for name in arguments.measurements:
            print(f"{name}:", flush=True)
            try:
                if name in MOVES:
                    mib, pages, threads = MOVES[name]
                    mib = min(mib, QUICK_MIB) if arguments.quick else mib
                    samples = bench.downtime(mib, pages, threads)
                elif name in SCALES:
                    sizes, place = SCALES[name]
                    samples = bench.scale(sizes[:2] if arguments.quick else sizes, place)
                else:
                    mib = CHECKPOINTS.get(name, 1024)
                    samples = getattr(bench, name)(min(mib, QUICK_MIB) if arguments.quick else mib)
            except (AssertionError, OSError, RuntimeError, TimeoutError) as e:
                print(f"  FAILED: {e}", flush=True)
                results["failures"].append({"measurement": name, "error": str(e)})
                samples = []
            results["samples"][name] = samples + bench.partial
            bench.partial = []
            text = write_results(arguments, results)
    print(f"\n{text}\n{arguments.output}/results.json")
    picture.draw(results, arguments.output / "results.svg")
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
