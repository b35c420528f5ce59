# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What ranks send in a step and how long it takes (tests/benchmarks/run exchange calls it).

Each round starts every setting once, ours and TorchRec's in turn, all on the same ids. Printed are, as means over ranks and steps, the bytes and
messages that a rank sends, beside the formulas, and of the 25th percentiles of step times of the rounds the median, the least and the most;
the CPU time of a rank, which other work on the machine disturbs less; the time of a step that is in collectives, waiting included. The last
line is JSON.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from workloads import WORKLOADS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ["ROOKERY_BUILD"]) / "tests/benchmark_exchange"
COPIED_ROWS = 16384  # of a table with a copy on every rank: 8 MB
# (kind, how pooled values travel, topologies)
OURS = [("table_wise", "fewest_bytes", ("threads", "gloo", "mpi")), ("row_wise", "fewest_bytes", ("threads", "gloo", "mpi")),
        ("row_wise", "partial_sums", ("gloo",)), ("row_wise", "unique_rows", ("gloo",)), ("column_wise", "fewest_bytes", ("gloo",)),
        ("data_parallel", "fewest_bytes", ("gloo",))]
PEERS = ["table_wise", "column_wise", "auto"]
TABLES = {name: WORKLOADS[name] for name in ("W1", "W2s")}


def available_gigabytes():
    return next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable")) / 1e6


def start(command, **environment):
    """The JSON that the command prints, or a sentence that says why there is none."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ROOKERY_RANKS", "ROOKERY_TOPOLOGY")}
    try:
        ended = subprocess.run([str(word) for word in command], env={**kept, **environment}, text=True, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "it did not end in 600 s"
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = [line for line in ended.stderr.splitlines() if line.strip()]
    errors = [line for line in said if "Error: " in line] or said or ["it ended with status %d" % ended.returncode]
    return errors[0].strip()[:300]


def settings(options):
    for workload in options.workloads:
        for kind, exchange, topologies in OURS:
            for topology in topologies:
                if kind in options.kinds and topology in options.topologies:
                    yield {"side": "rookery", "workload": workload, "kind": kind, "exchange": exchange, "topology": topology}
        for kind in PEERS if options.peers else []:
            if kind in [*options.kinds, "auto"]:
                yield {"side": "torchrec", "workload": workload, "kind": kind, "exchange": "", "topology": "gloo"}


def run_once(one, options, ids):
    if one["side"] == "torchrec":
        work = TABLES[one["workload"]]
        given = {**work, "rows": [min(count, options.most_rows) for count in work["rows"]], "workload": one["workload"], "kind": one["kind"],
                 "steps": options.steps, "warm_up": options.warm_up, "ids": str(ids[one["workload"]])}
        script = ROOT / "tests/benchmarks/peers/torchrec_exchange.py"
        return start([ROOT / "examples/launch", options.ranks, os.environ["ROOKERY_PEERS"], script, json.dumps(given)])
    most_rows = min(options.most_rows, COPIED_ROWS) if one["kind"] == "data_parallel" else options.most_rows
    given = {**{name: one[name] for name in ("workload", "kind", "exchange")}, "precision": options.precision, "steps": options.steps,
             "warm_up": options.warm_up, "alpha": options.alpha, "most_rows": most_rows}
    command = [PROGRAM, *(f"{name}={value}" for name, value in given.items())]
    if one["topology"] == "threads":
        return start(command, ROOKERY_RANKS=str(options.ranks), ROOKERY_TOPOLOGY="threads")
    if one["topology"] == "gloo":
        return start([ROOT / "examples/launch", options.ranks, *command])
    return start([ROOT / "examples/mpirun", options.ranks, *command], ROOKERY_TOPOLOGY="mpi")


def summary(one, runs):
    p25 = [statistics.quantiles(run["step_us"], n=4)[0] / 1e3 for run in runs]
    found = {**one, "rounds": len(runs), "step_ms": statistics.median(p25), "least_ms": min(p25), "most_ms": max(p25),
             "cpu_ms": min(run["cpu_us"] for run in runs) / 1e3}
    for phase in ("forward", "step"):
        if phase in runs[0]:
            found[phase] = {**runs[0][phase], "exchange_us": statistics.median(run[phase]["exchange_us"] for run in runs)}
    return found


def row(one):
    cells = [one["workload"], one["side"], one["topology"], one["kind"] + (f", {one['exchange']}" if one["exchange"] else "")]
    for phase in ("forward", "step"):
        sent = one.get(phase)
        cells += [f"{sent['bytes']:,} ({sent['formula']:,})", str(sent["messages"])] if sent else ["", ""]
    return [*cells, f"{one['step_ms']:.1f} [{one['least_ms']:.1f}, {one['most_ms']:.1f}]", f"{one['cpu_ms']:.1f}",
            f"{(one['forward']['exchange_us'] + one['step']['exchange_us']) / 1e3:.1f}" if "forward" in one else ""]


def main():
    parser = argparse.ArgumentParser(prog="tests/benchmarks/run exchange", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    listed = lambda text: text.split(",")
    kinds = list(dict.fromkeys(kind for kind, _, _ in OURS))
    parser.add_argument("--workloads", type=listed, default=list(TABLES), help="W1: 32 tables of 100,000 rows, W2s: the 26 of DLRM-DCNv2, cut")
    parser.add_argument("--kinds", type=listed, default=kinds, help=",".join(kinds))
    parser.add_argument("--topologies", type=listed, default=["threads", "gloo", "mpi"], help="threads,gloo,mpi")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--alpha", type=float, default=1.05, help="ids follow the law rank^-alpha; 0: uniform")
    parser.add_argument("--precision", default="fp32", help="of numbers on their way: fp32, fp16, bf16; TorchRec's are fp32")
    parser.add_argument("--most-rows", type=int, default=1_000_000 if available_gigabytes() > 8 else 100_000,
                        help="larger tables are cut to as many rows (default: 1,000,000, or 100,000 where less than 8 GB are free)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="without TorchRec")
    options = parser.parse_args()
    if options.peers and not os.environ.get("ROOKERY_PEERS"):
        print("TorchRec cannot be installed here: our figures alone")
        options.peers = False

    runs, failures = {}, {}
    everything = [(json.dumps(one), one) for one in settings(options)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rookery_exchange_") as folder:
        ids = {workload: pathlib.Path(folder) / workload for workload in options.workloads if options.peers}
        for workload, file in ids.items():
            subprocess.run([PROGRAM, f"workload={workload}", f"ids={file}", f"ranks={options.ranks}", f"alpha={options.alpha}",
                            f"most_rows={options.most_rows}"], check=True)
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for key, one in everything:
                if key in failures:
                    continue
                run = run_once(one, options, ids)
                if isinstance(run, dict):
                    runs.setdefault(key, []).append(run)
                else:
                    failures[key] = run

    found = [summary(one, runs[key]) for key, one in everything if key in runs]
    head = ["", "", "over", "", "forward: bytes (formula)", "messages", "step: bytes (formula)", "messages", "ms a step, p25 [least, most]",
            "CPU ms, least", "ms in collectives"]
    lines = [head, *map(row, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"{options.ranks} ranks, batch 512, {options.steps} steps in each of {options.rounds} rounds, alpha {options.alpha}, tables of up to "
          f"{options.most_rows:,} rows (copied ones {min(options.most_rows, COPIED_ROWS):,}), load average {load:.1f} before and "
          f"{os.getloadavg()[0]:.1f} after")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    for key, one in everything:
        if key in failures:
            print(f"{one['workload']} {one['side']} {one['topology']} {one['kind']}: {failures[key]}")
    print(json.dumps({"ranks": options.ranks, "rounds": options.rounds, "steps": options.steps, "alpha": options.alpha,
                      "precision": options.precision, "most_rows": options.most_rows, "settings": found}))
    return 0 if any(one["side"] == "rookery" for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
