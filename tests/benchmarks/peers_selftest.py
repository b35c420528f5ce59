# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Whether draw_ids.py, peers.py and instructions.py do as they say, without peers: tests/benchmarks/embedding_test.cpp runs it. Its one
argument is a folder to write to. Prints `ok`, or ends with what is wrong."""

import pathlib
import sys

import draw_ids
import instructions
import peers
from workloads import LAWS, WORKLOADS


def expect(is_so, *words):
    if not is_so:
        sys.exit(" ".join(map(str, words)))


def ids(folder):
    rows, pooling, batch = [100, 7, 5000], [2, 1, 3], 40
    for alpha in LAWS.values():
        first, again, other = (draw_ids.draw(rows, pooling, batch, alpha, seed, 3) for seed in (1, 1, 2))
        same = [(one[1] == two[1]).all() for one, two in zip(first, again)]
        expect(all(same), "ids of one seed differ", same)
        expect(not (first[0][1] == other[0][1]).all() and not (first[0][1] == first[1][1]).all(), "seeds or batches have the same ids")
        offsets, drawn = first[0]
        counted = [0, *(2 * i for i in range(1, 41)), *(80 + i for i in range(1, 41)), *(120 + 3 * i for i in range(1, 41))]
        expect(offsets.tolist() == counted, offsets)
        for table, begin in enumerate((0, 80, 120)):
            part = drawn[begin:begin + batch * pooling[table]]
            expect(0 <= part.min() and part.max() < rows[table], "table", table, "has ids", part.min(), "to", part.max())
        draw_ids.write(folder / "ids", first)
        read = draw_ids.read(folder / "ids", 120, 240)
        expect(all((one[i] == two[i]).all() for one, two in zip(first, read) for i in (0, 1)), "what is read differs from what was written")
    twins = draw_ids.draw([100, 100], [1, 1], 50, 0, 1, 1)[0][1]
    expect((twins[:50] != twins[50:]).any(), "two tables of a kind have the same ids")
    (_, even), (_, skewed) = (draw_ids.draw([100_000], [10], 2000, alpha, 1, 1)[0] for alpha in LAWS.values())
    distinct = [len(set(one.tolist())) for one in (even, skewed)]
    expect(distinct[0] > 17_500 and 5_000 < distinct[1] < 9_000, "distinct ids of 20,000, uniform and Zipf:", distinct)
    golden = [draw_ids.draw([1000], [1], 4, alpha, 1, 1)[0][1].tolist() for alpha in LAWS.values()]
    expect(golden == [[473, 511, 755, 950], [927, 660, 705, 705]], "seed 1 now draws", golden)


def shares_of_cpu():
    expect(peers.busy_ticks("cpu  10 1 5 1000 7 2 3 4 9 9\n") == 25, "busy ticks")
    expect(peers.process_ticks("12 (a b) c) S " + " ".join(map(str, range(1, 40)))) == 11 + 12, "ticks of a process")
    expect(peers.other_share((100, 50), (300, 240), 200) == .05, "10 ticks of others in 200")
    expect(peers.other_share((100, 50), (300, 260), 200) == 0, "own ticks beyond those of the machine")


def void_rounds():
    shares, asked = iter([0, .06, 0, .05, .9, .9, .9, .9, 0, 0]), []

    def one_round(measurement, turn):
        asked.append((measurement, turn))
        return next(shares), {"ours": {"p25": 1}}

    turns = []
    kept, void = peers.rounds({"a": "A"}, 3, 2, one_round, before_turn=turns.append)
    expect(len(kept["a"]) == 3 and void["a"] == 1, kept, void)   # .06 is void, .05 is not
    expect(turns == [0, 1, 2, 3], "tables are made anew for rounds that nobody wants", turns)
    expect(asked == [("A", 0), ("A", 1), ("A", 2), ("A", 3)], asked)
    kept, void = peers.rounds({"a": "A"}, 3, 2, one_round)
    expect(kept["a"] == [] and void["a"] == 3, "void rounds are made again without end", kept, void)


def ratios():
    figures = [{"ours": {"p25": 2.0}, "slow": {"p25": 10.0}, "fast": {"p25": fast}} for fast in (3.0, 4.0, 8.0)]
    cell = peers.cell_of(figures, "ours", ["slow", "fast"])
    expect((cell["ratio"], cell["least"], cell["most"], cell["peer"], cell["rounds"]) == (2, 1.5, 4, "fast", 3), cell)
    expect(peers.cell_of([], "ours", ["fast"]) == {"ratio": None}, "a cell without rounds")
    expect(peers.cell_of(figures, "ours", [])["ratio"] == 2, "microseconds of ours")


def shares_of_limit():
    figures = [{"turn": turn, "ours": {"p25": 40.0}, "limit": {"p25": 10.0 + 2 * turn}} for turn in range(3)]
    found = peers.with_gather(peers.cell_of(figures, "ours", ["limit"]), figures, {0: 16.0, 1: 20.0, 2: 12.0})
    expect([found[name] for name in ("least", "ratio", "most")] == [.65, .65, .8] and abs(found["peers_ms"]["limit"] - .028) < 1e-9, found)
    found = peers.with_gather(peers.cell_of(figures, "ours", ["limit"]), figures, {1: 16.0})   # a round without one has the usual gather's
    expect(abs(found["ratio"] - .7) < 1e-9, found)


def ledger():
    made_by, figures = instructions.read_ledger(instructions.HEAD.format(compiler="g++ 12") + "lookup/a 1000\nstep/b 2000\n")
    expect((made_by, figures) == ("g++ 12", {"lookup/a": 1000, "step/b": 2000}), made_by, figures)
    expect(instructions.regressions({"lookup/a": 1099, "step/b": 10}, figures) == [], "a tenth more, or less, is no regression")
    wrong = instructions.regressions({"lookup/a": 1101, "step/c": 5}, figures)
    expect(len(wrong) == 3 and wrong[0].startswith("lookup/a takes 1,101"), wrong)


def names():
    found, seen = set(), set()
    for workload in peers.NAMES:
        for subjects, cells in peers.groups(workload):
            for cell in cells:
                expect(cell.name not in seen, "two cells are called", cell.name)
                seen.add(cell.name)
                expect("ours" in cell.turns and set(cell.turns) <= set(subjects), cell)
                expect(all(law in LAWS for _, law in cell.turns.values()), cell)
                found.add(cell.name)
            expect(all(one.workload in WORKLOADS for one in subjects.values()), subjects)
            sides = {one.side: one for one in subjects.values()}
            expect(all(sides[one.side] == one for one in subjects.values()), "one process is two subjects:", subjects)
    both = [f"{w}.{law}.{cell}" for w in ("W1", "W2s", "W3.2048", "W3.128", "W9.16", "W9.128") for law in LAWS
            for cell in ("forward", "step.rowwise_adagrad", "step.sgd")]
    ranks = [f"{w}.{law}.{cell}.ranks{ranks}" for w, cell in (("W1", "step.torchrec"), ("W9.16", "step.torchrec"), ("W3.2048", "dlrm.torchrec"),
                                                             ("W3.128", "dlrm.torchrec")) for law in LAWS for ranks in (1, 2)]
    more = ["W1.u.gather_share", "W2s.u.gather_share", "W1.u.step_share", "W1.u.step.adam", "W1.u.float16.forward", "W1.u.bfloat16.forward", "W11.u.forward", "B1.step_us",
            "S.tables.forward", "S.rows.step"]
    missing = [name for name in [*both, *ranks, *more] if name not in found]
    expect(not missing, "no cells:", missing)


if __name__ == "__main__":
    ids(pathlib.Path(sys.argv[1]))
    shares_of_cpu()
    void_rounds()
    ratios()
    shares_of_limit()
    ledger()
    names()
    print("ok")
