# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How fast lookups and whole steps are beside FBGEMM's and torch's, on the same ids (tests/benchmarks/run peers calls it).

Each side is a process that stays and is asked for one cell at a time; those whose turn it is not are stopped. A round gives each side one turn
of --seconds, in an order that rotates; its figure is the 25th percentile of the turn. A round in which other processes took more than 5 % of
the CPU is void and made again. A cell is the median over rounds of the ratio of times, theirs by ours, of the peer that comes out fastest.
The last line is JSON: cells by name, null where there is none; the file that is named before it has times, spreads and void rounds.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

from workloads import LAWS, WORKLOADS

ROOT = pathlib.Path(__file__).resolve().parents[2]

# --- Who takes the CPU -------------------------------------------------------------------------------------------------------------
def busy_ticks(stat):
    """Ticks in which some process ran, or the host did, of the first line of /proc/stat."""
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, stat.split()[1:9])
    return user + nice + system + irq + softirq + steal


def process_ticks(stat):
    """User and system ticks of a line /proc/PID/stat."""
    return sum(map(int, stat.rpartition(")")[2].split()[11:13]))


def other_share(before, after, ticks):
    """The part of `ticks`, on all CPUs, that others took between two readings (busy, own)."""
    return max(0, (after[0] - before[0]) - (after[1] - before[1])) / ticks


class Meter:
    """What others take of the CPU beside this process and `pids`."""

    def __init__(self, pids):
        self.pids = [os.getpid(), *pids]
        self.begin, self.start = self.read(), time.monotonic()

    def read(self):
        own = sum(process_ticks(pathlib.Path(f"/proc/{pid}/stat").read_text()) for pid in self.pids)
        with open("/proc/stat") as stat:
            return busy_ticks(stat.readline()), own

    def share(self):
        ticks = (time.monotonic() - self.start) * os.sysconf("SC_CLK_TCK") * os.cpu_count()
        return other_share(self.begin, self.read(), ticks)


# --- Sides -------------------------------------------------------------------------------------------------------------------------
class SideError(Exception):
    pass


class Side:
    """One process of the protocol of worker.hpp, or several that compute together; stopped but for its turns."""

    def __init__(self, name, command, log, environment=None, ranks=1):
        self.name, self.opened, self.log = name, None, log
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(log, "w"), text=True,
                                        env={**os.environ, **(environment or {})})
        self.pids = [self.process.pid]
        self.pids = sorted({*self.pids, *(self.answer()["pid"] for _ in range(ranks))})

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        said = [line.strip() for line in pathlib.Path(self.log).read_text().splitlines() if line.strip()]
        raise SideError(f"{self.name}: {said[-1][:300] if said else 'it ended'}")

    def ask(self, word, **values):
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write(" ".join([word, *(f"{name}={value}" for name, value in values.items())]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says why
        said = self.answer()
        self.signal(signal.SIGSTOP)
        return said

    def open(self, **values):
        self.close()
        self.ask("open", **values)
        self.opened = values

    def close(self):
        if self.opened:
            self.ask("close")
            self.opened = None

    def signal(self, number):
        for pid in self.pids:
            if self.process.poll() is None:
                os.kill(pid, number)

    def end(self):
        self.signal(signal.SIGCONT)
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# --- Rounds ------------------------------------------------------------------------------------------------------------------------
def rounds(measurements, count, most_repeats, one_round, most_other=.05):
    """`one_round(measurement, turn)` gives what others took of the CPU and the figures of each side. Of each measurement come the figures of at
    most `count` valid rounds, and how many were void; void ones are made again, at most `most_repeats` of a measurement."""
    kept, void = {name: [] for name in measurements}, dict.fromkeys(measurements, 0)
    for turn in range(count + most_repeats):
        for name, measurement in measurements.items():
            if len(kept[name]) == count or void[name] > most_repeats:
                continue
            others, figures = one_round(measurement, turn)
            if others > most_other:
                void[name] += 1
            else:
                kept[name].append(figures)
    return kept, void


def ratios(figures, ours, theirs):
    return [one[theirs]["p25"] / one[ours]["p25"] for one in figures]


def cell_of(figures, ours, peers):
    """The median ratio of the peer that is fastest by it, and the rest that is told of a cell."""
    if not figures:
        return {"ratio": None}
    ratio_of = {peer: ratios(figures, ours, peer) for peer in peers}
    fastest = min(peers, key=lambda peer: statistics.median(ratio_of[peer]))
    found = ratio_of[fastest]
    milliseconds = lambda side: statistics.median(one[side]["p25"] for one in figures) / 1e3
    return {"ratio": statistics.median(found), "least": min(found), "most": max(found), "rounds": len(found), "peer": fastest,
            "ours_ms": milliseconds(ours), "peers_ms": {peer: milliseconds(peer) for peer in peers}}


# --- Groups: what is opened together, and measured in turn ------------------------------------------------------------------------------
def subject(side, name, rule):
    return {"side": side, "subject": name, "rule": rule}


def groups(workload):
    """(subjects by name, measurements by cell: sides to their `run`, and what becomes of the figures) for each rule of a workload."""
    wide = workload in ("W1", "W2s")
    ours = {"ours": subject("ours", "collection", "rowwise_adagrad"), "tbe": subject("peers", "tbe", "rowwise_adagrad")}
    measured = {f"{workload}.{law}.step.rowwise_adagrad": {side: ("step", law) for side in ours} for law in LAWS}
    shares = {}
    if wide:
        ours["limit"] = subject("limit", "limit", "")
        shares = {f"{workload}.u.gather_share": {"ours": ("forward", "u"), "limit": ("gather", "u")},
                  f"{workload}.u.change": {"ours": ("step", "u"), "limit": ("change", "u")},
                  f"{workload}.u.ascending": {"ours": ("step", "u"), "limit": ("ascending", "u")}}
    yield ours, measured, shares
    ours = {"ours": subject("ours", "collection", "sgd"), "tbe": subject("peers", "tbe", "sgd"), "bags": subject("bags", "bags", "sgd")}
    yield ours, {f"{workload}.{law}.{cell}": {side: (what, law) for side in ours}
                 for law in LAWS for cell, what in (("forward", "forward"), ("step.sgd", "step"))}, {}
    if workload == "W1":
        ours = {"ours": subject("ours", "collection", "adam"), "bags": subject("bags", "bags", "adam")}
        yield ours, {f"{workload}.{law}.step.adam": {side: ("step", law) for side in ours} for law in LAWS}, {}


def request_files(folder, workload, seed):
    """The files of ids of a workload, by law; drawn where they are not there yet."""
    shape, files = WORKLOADS[workload], {}
    folder.mkdir(parents=True, exist_ok=True)
    for law, alpha in LAWS.items():
        files[law] = folder / f"{workload}.{law}.{seed}"
        if not files[law].exists():
            listed = [",".join(map(str, shape[name])) for name in ("rows", "pooling")]
            subprocess.run([os.environ["ROOKERY_PYTHON"], "-B", ROOT / "tests/benchmarks/draw_ids.py", files[law], *listed, str(shape["batch"]), str(alpha),
                            str(seed)], check=True)
    return files


class Run:
    """The processes of a run, started when they are first needed."""

    def __init__(self, options, folder):
        self.options, self.folder, self.sides = options, folder, {}
        self.cells, self.details, self.notes = {}, {}, []

    def side(self, name):
        if name not in self.sides:
            environment = {"OMP_NUM_THREADS": str(self.options.threads), "OMP_WAIT_POLICY": self.options.wait}
            if name in ("peers", "bags"):
                command = [os.environ["ROOKERY_PEERS"], ROOT / "tests/benchmarks/peers/embedding.py"]
            else:
                command = [pathlib.Path(os.environ["ROOKERY_BUILD"]) / "tests/benchmark_embedding"]
            self.sides[name] = Side(name, command, self.folder / f"{name}.log", environment)
        return self.sides[name]

    def drop(self, name):
        if name in self.sides:
            self.sides.pop(name).end()

    def group(self, workload, files, subjects, measured, shares):
        shape = WORKLOADS[workload]
        given = {name: ",".join(map(str, shape[name])) for name in ("rows", "pooling")} | {name: shape[name] for name in ("dim", "batch")} | files
        wanted = {**measured, **shares}
        if self.options.cells:
            wanted = {name: sides for name, sides in wanted.items() if any(part in name for part in self.options.cells)}
        subjects = {name: one for name, one in subjects.items() if any(name in sides for sides in wanted.values())}
        if not wanted:
            return
        for name, one in subjects.items():
            self.side(one["side"]).open(subject=one["subject"], **({"rule": one["rule"]} if one["rule"] else {}), **given)
        self.check(workload, subjects)

        def one_round(sides, turn):
            order = list(sides)
            order = order[turn % len(order):] + order[:turn % len(order)]
            meter = Meter([pid for side in self.sides.values() for pid in side.pids])
            figures = {name: self.side(subjects[name]["side"]).ask("run", law=sides[name][1], what=sides[name][0], seconds=self.options.seconds,
                                                                   least=self.options.least) for name in order}
            return meter.share(), figures

        kept, void = rounds(wanted, self.options.rounds, self.options.repeats, one_round, self.options.most_other)
        for name in wanted:
            self.add(name, cell_of(kept[name], "ours", [side for side in wanted[name] if side != "ours"]), kept[name], void[name])
        if shares:
            self.limits(workload)
        for one in subjects.values():
            self.side(one["side"]).close()

    def check(self, workload, subjects):
        """All sides must have the same numbers after the same steps."""
        sums = {}
        for name, one in subjects.items():
            if one["subject"] != "limit":
                sums[name] = self.side(one["side"]).ask("run", law="z", what="check")["sum"]
        most = max(map(abs, sums.values()))
        if max(sums.values()) - min(sums.values()) > 1e-3 * most:
            self.notes.append(f"{workload}: after 3 steps the sums of pooled values differ: {sums}")

    def add(self, name, cell, figures, void):
        self.cells[name] = cell["ratio"]
        self.details[name] = {**cell, "void": void, "figures": figures}
        if not figures:
            self.notes.append(f"{name}: all of {void} rounds were void")
        said = "no valid round" if not figures else (
            f"{cell['ratio']:6.2f} [{cell['least']:.2f}, {cell['most']:.2f}]  ours {cell['ours_ms']:.4g} ms, "
            + ", ".join(f"{peer} {value:.4g}" for peer, value in cell["peers_ms"].items()))
        print(f"{name:32} {said}, {void} void", flush=True)

    def limits(self, workload):
        """Shares of the machine's limit: gather by forward, and gather + change of the touched rows by whole step."""
        prefix = f"{workload}.u."
        gather, change, ascending = (self.details.get(prefix + name) for name in ("gather_share", "change", "ascending"))
        for name in ("change", "ascending"):
            self.cells.pop(prefix + name, None)
        if not gather or not change or None in (gather["ratio"], change["ratio"]):
            return
        for name, one, step in (("step_share", change, change), ("step_share.ascending", ascending, ascending)):
            if one and one["ratio"] is not None:
                self.cells[prefix + name] = (gather["peers_ms"]["limit"] + one["peers_ms"]["limit"]) / step["ours_ms"]
                print(f"{prefix + name:32} {self.cells[prefix + name]:6.2f}", flush=True)


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return f"{os.cpu_count()} x {model}"


def main():
    parser = argparse.ArgumentParser(prog="tests/benchmarks/run peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    listed = lambda text: text.split(",")
    parser.add_argument("--workloads", type=listed, default=list(WORKLOADS), help="of " + ",".join(WORKLOADS) + "; W3 is both of its batches")
    parser.add_argument("--cells", type=listed, default=[], help="only cells whose names hold one of these, such as forward,step.sgd")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=14, help="void rounds of a cell that are made again, at most")
    parser.add_argument("--most-other", type=float, default=.05, help="part of the CPU that others may take in a round; more than .05 is no result")
    parser.add_argument("--seconds", type=float, default=.6, help="of a turn")
    parser.add_argument("--least", type=int, default=8, help="iterations of a turn, at least")
    parser.add_argument("--seed", type=int, default=1, help="of ids")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wait", default="active", help="OMP_WAIT_POLICY of both sides; who is not in turn is stopped, so that none spins")
    options = parser.parse_args()
    if not os.environ.get("ROOKERY_PEERS"):
        sys.exit("the peers cannot be installed here: tests/setup peers says why")
    chosen = [name for name in WORKLOADS if any(name == asked or name.startswith(asked + ".") for asked in options.workloads)]

    folder = pathlib.Path(os.environ["ROOKERY_BUILD"]) / "benchmarks"
    folder.mkdir(exist_ok=True)
    run = Run(options, folder)
    try:
        for workload in chosen:
            files = request_files(folder / "requests", workload, options.seed)
            for subjects, measured, shares in groups(workload):
                run.group(workload, files, subjects, measured, shares)
    finally:
        for name in list(run.sides):
            run.drop(name)
    report = folder / "peers.json"
    report.write_text(json.dumps({"machine": machine(), "date": datetime.date.today().isoformat(), "command": " ".join(sys.argv[1:]),
                                  "threads": options.threads, "most_other": options.most_other, "OMP_WAIT_POLICY": options.wait, "notes": run.notes, "cells": run.details}, indent=1))
    for note in run.notes:
        print(note)
    print(f"details are in {report}")
    print(json.dumps({name: value if value is None else round(value, 3) for name, value in run.cells.items()}))


if __name__ == "__main__":
    main()
