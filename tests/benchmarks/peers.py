# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How fast lookups and whole steps are beside FBGEMM's and torch's, on the same ids (tests/benchmarks/run peers calls it).

Each side is a process that stays and is asked for one cell at a time; those whose turn it is not are stopped. A round gives each side one turn
of --seconds (ranks: of as many steps as take about that), in an order that rotates; its figure is the 25th percentile of the turn. Sides of one
process make their tables anew for each round, because speed depends on the pages that they get. A round in
which other processes took more than 5 % of the CPU is void and made again. A cell is the median over rounds of the ratio of times, theirs by
ours, of the peer that comes out fastest; a share is the time of the machine's own limit by ours; S.* is what an id costs us in many or large
tables by what it costs in few or small ones; *_us are microseconds.
The last line is JSON: cells by name, null where there is none; the file that is named before it has times, spreads and void rounds.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from workloads import LAWS, WORKLOADS, bytes_of, ids_of

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
    """One process of the protocol of worker.hpp, or ranks that compute together; stopped but for its turns."""

    def __init__(self, name, command, log, environment, ranks=1):
        self.name, self.log, self.ranks, self.opened, self.counts, self.said = name, log, ranks, None, {}, []
        self.folder = tempfile.TemporaryDirectory(prefix="rookery_peers_")
        if ranks > 1:                                          # each reads a pipe of its own
            commands = os.path.join(self.folder.name, "commands")
            environment = {**environment, "ROOKERY_COMMANDS": commands}
            for rank in range(ranks):
                os.mkfifo(f"{commands}.{rank}")
        with open(log, "w") as said:
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL if ranks > 1 else subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=said, text=True, env={**os.environ, **environment})
        # Opened for reading too, a pipe does not wait for its reader.
        self.inputs = [open(os.open(f"{commands}.{rank}", os.O_RDWR), "w") for rank in range(ranks)] if ranks > 1 else [self.process.stdin]
        self.pids = sorted({self.process.pid, *(self.answer()["pid"] for _ in range(ranks))})

    def answer(self):
        while not self.said:                                   # ranks may share a line
            line = self.process.stdout.readline()
            if not line:
                break
            while line.startswith("{"):
                said, end = json.JSONDecoder().raw_decode(line)
                self.said.append(said)
                line = line[end:].lstrip()
        if self.said:
            return self.said.pop(0)
        said = [line.strip() for line in pathlib.Path(self.log).read_text().splitlines() if line.strip()]
        raise SideError(f"{self.name}: {said[-1][:300] if said else 'it ended'}")

    def ask(self, word, **values):
        self.signal(signal.SIGCONT)
        try:
            for one in self.inputs:
                one.write(" ".join([word, *(f"{name}={value}" for name, value in values.items())]) + "\n")
                one.flush()
        except BrokenPipeError:
            pass  # answer() says why
        said = self.answer()
        self.signal(signal.SIGSTOP)
        return said

    def run(self, law, what, seconds, least):
        if self.ranks == 1:
            return self.ask("run", law=law, what=what, seconds=seconds, least=least)
        if (law, what) not in self.counts:                     # ranks must agree on how many steps they make
            once = self.ask("run", law=law, what=what, count=least)
            self.counts[law, what] = max(least, min(5000, int(seconds * 1e6 / once["p25"])))
        return self.ask("run", law=law, what=what, count=self.counts[law, what])

    def open(self, **values):
        self.close()
        self.ask("open", **values)
        self.opened = values

    def close(self):
        if self.opened:
            self.ask("close")
            self.opened, self.counts = None, {}

    def signal(self, number):
        for pid in self.pids:
            if self.process.poll() is None:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def end(self):
        self.signal(signal.SIGCONT)
        for one in self.inputs:
            one.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()


# --- Rounds ------------------------------------------------------------------------------------------------------------------------
def rounds(measurements, count, most_repeats, one_round, most_other=.05, before_turn=lambda turn: None):
    """`one_round(measurement, turn)` gives what others took of the CPU and the figures of each side. Of each measurement come the figures of at
    most `count` valid rounds, and how many were void; void ones are made again, at most `most_repeats` of a measurement. `before_turn(turn)` is
    called before the first, second .. round of all measurements that still want one."""
    kept, void = {name: [] for name in measurements}, dict.fromkeys(measurements, 0)
    wants = lambda name: len(kept[name]) < count and void[name] <= most_repeats
    for turn in range(count + most_repeats):
        if not any(map(wants, measurements)):
            break
        before_turn(turn)
        for name, measurement in measurements.items():
            if not wants(name):
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
    if not peers:                                              # microseconds of ours
        found = [one[ours]["p25"] for one in figures]
        return {"ratio": statistics.median(found), "least": min(found), "most": max(found), "rounds": len(found),
                "ours_ms": statistics.median(found) / 1e3, "peers_ms": {}}
    ratio_of = {peer: ratios(figures, ours, peer) for peer in peers}
    fastest = min(peers, key=lambda peer: statistics.median(ratio_of[peer]))
    found = ratio_of[fastest]
    milliseconds = lambda side: statistics.median(one[side]["p25"] for one in figures) / 1e3
    return {"ratio": statistics.median(found), "least": min(found), "most": max(found), "rounds": len(found), "peer": fastest,
            "ours_ms": milliseconds(ours), "peers_ms": {peer: milliseconds(peer) for peer in peers}}


def with_gather(found, figures, gathers):
    """Of a cell of whole steps and changes of the rows that they touch: the share of the limit, which gathers the rows before, through the same
    pages where that round is there."""
    usual = statistics.median(gathers.values())
    shares = [(gathers.get(one["turn"], usual) + one["limit"]["p25"]) / one["ours"]["p25"] for one in figures]
    return {**found, "ratio": statistics.median(shares), "least": min(shares), "most": max(shares),
            "peers_ms": {"limit": usual / 1e3 + found["peers_ms"]["limit"]}}


# --- Groups: what is opened together, and measured in turn ------------------------------------------------------------------------------
@dataclasses.dataclass
class Subject:
    """What a side opens."""

    side: str
    subject: str
    workload: str
    rule: str = ""
    more: dict = dataclasses.field(default_factory=dict)       # of the line `open`


@dataclasses.dataclass
class Cell:
    """What each subject runs in a round; "ours" stands for us. Of the figures comes a ratio theirs / ours ("ratio"), how many times more an id
    costs than in the small workload ("id"), our microseconds, or the share of the limit of a whole step ("limit")."""

    name: str
    turns: dict                                                # subject: (what, law)
    unit: str = "ratio"


def cells(name, what, subjects, laws=LAWS):
    return [Cell(name.format(law=law), {subject: (what, law) for subject in subjects}) for law in laws]


def embedding_groups(w):
    """Lookups and whole steps beside TBE, EmbeddingBag and, on W1 and W2s, the machine's limit."""
    subjects = {"ours": Subject("ours", "collection", w, "rowwise_adagrad"), "tbe": Subject("peers", "tbe", w, "rowwise_adagrad")}
    measured = cells(w + ".{law}.step.rowwise_adagrad", "step", ["ours", "tbe"])
    if w in ("W1", "W2s"):
        subjects["limit"] = subjects["ours"]                   # through the same rows
        measured += [Cell(f"{w}.u.gather_share", {"ours": ("forward", "u"), "limit": ("gather", "u")}),
                     Cell(f"{w}.u.step_share", {"ours": ("step", "u"), "limit": ("change", "u")}, "limit"),
                     Cell(f"{w}.u.step_share.ascending", {"ours": ("step", "u"), "limit": ("ascending", "u")}, "limit")]
    yield subjects, measured
    subjects = {"ours": Subject("ours", "collection", w, "sgd"), "tbe": Subject("peers", "tbe", w, "sgd"), "bags": Subject("bags", "bags", w, "sgd")}
    yield subjects, cells(w + ".{law}.forward", "forward", subjects) + cells(w + ".{law}.step.sgd", "step", subjects)


def torchrec_groups(w, subject, rule, name):
    """Whole steps beside TorchRec's: one process of all threads, and two ranks of one."""
    ours = {"dlrm": "dlrm", "torchrec": "collection"}[subject]
    for ranks, our_side, their_side, kind in ((1, "ours", "peers", "auto"), (2, "ours.ranks", "peers.ranks", "table_wise")):
        subjects = {"ours": Subject(our_side, ours, w, rule), "torchrec": Subject(their_side, subject, w, rule, {"kind": kind})}
        yield subjects, cells(f"{w}.{{law}}.{name}.ranks{ranks}", "step", subjects)


def groups(w):
    """Pairs of subjects by name, which are opened together, and the cells that are measured on them."""
    if w == "S":
        for name, small, large in (("tables", "S.8", "S.1000"), ("rows", "S.1e5", "S.5e6")):
            subjects = {"ours": Subject("ours", "collection", large, "rowwise_adagrad"),
                        "small": Subject("ours2", "collection", small, "rowwise_adagrad")}
            yield subjects, [Cell(f"S.{name}.{what}", dict.fromkeys(subjects, (what, "u")), "id") for what in ("forward", "step")]
        return
    if w == "B1":
        subjects = {"ours": Subject("ours", "collection", w, "sgd"), "tbe": Subject("peers", "tbe", w, "sgd")}
        yield subjects, [Cell("B1.step_us", {"ours": ("step", "u")}, "microseconds")] + cells("B1.{law}.step.sgd", "step", subjects, "u")
        return
    yield from embedding_groups(w)
    if w == "W1":
        subjects = {"ours": Subject("ours", "collection", w, "adam"), "bags": Subject("bags", "bags", w, "adam")}
        yield subjects, cells(w + ".{law}.step.adam", "step", subjects)
        for dtype in ("float16", "bfloat16"):
            subjects = {"ours": Subject("ours", "collection", w, "sgd", {"dtype": dtype}), "float32": Subject("ours2", "collection", w, "sgd")}
            yield subjects, cells(f"{w}.{{law}}.{dtype}.forward", "forward", subjects, "u")
    if w in ("W1", "W9.16", "W9.128"):
        yield from torchrec_groups(w, "torchrec", "rowwise_adagrad", "step.torchrec")
    if w.startswith("W3"):
        yield from torchrec_groups(w, "dlrm", "sgd", "dlrm.torchrec")
    if w == "W3.2048":
        subjects = {"ours": Subject("ours", "dlrm", w, "sgd", {"gemm": "bfloat16"}), "torchrec": Subject("peers", "dlrm", w, "sgd", {"kind": "auto"})}
        yield subjects, cells(w + ".{law}.dlrm.bfloat16", "step", subjects)


def request_files(folder, workload, seed):
    """The files of ids of a workload, by law; drawn where they are not there yet."""
    shape, files = WORKLOADS[workload], {}
    folder.mkdir(parents=True, exist_ok=True)
    for law, alpha in LAWS.items():
        files[law] = folder / f"{workload}.{law}.{seed}"
        if not files[law].exists():
            listed = [",".join(map(str, shape[name])) for name in ("rows", "pooling")]
            subprocess.run([os.environ["ROOKERY_PYTHON"], "-B", ROOT / "tests/benchmarks/draw_ids.py", files[law], *listed, str(shape["batch"]),
                            str(alpha), str(seed)], check=True)
    return files


class Run:
    """The processes of a run, started when they are first needed, and what was found."""

    def __init__(self, options, folder):
        self.options, self.folder, self.sides = options, folder, {}
        self.cells, self.details, self.notes = {}, {}, []

    def side(self, name):
        if name not in self.sides:
            ranks = 2 if name.endswith(".ranks") else 1
            is_ours = name.startswith("ours")
            environment = {"OMP_NUM_THREADS": str(self.options.threads // ranks),
                           "OMP_WAIT_POLICY": self.options.wait if is_ours else self.options.peers_wait}
            if is_ours:
                command = [pathlib.Path(os.environ["ROOKERY_BUILD"]) / "tests/benchmark_embedding"]
            else:
                command = [os.environ["ROOKERY_PEERS"], "-B", ROOT / "tests/benchmarks/peers/embedding.py"]
            if ranks > 1:
                command = [ROOT / "examples" / ("mpirun" if name.startswith("ours") else "launch"), ranks, *command]
                environment["ROOKERY_TOPOLOGY"] = "mpi"
            self.sides[name] = Side(name, command, self.folder / f"{name}.log", environment, ranks)
        return self.sides[name]

    def end(self):
        for side in self.sides.values():
            side.end()
        self.sides = {}

    def group(self, subjects, wanted):
        if self.options.cells:
            kept = [cell for cell in wanted if any(part in cell.name for part in self.options.cells)]
            shares = any(cell.unit == "limit" for cell in kept)   # which need that of the gather
            wanted = [cell for cell in wanted if cell in kept or (shares and cell.name.endswith(".gather_share"))]
        if not wanted:
            return
        subjects = {name: one for name, one in subjects.items() if any(name in cell.turns for cell in wanted)}
        try:
            sides = sides_of(subjects)
            need, free = sum(bytes_of(one.workload) for one in sides.values()), available_bytes()
            if need * 1.1 > free:
                raise SideError(f"{need / 1e9:.1f} GB of tables, but {free / 1e9:.1f} GB are free")
            for side in sides:
                self.open(sides[side])
            self.check(subjects)
            self.measure(subjects, wanted)
            for side in sides:
                self.side(side).close()
            for name in [name for name in self.sides if name.endswith(".ranks")]:
                self.sides.pop(name).end()                     # ranks that are stopped for long may take each other for dead
        except SideError as error:                             # the rest of the run goes on without this group
            for cell in wanted:
                self.cells.setdefault(cell.name, None)
            self.notes.append(f"{wanted[0].name} and what is measured with it: {error}")
            self.end()

    def open(self, one):
        """Opens a subject; what its side had open goes first."""
        shape, files = WORKLOADS[one.workload], request_files(self.folder / "requests", one.workload, self.options.seed)
        given = {name: ",".join(map(str, shape[name])) for name in ("rows", "pooling")}
        self.side(one.side).open(subject=one.subject, **given, dim=shape["dim"], batch=shape["batch"], **files,
                                 **({"rule": one.rule} if one.rule else {}), **one.more)

    def measure(self, subjects, wanted):
        def open_anew(turn):
            alone = [one for side, one in sides_of(subjects).items() if not side.endswith(".ranks")]
            if turn == 0 or not alone:
                return
            for one in alone:
                self.side(one.side).close()
            for one in alone[turn % len(alone):] + alone[:turn % len(alone)]:
                self.open(one)

        def one_round(cell, turn):
            order = list(cell.turns)
            order = order[turn % len(order):] + order[:turn % len(order)]
            meter = Meter([pid for side in self.sides.values() for pid in side.pids])
            figures = {"turn": turn}
            for name in order:
                what, law = cell.turns[name]
                figures[name] = self.side(subjects[name].side).run(law, what, self.options.seconds, self.options.least)
            return meter.share(), figures

        kept, void = rounds({cell.name: cell for cell in wanted}, self.options.rounds, self.options.repeats, one_round, self.options.most_other,
                            open_anew)
        for cell in wanted:
            figures = kept[cell.name]
            found = cell_of(figures, "ours", [name for name in cell.turns if name != "ours"])
            if cell.unit == "id" and figures:
                lookups = {name: ids_of(subjects[name].workload) for name in cell.turns}
                scale = lookups["small"] / lookups["ours"]     # times per id
                costs = [scale / ratio for ratio in ratios(figures, "ours", "small")]
                found |= {"ratio": statistics.median(costs), "least": min(costs), "most": max(costs)}
            if cell.unit == "limit" and figures:
                gathers = {one["turn"]: one["limit"]["p25"] for one in kept[f"{subjects['ours'].workload}.u.gather_share"]}
                found = with_gather(found, figures, gathers) if gathers else {"ratio": None}
            self.add(cell, found, figures, void[cell.name])
        if "limit" in subjects:
            self.tell_speeds(subjects["limit"])

    def tell_speeds(self, ours):
        """GB/s beside those of reading in order."""
        w = ours.workload
        stream = self.side(ours.side).ask("run", what="stream")["gigabytes_per_second"]
        gather = self.details[f"{w}.u.gather_share"]
        if gather["ratio"] is not None:
            rows = ids_of(w) * WORKLOADS[w]["dim"] * 4 / 1e6   # MB
            self.notes.append(f"{w}.u: memory is read in order at {stream:.1f} GB/s, rows are gathered at {rows / gather['peers_ms']['limit']:.1f}, "
                              f"and looked up at {rows / gather['ours_ms']:.1f}")

    def check(self, subjects):
        """Sides of one process must have the same numbers after the same steps, but for rounding of narrow tables."""
        sums = {}
        for name, one in subjects.items():
            if name != "limit" and one.subject != "dlrm" and not one.more.get("dtype") and not one.side.endswith(".ranks"):
                sums[name] = self.side(one.side).ask("run", law="z", what="check")["sum"]
        same = len({one.workload for one in subjects.values()}) == 1
        if same and sums and max(sums.values()) - min(sums.values()) > 1e-3 * max(map(abs, sums.values())):
            self.notes.append(f"{subjects['ours'].workload}, {subjects['ours'].rule}: after 3 steps the sums of pooled values differ: {sums}")

    def add(self, cell, found, figures, void):
        name = cell.name
        self.cells[name] = found["ratio"]
        self.details[name] = {**found, "void": void, "figures": figures}
        said = "no valid round"
        if figures:
            said = f"{found['ratio']:6.2f} [{found['least']:.2f}, {found['most']:.2f}]  ours {found['ours_ms']:.4g} ms"
            said += "".join(f", {peer} {value:.4g}" for peer, value in found["peers_ms"].items())
        else:
            self.notes.append(f"{name}: all of {void} rounds were void")
        print(f"{name:34} {said}, {void} void", flush=True)


def sides_of(subjects):
    """One subject of each side: what the side opens."""
    return {one.side: one for one in subjects.values()}


def available_bytes():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


NAMES = [*(name for name in WORKLOADS if not name.startswith("S.")), "S"]  # S: what scale costs


def table(details):
    """What was found as a table for docs/measurements.md."""
    lines = ["| cell | median [least, most] | ours, ms | theirs, ms |", "|---|---|---|---|"]
    for name, one in details.items():
        if one["ratio"] is None:
            lines.append(f"| {name} | no valid round of {one['void']} | | |")
        else:
            theirs = ", ".join(f"{peer} {value:.4g}" for peer, value in one["peers_ms"].items())
            lines.append(f"| {name} | {one['ratio']:.2f} [{one['least']:.2f}, {one['most']:.2f}] | {one['ours_ms']:.4g} | {theirs} |")
    return "\n".join(lines) + "\n"


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return f"{os.cpu_count()} x {model}"


def main():
    parser = argparse.ArgumentParser(prog="tests/benchmarks/run peers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    listed = lambda text: text.split(",")
    parser.add_argument("--workloads", type=listed, default=NAMES, help="of " + ",".join(NAMES) + "; W3 is both of its batches")
    parser.add_argument("--cells", type=listed, default=[], help="only cells whose names hold one of these, such as forward,step.sgd")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=14, help="void rounds of a cell that are made again, at most")
    parser.add_argument("--most-other", type=float, default=.05, help="part of the CPU that others may take in a round; more than .05 is no result")
    parser.add_argument("--seconds", type=float, default=.4, help="of a turn")
    parser.add_argument("--least", type=int, default=8, help="iterations of a turn, at least")
    parser.add_argument("--seed", type=int, default=1, help="of ids")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wait", default="active", help="OMP_WAIT_POLICY of ours; who is not in turn is stopped, so that none spins beside others")
    parser.add_argument("--peers-wait", default="active", help="OMP_WAIT_POLICY of the peers")
    options = parser.parse_args()
    if not os.environ.get("ROOKERY_PEERS"):
        sys.exit("the peers cannot be installed here: tests/setup peers says why")
    chosen = [name for name in NAMES if any(name == asked or name.startswith(asked + ".") for asked in options.workloads)]

    folder = pathlib.Path(os.environ["ROOKERY_BUILD"]) / "benchmarks"
    folder.mkdir(exist_ok=True)
    run = Run(options, folder)
    try:
        for workload in chosen:
            for subjects, wanted in groups(workload):
                run.group(subjects, wanted)
    finally:
        run.end()
    report = folder / "peers.json"
    report.write_text(json.dumps({"machine": machine(), "date": datetime.date.today().isoformat(), "options": vars(options), "notes": run.notes,
                                  "cells": run.details}, indent=1))
    report.with_suffix(".md").write_text(table(run.details))
    for note in run.notes:
        print(note)
    print(f"details are in {report}, a table in {report.with_suffix('.md')}")
    print(json.dumps({name: value if value is None else round(value, 3) for name, value in run.cells.items()}))


if __name__ == "__main__":
    main()
