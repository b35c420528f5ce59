# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The checks by script. Each is a build target: its output file appears when the check passes, and ninja repeats it when a source changed.

    check.py header  <name> <output> <depfile> <compiler...>       the header compiles alone, included twice; the output holds its cost
    check.py packages <name> <output> <depfile> <compiler...>      the header compiles without a CUDA of the machine's own
    check.py traps   <include folder> <output> <depfile> <compiler...>   all headers survive a reader's macros
    check.py fails   <case> <output> <depfile> <compiler...>       a mistake is one error, in words (see tests/compile_fail)
    check.py program <source> <output> <depfile> <seconds> <megabytes> <ranks> <flags and compiler...> -- <link flags...>
                                                                   builds within a budget, and runs
    check.py readme  <README.md> <output>   its first C++ block becomes a source file
    check.py samples <page> <source> <output>   the C++ blocks of a page take the places of lines `// docs: <heading>`
    check.py consumer <subproject|pkg-config|plain> <output> <repository> <build folder> <compiler...> -- <link flags...>
"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Short names that system headers (complex.h, termios.h, sys/sysmacros.h) and other people's code define as macros.
TRAPS = ["I", "B0", "small", "major", "minor", "OVERFLOW", "ERROR", "DEBUG", "TRUE", "FALSE"]


def fail(*lines):
    sys.exit("\n".join(str(line) for line in lines))


def run(command, text=None, **options):
    """The finished command with its output, the user + system seconds it took and the peak of its memory in MB."""
    environment = dict(os.environ, LC_ALL="C")
    with tempfile.TemporaryFile("w+") as source, tempfile.TemporaryFile("w+") as output:
        source.write(text or "")
        source.seek(0)
        process = subprocess.Popen(command, stdin=source, stdout=output, stderr=subprocess.STDOUT, env=environment, **options)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return process.returncode, output.read(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 // 1000000


def parse(compiler, source, output, depfile, flags=()):
    """Parses a file, or lines of text, without making code, and leaves the files it read in `depfile`."""
    dependencies = ["-MMD", "-MF", depfile, "-MT", output] if depfile else []
    if isinstance(source, pathlib.Path):
        return run([*compiler, "-fsyntax-only", *flags, *dependencies, str(source)])
    return run([*compiler, "-fsyntax-only", *flags, *dependencies, "-x", "c++", "-"], "\n".join(source) + "\n")


def header(name, output, depfile, *compiler):
    code, text, seconds, megabytes = parse(compiler, [f"#include <{name}>"] * 2, output, depfile)
    if code:
        fail(f"{name} does not compile alone", text)
    pathlib.Path(output).write_text(json.dumps({"header": name, "seconds": round(seconds, 2), "megabytes": megabytes}) + "\n")


def packages(name, output, depfile, *compiler):
    program = [word for word in compiler if not word.startswith("-")]
    folders = re.findall(r"^ (/.+)$", run([*program, "-E", "-v", "-x", "c++", "-"])[1], re.M)
    cuda = ["nccl.h", "cuda_runtime_api.h", "crt/host_config.h", "nv/target"]
    kept = ["-isystem" + folder for folder in folders if not any((pathlib.Path(folder) / file).exists() for file in cuda)]
    code, text, _, _ = parse(compiler, [f"#include <{name}>"], output, depfile, ["-nostdinc", "-nostdinc++", *kept])
    if code:
        fail(f"{name} does not compile with the packages beside LibTorch alone", text)
    pathlib.Path(output).touch()


@functools.cache
def needs(folder, name):
    """What a header, or one of ours that it includes, refuses to compile without: `__has_include(<mpi.h>)`."""
    text = (pathlib.Path(folder) / name).read_text()
    found = set(re.findall(r"^#if !(__has_include\(<[^>]+>\))\n#error", text, re.M))
    return found.union(*(needs(folder, other) for other in re.findall(r"^#include <(rookery/[^>]+)>", text, re.M)))


def traps(folder, output, depfile, *compiler):
    names = sorted(path.relative_to(folder).as_posix() for path in pathlib.Path(folder).rglob("*.hpp"))
    system = {"ATen/ATen.h": "1"}
    for name in names:
        for other in re.findall(r"^\s*#\s*include\s*<((?!rookery/)[^>]+)>", (pathlib.Path(folder) / name).read_text(), re.M):
            system.setdefault(other, " && ".join([f"__has_include(<{other}>)", *sorted(needs(folder, name))]))
    lines = [f"#if {condition}\n#include <{name}>\n#endif" for name, condition in sorted(system.items())]
    lines += [f"#undef {name}\n#define {name} @" for name in TRAPS]
    lines += [f"#if {' && '.join(['1', *needs(folder, name)])}\n#include <{name}>\n#endif" for name in names]
    code, text, _, _ = parse(compiler, lines, output, depfile, ["-fmax-errors=5"])
    if code:
        fail("a header uses a name that readers define as a macro", text)
    pathlib.Path(output).touch()


def fails(case, output, depfile, *compiler):
    """The control compiles; with EXPECT_FAIL there is one error, at most 15 lines, every expected text, and anchors that exist."""
    source = pathlib.Path(case)
    root = source.resolve().parents[2]
    folder = [f"-I{root / 'tests'}"]
    expected = re.findall(r"^// expect-error: (.+)$", source.read_text(), re.M)
    if not expected:
        fail(f"{case} has no line `// expect-error: <regex>`")
    code, text, _, _ = parse(compiler, source, output, depfile, folder)
    if code:
        fail(f"the control of {case} does not compile", text)
    code, text, _, _ = parse(compiler, source, output, None, [*folder, "-DEXPECT_FAIL"])
    if not code:
        fail(f"{case} compiles with EXPECT_FAIL")
    wrong = [f"it does not say: {regex}" for regex in expected if not re.search(regex, text)]
    errors, lines = len(re.findall(r"\berror: ", text)), len(text.splitlines())
    if errors != 1:
        wrong.append(f"it has {errors} errors; one is wanted")
    if lines > 15:
        wrong.append(f"it has {lines} lines; 15 at most are wanted")
    for page, anchor in set(re.findall(r"(docs/[\w./-]+\.md)#([\w-]+)", text)):
        path = root / page
        titles = re.findall(r"^#+ +(.+?) *$", path.read_text(), re.M) if path.exists() else []
        with open(depfile, "a") as file:
            file.write(f"\n{output}: {path}\n" if path.exists() else "")
        if anchor not in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]:
            wrong.append(f"it points to {page}#{anchor}, which is no heading")
    if wrong:
        fail(f"the error of {case}:", *wrong, "", text)
    pathlib.Path(output).touch()


def split_link(arguments):
    at = arguments.index("--")
    return list(arguments[:at]), list(arguments[at + 1:])


def program(source, output, depfile, seconds_limit, megabytes_limit, ranks, *arguments):
    compiler, link = split_link(arguments)
    flags = [compiler.pop(0) for _ in range(len(compiler)) if compiler[0].startswith("-")]
    unit, executable = output + ".o", output + ".exe"
    for _ in range(3):  # a busy machine makes the same work cost more: over the budget counts when it is so three times
        code, text, seconds, megabytes = run([*compiler, "-O2", *flags, "-c", source, "-o", unit, "-MMD", "-MF", depfile, "-MT", output])
        if code:
            fail(f"{source} does not compile", text)
        print(f"{source} {' '.join(flags)}: {seconds:.1f} s user + sys, {megabytes} MB at -O2")
        if within := seconds <= float(seconds_limit) and megabytes <= float(megabytes_limit):
            break
    if not within:
        fail(f"{source} costs {seconds:.1f} s and {megabytes} MB; the budget is {seconds_limit} s and {megabytes_limit} MB")
    code, text, _, _ = run([*compiler, unit, "-o", executable, *link])
    if code:
        fail(f"{source} does not link", text)
    for count in range(1, int(ranks) + 1):
        result = subprocess.run([executable], env=dict(os.environ, ROOKERY_RANKS=str(count)), timeout=120, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            fail(f"{source} ended with status {result.returncode} on {count} ranks", result.stdout)
    pathlib.Path(output).write_text(json.dumps({"program": source, "seconds": round(seconds, 2), "megabytes": megabytes}) + "\n")


def readme(page, output):
    block = re.search(r"^```cpp\n(.*?)^```", pathlib.Path(page).read_text(), re.M | re.S)
    if not block:
        fail(f"{page} has no ```cpp block")
    pathlib.Path(output).write_text(block[1])


def samples(page, source, output):
    """Each heading's blocks go to the one line that names it; a block without a line fails, and so does a line without a block."""
    blocks, heading = {}, ""
    for language, block, title in re.findall(r"^```(\w*)\n(.*?)^```|^#+ +(.+?) *$", pathlib.Path(page).read_text(), re.M | re.S):
        heading = title or heading
        if language == "cpp":
            blocks[heading] = blocks.get(heading, "") + block
    text = re.sub(r"^ *// docs: (.+)\n", lambda line: blocks.pop(line[1], f"#error {page} has no sample under '{line[1]}'\n"),
                  pathlib.Path(source).read_text(), flags=re.M)
    if blocks:
        fail(f"{source} has no line `// docs: ` for {', '.join(blocks)} of {page}")
    pathlib.Path(output).write_text(text)


def consumer(way, output, repository, build, *arguments):
    """A foreign project uses the library: as a Meson subproject, by pkg-config, or by one command line."""
    compiler, link = split_link(arguments)
    source = pathlib.Path(repository) / "tests/consumer"
    work = pathlib.Path(output + ".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    environment = dict(os.environ)
    if way == "plain":
        steps = [[*compiler, str(source / "main.cpp"), "-o", str(work / "consumer"), *link], [str(work / "consumer")]]
        environment = {}
    else:
        shutil.copytree(source, work / "project")
        options = []
        if way == "subproject":
            (work / "project/subprojects").mkdir()
            (work / "project/subprojects/rookery").symlink_to(repository)
            if (pathlib.Path(build) / "torch.ini").exists():
                options = ["--native-file", str(pathlib.Path(build) / "torch.ini")]
        else:
            environment["PKG_CONFIG_PATH"] = str(pathlib.Path(build) / "meson-uninstalled")
            options = ["--wrap-mode=nofallback"]
        steps = [["meson", "setup", str(work / "build"), str(work / "project"), "-Dwerror=true", *options],
                 ["ninja", "-C", str(work / "build"), "consumer"], [str(work / "build/consumer")]]
    for step in steps:
        result = subprocess.run(step, env={**environment, "LC_ALL": "C"} if environment else None, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode:
            fail(f"consumer by {way}: {' '.join(step)}", result.stdout)
    pathlib.Path(output).touch()


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    globals()[command](*arguments)
