# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The peers' side of tests/benchmarks/run peers: FBGEMM's TBE for CPUs, torch.nn.EmbeddingBag, and TorchRec. Commands are those of ../worker.hpp.

    open subject=tbe rows=.. pooling=.. dim=.. batch=.. rule=rowwise_adagrad|sgd u=FILE [z=FILE]
    open subject=bags rows=.. pooling=.. dim=.. batch=.. rule=sgd|adam u=FILE [z=FILE]
    open subject=torchrec|dlrm rows=.. pooling=.. dim=.. batch=.. rule=.. kind=table_wise|auto u=FILE [z=FILE]          a batch is that of all ranks
    run law=u what=forward|step|check seconds=.5 least=10 [count=100]
    close
"""

import json
import os
import pathlib
import sys
import time
import types

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import draw_ids
import torchrec_model


def timed(given, fn):
    """As timed() of ../worker.hpp."""
    counted = "count" in given
    count, seconds = (int(given["count"]), 0) if counted else (int(given["least"]), float(given["seconds"]))
    times, i = [], 0
    begin = time.perf_counter()
    while True:
        fn(i)
        i += 1
        if i > count // 10 if counted else time.perf_counter() - begin >= seconds / 10:
            break
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < count:
        one = time.perf_counter()
        fn(i)
        times.append((time.perf_counter() - one) * 1e6)
        i += 1
    times.sort()
    return {"p25": times[len(times) // 4], "median": times[len(times) // 2], "count": len(times)}


class Subject:
    """What can be looked up in and stepped: `forward(law, i)` and `step(law, i)` on request i."""

    def __init__(self, given):
        listed = lambda name: [int(word) for word in given[name].split(",")]
        self.rows, self.pooling, self.dim, self.batch = listed("rows"), listed("pooling"), int(given["dim"]), int(given["batch"])
        self.rule = given.get("rule", "sgd")
        self.requests = {}
        for law in ("u", "z"):
            if law in given:
                read = draw_ids.read(given[law], len(self.rows) * self.batch, self.batch * sum(self.pooling))
                self.requests[law] = [self.prepare(torch.from_numpy(ids), torch.from_numpy(offsets)) for offsets, ids in read]

    def request(self, law, i):
        own = self.requests[law]
        return own[i % len(own)]


class Tbe(Subject):
    """SplitTableBatchedEmbeddingBags, which updates its tables during backward. It does not look whether ids are rows."""

    def __init__(self, given):
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

        super().__init__(given)
        rule = {"rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "sgd": EmbOptimType.EXACT_SGD}[self.rule]
        self.module = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, self.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in self.rows], optimizer=rule, learning_rate=.1, eps=.1,
            pooling_mode=PoolingMode.SUM, bounds_check_mode=BoundsCheckMode.NONE)
        self.module.weights_host.data.fill_(.01)
        self.gradient = torch.full((self.batch, self.dim * len(self.rows)), 1e-3)

    def prepare(self, ids, offsets):
        return ids, offsets

    def forward(self, law, i):
        return self.module(*self.request(law, i))

    def step(self, law, i):
        self.forward(law, i).backward(self.gradient)

    def total(self, law):
        return float(self.forward(law, 0).double().sum())


class Bags(Subject):
    """An EmbeddingBag a table with sparse gradients under torch.optim. The tensors of each are cut before they are timed, outputs not joined."""

    def __init__(self, given):
        super().__init__(given)
        self.bags = [torch.nn.EmbeddingBag(rows, self.dim, mode="sum", sparse=True, include_last_offset=True,
                                           _weight=torch.full((rows, self.dim), .01)) for rows in self.rows]
        weights = [bag.weight for bag in self.bags]
        self.optimizer = torch.optim.SGD(weights, lr=.1) if self.rule == "sgd" else torch.optim.SparseAdam(weights, lr=1e-3)
        self.gradients = [torch.full((self.batch, self.dim), 1e-3) for _ in self.rows]

    def prepare(self, ids, offsets):
        cut = [offsets[t * self.batch:(t + 1) * self.batch + 1] for t in range(len(self.rows))]
        return [(ids[int(one[0]):int(one[-1])].clone(), one - one[0]) for one in cut]

    def forward(self, law, i):
        return [bag(*one) for bag, one in zip(self.bags, self.request(law, i))]

    def step(self, law, i):
        torch.autograd.backward(self.forward(law, i), self.gradients)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def total(self, law):
        return sum(float(one.double().sum()) for one in self.forward(law, 0))


class TorchRec(Subject):
    """An EmbeddingBagCollection under DistributedModelParallel."""

    def __init__(self, given):
        super().__init__(given)
        self.model = torchrec_model.place(torchrec_model.collection(self.rows, self.dim, self.rule), self.rows, self.dim, given["kind"])
        for parameter in self.model.parameters():
            parameter.data.fill_(.01)
        self.gradient = torch.full((self.own, self.dim * len(self.rows)), 1e-3)

    @property
    def own(self):
        """Rows of this rank."""
        return self.batch // RANKS

    def prepare(self, ids, offsets):
        from torchrec import KeyedJaggedTensor

        values, lengths = [], []
        for t, bag in enumerate(self.pooling):
            first = int(offsets[t * self.batch]) + RANK * self.own * bag
            values.append(ids[first:first + self.own * bag])
            lengths.append(torch.full((self.own,), bag))
        return KeyedJaggedTensor.from_lengths_sync(keys=torchrec_model.keys(self.rows), values=torch.cat(values), lengths=torch.cat(lengths))

    def forward(self, law, i):
        return self.model(self.request(law, i)).values()

    def step(self, law, i):
        self.forward(law, i).backward(self.gradient)

    def total(self, law):
        return float(self.forward(law, 0).double().sum())


class Dlrm(TorchRec):
    """TorchRec's DLRM with the layers of the Kaggle data set; SGD on all that is dense."""

    def __init__(self, given):
        files = types.ModuleType("iopath.common.file_io")      # which the package imports beside the model, for data sets that none reads
        files.PathManager = files.PathManagerFactory = object
        sys.modules.update({"iopath": types.ModuleType("iopath"), "iopath.common": types.ModuleType("iopath.common"), files.__name__: files})
        from torchrec.models.dlrm import DLRM

        Subject.__init__(self, given)
        model = DLRM(torchrec_model.collection(self.rows, self.dim, self.rule), dense_in_features=13, dense_arch_layer_sizes=[512, 256, 64, self.dim],
                     over_arch_layer_sizes=[512, 256, 1])
        self.model = torchrec_model.place(model, self.rows, self.dim, given["kind"])
        dense = [parameter for name, parameter in self.model.named_parameters() if "embedding_bags" not in name]
        self.optimizer = torch.optim.SGD(dense, lr=.1)
        self.loss = torch.nn.BCEWithLogitsLoss()
        self.dense = (torch.arange(self.own * 13) * 7919 % 1000).float().div(1000).view(self.own, 13)
        self.labels = (torch.arange(self.own) % 4 == 0).float()

    def forward(self, law, i):
        return self.model(self.dense, self.request(law, i)).squeeze(1)

    def step(self, law, i):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.forward(law, i), self.labels).backward()
        self.optimizer.step()


SUBJECTS = {"tbe": Tbe, "bags": Bags, "torchrec": TorchRec, "dlrm": Dlrm}
RANK, RANKS = 0, 1


def answer(line):
    """For all ranks."""
    if RANK == 0:
        print(json.dumps(line), flush=True)


def run(subject, given):
    law, what = given["law"], given["what"]
    if what == "check":
        for i in range(3):
            subject.step(law, i)
        with torch.no_grad():
            return {"sum": subject.total(law)}
    if what == "step":
        return timed(given, lambda i: subject.step(law, i))
    with torch.no_grad():
        return timed(given, lambda i: subject.forward(law, i))


def main():
    global RANK, RANKS
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(json.dumps({"pid": os.getpid(), "torch": torch.__version__}), flush=True)
    RANK, RANKS = torchrec_model.join()
    commands = os.environ.get("ROOKERY_COMMANDS")
    subject = None
    for line in open(f"{commands}.{RANK}") if commands else sys.stdin:
        word, *pairs = line.split()
        given = dict(pair.split("=", 1) for pair in pairs)
        if word == "open":
            subject = None  # its memory first
            subject = SUBJECTS[given["subject"]](given)
            answer({})
        elif word == "close":
            subject = None
            answer({})
        else:
            answer(run(subject, given))


if __name__ == "__main__":
    main()
