# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Counts the instructions of the hot loops under callgrind, which other work on the machine cannot change, and holds them to a ledger.

    instructions.py PROGRAM VALGRIND LEDGER [--update | --json | --stamp FILE]

Status 1 where a loop takes a tenth more than its line in the ledger; FILE is written where none does. Valgrind has no AVX-512, so the loops for
AVX2 are counted. --update writes the ledger anew.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

MOST = 1.1  # times the ledger's figure

HEAD = """# Instructions of one turn of each hot loop (hot_loops.hpp) on one thread: `loop instructions`.
# {compiler}, -O3, valgrind without AVX-512; written by tests/benchmarks/run instructions --update.
"""


def compiler(program):
    """Of the program, as it says itself: another one makes other instructions."""
    found = re.findall(rb"GCC: \([^)]*\) (\d+)|(clang version \d+)", pathlib.Path(program).read_bytes())
    major, clang = found[0] if found else (b"", b"")
    return f"g++ {major.decode()}" if major else clang.decode() or "an unknown compiler"


def count(program, valgrind):
    """Instructions by loop."""
    with tempfile.TemporaryDirectory(prefix="rookery_callgrind_") as folder:
        out = pathlib.Path(folder) / "out"
        ended = subprocess.run([valgrind, "--tool=callgrind", "--toggle-collect=rookery_counted", "--dump-after=rookery_counted",
                                f"--callgrind-out-file={out}", program], text=True, capture_output=True)
        if ended.returncode:
            sys.exit(f"{program} under {valgrind} ended with status {ended.returncode}:\n{ended.stderr[-2000:]}")
        counts = [int(re.search(r"^summary: (\d+)", out.with_name(f"out.{i + 1}").read_text(), re.M)[1])
                  for i in range(len(ended.stdout.split()))]
        return dict(zip(ended.stdout.split(), counts))


def read_ledger(text):
    """The compiler of its figures, and the figures."""
    made_by = re.search(r"^# (.*), -O3", text, re.M)
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return made_by[1] if made_by else "", {name: int(number) for name, number in lines}


def regressions(counted, ledger):
    wrong = [f"{name} takes {number:,} instructions; the ledger has {ledger[name]:,}" for name, number in counted.items()
             if name in ledger and number > MOST * ledger[name]]
    wrong += [f"{name} has no line in the ledger" for name in counted if name not in ledger]
    return wrong + [f"{name} is in the ledger and no loop" for name in ledger if name not in counted]


def main(program, valgrind, ledger, mode="", stamp=""):
    ledger = pathlib.Path(ledger)
    counted = count(program, valgrind)
    if mode == "--update":
        width = max(map(len, counted)) + 1
        ledger.write_text(HEAD.format(compiler=compiler(program)) + "".join(f"{name:{width}} {number}\n" for name, number in counted.items()))
    made_by, figures = read_ledger(ledger.read_text())
    is_comparable = made_by == compiler(program)
    if mode == "--json":
        print(json.dumps(counted))
    elif mode != "--stamp":
        for name, number in counted.items():
            share = f"{number / figures[name]:6.3f}" if name in figures else "   new"
            print(f"{name:28} {number:12,} {share}")
    wrong = regressions(counted, figures) if is_comparable else []
    if not is_comparable:
        print(f"the ledger is of {made_by}, the program of {compiler(program)}: not compared", file=sys.stderr)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        sys.exit(1)
    if stamp:
        pathlib.Path(stamp).write_text("".join(f"{name} {number}\n" for name, number in counted.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
