# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Builds and runs the tests (tests/run calls it); closes with `N passed, N failed`.

    run.py                    everything
    run.py quick              the doctest programs and the checks that need no compiler
    run.py sanitize [FILTER]  the doctest programs under AddressSanitizer and UndefinedBehaviorSanitizer
    run.py FILTER             the doctest suites whose name holds FILTER, such as `sparse/` or `optim/optimizer`
"""

import fcntl
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import rules

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["ROOKERY_BUILD"])
TIME_LIMIT = float(os.environ.get("ROOKERY_TEST_TIMEOUT", 1200))  # seconds for one program
SLOW = 10  # seconds from which a test case is named


class Tally:
    def __init__(self):
        self.passed, self.failures = 0, []

    def add(self, name, problem):
        """Counts one check; `problem` is the text of what is wrong, empty if nothing is."""
        if problem:
            self.failures.append(name)
            print(f"FAILED {name}\n{problem}", flush=True)
        else:
            self.passed += 1


def plan():
    """The build targets by kind as tests/meson.build writes them down, with the folders of a program's tests and the marks of a check."""
    if subprocess.run(["ninja", "-C", str(BUILD), "build.ninja"], stdout=subprocess.DEVNULL).returncode:  # runs meson if a list changed
        sys.exit("0 passed, 1 failed")
    kinds = {}
    for line in (BUILD / "tests/targets.txt").read_text().split("\n"):
        if line.strip():
            kind, target, *words = line.split()
            kinds.setdefault(kind, {})[target] = set(words)
    return kinds


def build(targets):
    """Builds with two jobs, going on after an error; returns the targets that failed."""
    command = ["ninja", "-C", str(BUILD), "-k", "0", "-j", os.environ.get("ROOKERY_JOBS", "2"), *targets]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    failed = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("FAILED: "):
            failed += line.split()[1:]
    if process.wait() == 0:
        return set()
    # What failed is a target or a file in the folder of one; without such a line nothing was built.
    return {target for target in targets if not failed or any(f"{file}.p/".startswith(f"{target}.p/") for file in failed)}


def run_program(target, arguments, tally):
    """Runs one doctest program and adds up its test cases; shows what those have to say that are not silent."""
    started = time.monotonic()
    command = [str(BUILD / target), "--duration=true", "--no-colors=true", *arguments]
    process = subprocess.Popen(command, cwd=BUILD, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)  # the folder that __FILE__ is relative to
    try:
        output, problem = process.communicate(timeout=TIME_LIMIT)[0], ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, problem = process.communicate()[0], f"it was still running after {TIME_LIMIT:.0f} s"
    summary = re.search(r"^\[doctest\] test cases: +\d+ +\| +(\d+) passed \| +(\d+) failed", output, re.M)
    passed, failed = (int(summary[1]), int(summary[2])) if summary else (0, 0)
    if process.returncode and not failed:
        problem = problem or f"it ended with status {process.returncode}"
    name = target.rpartition("/")[2]
    print(f"{name}: {passed} passed, {failed + bool(problem)} failed in {time.monotonic() - started:.0f} s", flush=True)

    slow, cases = [], []
    for block in re.split(r"^={79}\n", output, flags=re.M):
        case = re.search(r"^TEST CASE: +(.*)\n((?:  .*\n)*)", block, re.M)
        for seconds, text in re.findall(r"^(\d+\.\d+) s: (.*)$", block, re.M):
            slow.append((float(seconds), text))
        said = re.sub(r"^\d+\.\d+ s: .*\n", "", block[case.end():] if case else block, flags=re.M).strip()
        if said and not said.startswith("[doctest]"):
            print(f"{block[:case.end()] if case else ''}{said}\n", flush=True)
        if case and re.search(r"\bERROR: ", said):
            cases.append(case[1])
    for seconds, case in sorted(slow, reverse=True):
        if seconds >= SLOW:
            print(f"  {seconds:.0f} s: {case}", flush=True)
    tally.passed += passed
    tally.failures += ([f"{name}: {case}" for case in cases] + [f"{name}: a test case"] * failed)[:failed]
    if problem:
        tally.add(name, problem)


def main(arguments):
    filters = [argument for argument in arguments if argument not in ("quick", "sanitize")]
    everything = not filters and "sanitize" not in arguments
    tally = Tally()
    with open(BUILD / "lock", "w") as lock:  # ninja has none of its own
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        kinds = plan()
        checks = list(kinds["check"]) if everything and "quick" not in arguments else []
        programs = list(kinds.get("program", []))
        if filters and all("/" in text for text in filters):
            folders = {text.split("/")[0] for text in filters}
            programs = [target for target in programs if folders & kinds["program"][target]]
        unbuilt = build(programs + checks)
        print(f"built in {time.monotonic() - started:.0f} s", flush=True)

    for target in programs:
        if target in unbuilt:
            tally.add(target, "it did not build; see above")
        else:
            run_program(target, ["--test-suite=" + ",".join(f"*{text}*" for text in filters)] if filters else [], tally)
    for target in checks:
        tally.add(target, "see above" if target in unbuilt else "")
    if everything:
        for name, problem in rules.check_all(ROOT, BUILD, kinds, unbuilt, compiled=bool(checks)):
            tally.add(name, problem)

    for name in sorted(set(tally.failures)):
        print(f"failed: {name}")
    print(f"{tally.passed} passed, {len(tally.failures)} failed")
    return 1 if tally.failures or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
