# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Makes the torch of a CUDA wheel importable from Python on a host without the gigabytes of CUDA libraries that it links.

    python_torch.py <torch folder> <folder for the stand-ins> <compiler>

Tests compare with Python's torch on the host only. What libtorch_cuda.so and its like want of libraries that are not beside torch is
defined in small stand-ins of the same names, whose functions end the program if they are ever called.
"""

import pathlib
import re
import shutil
import subprocess
import sys

LIBRARIES = ["libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libtorch_python.so", "libc10_cuda.so"]
FOREIGN = re.compile(r"lib(cu|nccl|nvshmem)")  # names of NVIDIA's libraries
LOOSE = re.compile(r"(cu[a-zA-Z]|nccl|nvshmem)")  # and of their functions, where those carry no version


def lines(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def wanted(torch):
    """What torch's libraries want of those that are not there: {library: {version: {function}}}."""
    there = {path.name for path in (*(torch / "lib").iterdir(), *torch.parent.glob("nvidia/**/*.so*"))}
    libraries = [torch / "lib" / name for name in LIBRARIES if name in there]
    missing, library_of, loose = {}, {}, set()
    for path in libraries:
        for line in lines("readelf", "-d", path):
            needed = re.search(r"\(NEEDED\).*\[(.+)\]", line)
            if needed and FOREIGN.match(needed[1]) and needed[1] not in there:
                missing.setdefault(needed[1], {})
        for line in lines("readelf", "-V", path):
            if file := re.search(r" File: (\S+)", line):
                library = file[1]
            elif version := re.search(r" Name: (\S+) +Flags", line):
                library_of[version[1]] = library
    for path in libraries:
        for line in lines("nm", "-D", "--undefined-only", path):
            name, _, version = line.split()[-1].partition("@")
            if library_of.get(version) in missing:
                missing[library_of[version]].setdefault(version, set()).add(name)
            elif not version and LOOSE.match(name):
                loose.add(name)
    if missing:
        missing[min(missing, key=lambda library: len(missing[library]))].setdefault("", loose)
    return missing


def make(folder, library, versions, compiler):
    source, script = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for names in versions.values() for name in sorted(names)))
    script.write_text("".join(f"{version} {{ global: {'; '.join(sorted(names))}; }};\n" for version, names in versions.items() if version))
    flags = [f"-Wl,--version-script={script}"] if script.stat().st_size else []
    subprocess.run([compiler, "-w", "-fno-builtin", "-shared", "-fPIC", "-x", "c", source, *flags, f"-Wl,-soname,{library}", "-o",
                    folder / library], check=True)
    source.unlink()
    script.unlink()


def main(torch, folder, compiler):
    folder = pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for library, versions in wanted(pathlib.Path(torch).resolve()).items():
        make(folder, library, versions, compiler)


if __name__ == "__main__":
    main(*sys.argv[1:])
