"""Compares the boxes of DTensors with torch's on all ranks of a 4 x 2 mesh; torch caches, so each has a process."""

import os
import sys

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.testing._internal.distributed.fake_pg import FakeStore

from mofang.recovery.checkpoint.state import part_of


def same(tensor, what):
    part = part_of(tensor)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(part.tensor.shape) != tuple(shape) or (part.tensor.numel() and part.offset != tuple(offset)):
        raise SystemExit(f"{what} {tensor.placements}: {part.offset} {tuple(part.tensor.shape)}, not {offset} {shape}")


def compare(rank):
    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=8)
    mesh = init_device_mesh("cpu", (4, 2), mesh_dim_names=("dp", "tp"))
    for rows in (48, 50, 13):
        model = nn.Sequential(nn.Linear(8, rows), nn.Linear(rows, 8))
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])
        hybrid = nn.Linear(8, rows)
        fully_shard(hybrid, mesh=mesh)
        for parameter in (*model.parameters(), *hybrid.parameters()):
            same(parameter, f"rank {rank}, {rows} rows,")
        for placements in ([Shard(0), Shard(0)], [Shard(1), Shard(0)], [Replicate(), Shard(1)]):
            shape, _ = compute_local_shape_and_global_offset((rows, 6), mesh, placements)
            local = torch.zeros(shape)
            plain = DTensor.from_local(local, mesh, placements, shape=(rows, 6), stride=(6, 1), run_check=False)
            same(plain, f"rank {rank}, {rows} rows,")


children = []
for rank in range(8):
    child = os.fork()
    if not child:
        compare(rank)
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
