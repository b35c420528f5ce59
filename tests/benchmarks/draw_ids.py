# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Draws the ids that ours and the peers look up, once for each workload, law and seed, into a file that both sides read.

    draw_ids.py FILE ROWS POOLING BATCH ALPHA SEED [COUNT]         lists are numbers between commas

A file is int64: of each of COUNT batches the offsets [T * B + 1], then the ids [N], table by table.
"""

import os
import pathlib
import sys

import numpy


def draw(rows, pooling, batch, alpha, seed, count=8):
    """Batches as pairs of offsets [T * B + 1] and ids [N]; the same for the same arguments. A table's ids do not hang on the other tables."""
    offsets = numpy.concatenate([[0], numpy.cumsum(numpy.repeat(pooling, batch))]).astype(numpy.int64)
    parts = [[] for _ in range(count)]
    for table, (height, bag) in enumerate(zip(rows, pooling)):
        random = numpy.random.Generator(numpy.random.PCG64([seed, table]))
        if alpha > 0:
            law = numpy.cumsum(numpy.arange(1, height + 1, dtype=numpy.float64) ** -alpha)
            row_of_rank = random.permutation(height)
        for part in parts:
            if alpha > 0:
                rank = numpy.searchsorted(law, random.random(batch * bag) * law[-1])
                part.append(row_of_rank[numpy.minimum(rank, height - 1)])
            else:
                part.append(random.integers(0, height, batch * bag))
    return [(offsets, numpy.concatenate(part).astype(numpy.int64)) for part in parts]


def write(file, batches):
    file = pathlib.Path(file)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with open(part, "wb") as out:
        for offsets, ids in batches:
            out.write(offsets.tobytes())
            out.write(ids.tobytes())
    part.replace(file)


def read(file, bags, ids):
    """What write() was given."""
    numbers = numpy.fromfile(file, dtype=numpy.int64).reshape(-1, bags + 1 + ids)
    return [(row[:bags + 1].copy(), row[bags + 1:].copy()) for row in numbers]


if __name__ == "__main__":
    listed = lambda text: [int(word) for word in text.split(",")]
    given = sys.argv[2:]
    write(sys.argv[1], draw(listed(given[0]), listed(given[1]), int(given[2]), float(given[3]), int(given[4]), *map(int, given[5:])))
