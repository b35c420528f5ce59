# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""One run of the exchange benchmark with TorchRec's DistributedModelParallel over Gloo, as one of several processes (examples/launch).

    torchrec_exchange.py DESCRIPTION

DESCRIPTION is JSON: workload, kind ("auto" leaves the plan to TorchRec), rows, pooling, dim, batch, steps, warm_up, ids: a file that
benchmark_exchange wrote. Rank 0 prints a line of JSON. A step is what ours is: forward, backward from ones, rowwise Adagrad.
"""

import json
import os
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import numpy
import torch
import torch.distributed as dist


def main(given):
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    rows, pooling, dim, b = given["rows"], given["pooling"], given["dim"], given["batch"] // ranks
    keys = [f"f{t}" for t in range(len(rows))]
    tables = [EmbeddingBagConfig(name=f"t{t}", num_embeddings=rows[t], embedding_dim=dim, feature_names=[keys[t]]) for t in range(len(rows))]
    model = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)
    apply_optimizer_in_backward(RowWiseAdagrad, model.parameters(), {"lr": 0.1})
    sharders = [EmbeddingBagCollectionSharder()]
    asked = {}
    if given["kind"] != "auto":
        partition = dim // ranks if given["kind"] == "column_wise" else None
        asked = {table.name: ParameterConstraints(sharding_types=[given["kind"]], min_partition=partition) for table in tables}
    planner = EmbeddingShardingPlanner(topology=Topology(world_size=ranks, compute_device="cpu"), constraints=asked or None)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    model = DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)

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
