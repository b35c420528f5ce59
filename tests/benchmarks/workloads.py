# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The workloads of the benchmarks: rows and ids a bag of each table, columns, and rows of a batch."""

KAGGLE = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15,
          286181, 105, 142572]
# DLRM-DCNv2's, the largest cut to a million rows.
DCN = [1_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 1_000_000, 1_000_000, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14, 1_000_000,
       1_000_000, 1_000_000, 590_152, 12_973, 108, 36]
DCN_POOLING = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1]

WORKLOADS = {
    "W1": {"rows": [100_000] * 32, "pooling": [20] * 32, "dim": 128, "batch": 512},
    "W2s": {"rows": DCN, "pooling": DCN_POOLING, "dim": 128, "batch": 512},
    "W3.2048": {"rows": KAGGLE, "pooling": [1] * 26, "dim": 16, "batch": 2048},
    "W3.128": {"rows": KAGGLE, "pooling": [1] * 26, "dim": 16, "batch": 128},
    "W9.16": {"rows": [1000] * 4, "pooling": [10] * 4, "dim": 16, "batch": 1024},
    "W9.128": {"rows": [1000] * 4, "pooling": [10] * 4, "dim": 128, "batch": 1024},
    "W11": {"rows": [424_241, 72_543], "pooling": [1, 1], "dim": 4, "batch": 500},
    "B1": {"rows": [1000] * 4, "pooling": [1] * 4, "dim": 16, "batch": 1},
    # Many tables and many rows beside few, of equal batch and bags.
    "S.8": {"rows": [1_000_000] * 8, "pooling": [20] * 8, "dim": 64, "batch": 128},
    "S.1000": {"rows": [8_000] * 1000, "pooling": [20] * 1000, "dim": 64, "batch": 128},
    "S.1e5": {"rows": [100_000] * 8, "pooling": [20] * 8, "dim": 64, "batch": 128},
    "S.5e6": {"rows": [5_000_000] * 8, "pooling": [20] * 8, "dim": 64, "batch": 128},
}
LAWS = {"u": 0.0, "z": 1.05}  # ids by rank^-law; 0: all rows alike


def ids_of(workload):
    """Ids of a batch."""
    return WORKLOADS[workload]["batch"] * sum(WORKLOADS[workload]["pooling"])


def bytes_of(workload):
    """Of the tables, in float32."""
    return sum(WORKLOADS[workload]["rows"]) * WORKLOADS[workload]["dim"] * 4
