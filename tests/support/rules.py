# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The rules of the house that need no compiler: folders, lists, lengths, symbols, and the ledger of compile cost."""

import json
import pathlib
import re
import subprocess

# Each line may include its own folders and those of the lines above it.
LAYERS = [["core"], ["concepts"], ["sparse"], ["rules"], ["kernels"], ["embedding"], ["modules", "loss", "adapt"], ["comm"], ["topology"],
          ["planner"], ["sharding"], ["optim"], ["metrics"], ["log"], ["checkpoint"], ["data"], ["train"], ["models", "serve"], ["shim"]]
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
EXEMPT = {"detail"}  # and the umbrella, which lies in no folder
BANNED = re.compile(r"^\s*#\s*include\s*<(torch/torch\.h|torch/nn\.h|torch/nn/.*|torch/all\.h|ATen/ATen\.h|torch/types\.h)>", re.M)
HEAVY = re.compile(r"^\s*#\s*include\s*<ATen/ops/(?!\w+_ops\.h|from_blob\.h)", re.M)  # 240 MB of compiler each time: core/operators.hpp
INCLUDE = re.compile(r"^\s*#\s*include\s*[<\"]rookery/([^>\"]+)[>\"]", re.M)
SPDX = "// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n"


def listed(build_file, suffix):
    """The quoted names with this suffix in a meson.build."""
    return set(re.findall(r"'([^']+" + re.escape(suffix) + r")'", build_file.read_text()))


def compare(folder_files, listed_files):
    lines = [f"  {name} is in the folder and not in the list" for name in sorted(folder_files - listed_files)]
    lines += [f"  {name} is in the list and not in the folder" for name in sorted(listed_files - folder_files)]
    return "\n".join(lines)


def check_layers(headers):
    wrong = []
    for path, text in headers.items():
        own = path.split("/")[0]
        if "/" not in path or own in EXEMPT:
            continue
        if own not in LEVEL:
            wrong.append(f"  {path}: its folder {own}/ has no place in the order of folders")
            continue
        for include in INCLUDE.findall(text):
            other = include.split("/")[0]
            if "/" not in include or (other not in EXEMPT and LEVEL.get(other, 99) > LEVEL[own]):
                wrong.append(f"  {path} includes {include}, which lies below it")
    return "\n".join(wrong)


def error_classes(headers):
    """The names of `Error` and of what derives from it, step by step."""
    derived = [pair for text in headers.values() for pair in re.findall(r"\bclass (\w+)(?: final)? : public (\w+)", text)]
    names = {"Error"}
    while more := {name for name, base in derived if base in names} - names:
        names |= more
    return names


def check_symbols(target, banned):
    """`target` is a program, or the record of a check that built one beside it."""
    program = target.with_name(target.name + ".exe")
    program = program if program.exists() else target
    symbols = subprocess.run(["nm", "-C", str(program)], capture_output=True, text=True, check=True).stdout
    return "\n".join([f"  {line}" for line in symbols.splitlines() if re.search(banned, line)][:10])


def check_ledger(ledger, build, unchecked):
    """Each header's compile cost, as its own check measured it, against its line `header seconds megabytes`."""
    ceilings = {}
    for line in ledger.read_text().splitlines():
        if line and not line.startswith("#"):
            name, seconds, megabytes = line.split()
            ceilings[name] = float(seconds), float(megabytes)
    wrong, seen = [], set()
    for path in sorted((build / "tests").glob("alone_*")):
        if path.suffix:
            continue
        cost = json.loads(path.read_text())
        name = cost["header"]
        seen.add(name)
        if name not in ceilings:
            wrong.append(f"  {name} has no line; it costs {cost['seconds']} s and {cost['megabytes']} MB")
        elif cost["seconds"] > ceilings[name][0] or cost["megabytes"] > ceilings[name][1]:
            wrong.append(f"  {name} costs {cost['seconds']} s and {cost['megabytes']} MB; its ceiling is %g s and %g MB" % ceilings[name])
    wrong += [f"  {name} has a line and no measurement" for name in sorted(set(ceilings) - seen - unchecked)]
    return "\n".join(wrong)


def check_all(root, build, kinds, unbuilt, compiled):
    """Yields (name, what is wrong) for each rule that the built things allow to check."""
    include, tests = root / "include", root / "tests"
    paths = {path.relative_to(include / "rookery").as_posix(): path.read_text() for path in (include / "rookery").rglob("*.hpp")}

    def each(predicate):
        return "\n".join(f"  {path}" for path, text in sorted(paths.items()) if not predicate(path, text))

    yield "the list of headers is the folder", compare({f"rookery/{path}" for path in paths}, listed(include / "meson.build", ".hpp"))
    test_list = listed(tests / "meson.build", "_test.cpp")
    test_files = {path.relative_to(tests).as_posix() for path in tests.rglob("*_test.cpp")}
    yield "the list of tests is the folder", compare(test_files, test_list)
    yield "headers include only their own folder and those above", check_layers(paths)
    yield "no header but adapters includes all of LibTorch", each(
        lambda path, text: path.startswith("adapt/") or not BANNED.search(text))
    yield "no header includes ATen/ops beside the operators' schemas", each(
        lambda path, text: path.startswith("adapt/") or not HEAVY.search(text))
    yield "every header names its licence first", each(lambda path, text: text.startswith(SPDX + "#pragma once\n"))
    yield "no header is longer than 500 lines", each(lambda path, text: text.count("\n") <= 500)
    yield "no line of a header is longer than 140", "\n".join(
        f"  {path}:{number} has {len(line)}" for path, text in sorted(paths.items())
        for number, line in enumerate(text.splitlines(), 1) if len(line) > 140)
    code = "\n".join(path.read_text() for path in tests.rglob("*.cpp"))
    yield "every header is named in a test", each(lambda path, text: f"rookery/{path}" in code)
    if not compiled:
        return
    left_out = {f"rookery/{path}" for path in paths for library in ("mpi", "nccl")
                if path.startswith(f"topology/{library}") and f"tests/alone_rookery_topology_{library}_hpp" not in kinds["check"]}
    yield "headers stay below their ceilings in the ledger", check_ledger(tests / "compile_cost/ledger.txt", build, left_out)
    ours = rf"vtable for rookery::(?!(\w+::)*({'|'.join(sorted(error_classes(paths)))})$)"
    for target, marks in kinds["check"].items():
        if "no_vtable" in marks and target not in unbuilt:
            yield f"{target} has no vtable of ours but Error's", check_symbols(build / target, ours)
        if "no_network" in marks and target not in unbuilt:
            yield f"{target} has no c10d, MPI or NCCL symbol", check_symbols(build / target, r"\bc10d::|\bMPI_|\bnccl[A-Z]")
