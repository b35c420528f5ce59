# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Trains one matrix a case with torch.optim and writes every tensor that went in or came out: torch_optim.py <folder with cases.json>"""

import json
import pathlib
import sys

import safetensors.torch
import torch

torch.sparse.check_sparse_tensor_invariants.enable()  # else torch warns that it does not
folder = pathlib.Path(sys.argv[1])
tensors = {}
for i, case in enumerate(json.loads((folder / "cases.json").read_text())):
    torch.manual_seed(i)
    rows, dim, bags, dtype = case["rows"], case["dim"], case["bags"], getattr(torch, case["dtype"])
    weight = torch.nn.Parameter(torch.randn(rows, dim, dtype=dtype))
    optimizer = getattr(torch.optim, case["optimizer"])([weight], **case["arguments"])
    tensors[f"{i}.0.weight"] = weight.detach().clone()
    for step in range(1, case["steps"] + 1):
        used = {}
        if case["pooling"] == "none":  # every row, as a dense parameter
            used["gradient"] = torch.randn(rows, dim, dtype=dtype)
            weight.grad = used["gradient"].clone()
        else:  # rows of bags, as a sparse gradient
            used["gradient"] = torch.randn(bags, dim, dtype=dtype)
            used["lengths"] = torch.randint(0, 5, (bags,))
            used["ids"] = torch.randint(0, rows, (int(used["lengths"].sum()),))
            if case["pooling"] == "weighted":
                used["weights"] = torch.rand(used["ids"].shape, dtype=dtype)
            optimizer.zero_grad()
            pooled = torch.nn.functional.embedding_bag(used["ids"], weight, used["lengths"].cumsum(0) - used["lengths"], sparse=True,
                                                       mode="mean" if case["pooling"] == "mean" else "sum",
                                                       per_sample_weights=used.get("weights"))
            (pooled * used["gradient"]).sum().backward()
        optimizer.step()
        used["weight"] = weight.detach().clone()
        for name, value in optimizer.state[weight].items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                used[name] = value.clone()
        tensors.update({f"{i}.{step}.{name}": value for name, value in used.items()})
safetensors.torch.save_file(tensors, folder / "trained.safetensors")
