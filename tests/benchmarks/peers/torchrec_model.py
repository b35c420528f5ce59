# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the benchmarks compare with TorchRec's: tables placed by DistributedModelParallel over Gloo, updated during backward."""

import os
import warnings

warnings.filterwarnings("ignore")
import torch
import torch.distributed as dist


def join():
    """Rank and ranks of the group that examples/launch started, or of one of its own."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
    return rank, ranks


def keys(rows):
    return [f"f{t}" for t in range(len(rows))]


def collection(rows, dim, rule):
    """A collection of a table a feature, under rowwise Adagrad or SGD; without memory."""
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    tables = [EmbeddingBagConfig(name=f"t{t}", num_embeddings=count, embedding_dim=dim, feature_names=[key])
              for t, (count, key) in enumerate(zip(rows, keys(rows)))]
    tables = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)
    kind, given = (torch.optim.SGD, {"lr": .1}) if rule == "sgd" else (RowWiseAdagrad, {"lr": .1, "eps": .1})
    apply_optimizer_in_backward(kind, tables.parameters(), given)
    return tables


def place(model, rows, dim, kind):
    """The model under DistributedModelParallel, its tables by `kind`; "auto" leaves that to TorchRec's planner."""
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints

    ranks = dist.get_world_size()
    sharders = [EmbeddingBagCollectionSharder()]
    asked = {}
    if kind != "auto":
        partition = dim // ranks if kind == "column_wise" else None
        asked = {f"t{t}": ParameterConstraints(sharding_types=[kind], min_partition=partition) for t in range(len(rows))}
    planner = EmbeddingShardingPlanner(topology=Topology(world_size=ranks, compute_device="cpu"), constraints=asked or None)
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    return DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)
