# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One run of the exchange benchmark with TorchRec's DistributedModelParallel over Gloo, as one of several processes (examples/launch).

    torchrec_exchange.py DESCRIPTION

DESCRIPTION is JSON: workload, kind ("auto" leaves the plan to TorchRec), rows, pooling, dim, batch, steps, warm_up, ids: a file that
benchmark_exchange wrote. Rank 0 prints a line of JSON. A step is what ours is: forward, backward from ones, rowwise Adagrad.
"""

import json
import sys
import time

import numpy
import torch
import torch.distributed as dist

import torchrec_model


def main(given):
    torch.set_num_threads(1)
    rank, ranks = torchrec_model.join()
    from torchrec import KeyedJaggedTensor

    rows, pooling, dim, b = given["rows"], given["pooling"], given["dim"], given["batch"] // ranks
    model = torchrec_model.place(torchrec_model.collection(rows, dim, "rowwise_adagrad"), rows, dim, given["kind"])
    keys = torchrec_model.keys(rows)
    every = b * sum(pooling)
    values = torch.from_numpy(numpy.fromfile(given["ids"], dtype=numpy.int64).reshape(ranks, -1, every)[rank].copy())
    lengths = torch.repeat_interleave(torch.tensor(pooling), b)
    batches = [KeyedJaggedTensor.from_lengths_sync(keys=keys, values=one, lengths=lengths) for one in values]
    gradient = torch.ones(b, dim * len(rows))
    step_us = []
    for step in range(given["warm_up"] + given["steps"]):
        dist.barrier()
        if step == given["warm_up"]:
            cpu = time.process_time()
        begin = time.perf_counter()
        model(batches[step % len(batches)]).values().backward(gradient)
        step_us.append((time.perf_counter() - begin) * 1e6)
    cpu_us = (time.process_time() - cpu) * 1e6 / given["steps"]
    if rank == 0:
        print(json.dumps({"side": "torchrec", "workload": given["workload"], "kind": given["kind"], "topology": "gloo", "ranks": ranks,
                          "cpu_us": cpu_us, "step_us": step_us[given["warm_up"]:]}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
