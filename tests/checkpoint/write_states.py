# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes files as torch and safetensors write them, and prints as JSON what the models in them compute: write_states.py <folder>"""

import json
import os
import pathlib
import sys

import safetensors.torch
import torch

folder = pathlib.Path(sys.argv[1])
torch.manual_seed(1)
x = torch.randn(5, 3)


class Dense(torch.nn.Module):
    """A plain model, with names as a torch user chooses them."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x):
        return self.net(x)


class EmbeddingBags(torch.nn.Module):
    """Parameters as TorchRec's EmbeddingBagCollection holds them (torchrec/modules/embedding_modules.py)."""

    def __init__(self, tables):
        super().__init__()
        self.embedding_bags = torch.nn.ModuleDict()
        for name, rows, dim, mode in tables:
            self.embedding_bags[name] = torch.nn.EmbeddingBag(rows, dim, mode=mode, include_last_offset=True)

    def forward(self, features):
        return torch.cat([self.embedding_bags[name](values, offsets) for name, values, offsets in features], 1)


class Ranker(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ebc = EmbeddingBags([("t1", 7, 4, "sum"), ("t2", 5, 3, "mean")])
        self.over = torch.nn.Linear(7, 1)

    def forward(self, features):
        return self.over(self.ebc(features))


dense, ranker = Dense(), Ranker()
lengths = {"t1": [2, 0, 3], "t2": [1, 4, 0]}
ids = {"t1": [6, 0, 3, 3, 1], "t2": [4, 0, 1, 2, 2]}
features = [(name, torch.tensor(ids[name]), torch.tensor([0, *lengths[name]]).cumsum(0)) for name in ids]

torch.save(dense.state_dict(), folder / "dense.pt")
safetensors.torch.save_file(dense.state_dict(), folder / "dense.safetensors", {"format": "pt"})
optimizer = torch.optim.AdamW([{"params": dense.net[0].parameters()}, {"params": dense.net[2].parameters()}])
dense(x).sum().backward()
before = {name: value.clone() for name, value in dense.state_dict().items()}
optimizer.step()
torch.save({"epoch": 3, "loss": 0.5, "model_state_dict": before, "optimizer": optimizer.state_dict(), "note": None}, folder / "run.pt")
dense.load_state_dict(before)

torch.save(ranker.state_dict(), folder / "ranker.pt")
torch.save(dict(ranker.named_parameters()), folder / "parameters.pt")
for name, dtype in {"f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}.items():
    state = {key: value.to(dtype) for key, value in ranker.state_dict().items()}
    torch.save(state, folder / f"{name}.pt")
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")

base = torch.arange(24, dtype=torch.float32)
torch.save({"t": base.view(4, 6).t(), "row": base[6:12], "step": base[1::5], "one": torch.tensor(2.5), "none": torch.empty(0, 3),
            "same": base, "wide": torch.ones(1).expand(1000, 1000), "long": torch.arange(-2, 3), "bool": torch.tensor([True, False])},
           folder / "views.pt")


class Touch:
    """What a hostile file does: a pickle that runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, (f"touch '{folder / 'owned'}'",)


class Evaluate:
    def __reduce__(self):
        return eval, ("__import__('os')",)


torch.save({"weight": base, "hook": Touch()}, folder / "system.pt")
torch.save([Evaluate()], folder / "eval.pt")
torch.save(dense, folder / "module.pt")
torch.save({"weight": base}, folder / "protocol4.pt", pickle_protocol=4)
torch.save({"weight": base}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
torch.save({"weight": base.to_sparse()}, folder / "sparse.pt")
torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "script.pt")

print(json.dumps({"x": x.tolist(), "dense": dense(x).tolist(), "ids": ids, "lengths": lengths, "ranker": ranker(features).tolist(),
                  "f16": ranker.half().float()(features).tolist()}))
