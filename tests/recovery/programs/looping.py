"""A training loop of a user's own, with everything that a restart could get wrong, on the library's five lines."""

import json
import os
import signal
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import torch._dynamo  # what the first optimizer imports otherwise, in every process
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from mofang.recovery import Checkpointer

Checkpointer.__name__  # noqa: B018 - loaded here once, not in every process


class Waves(Dataset):
    def __len__(self):
        return 160

    def __getitem__(self, index):
        return torch.sin(torch.arange(16) * (index + 1) / 7)


def build(mode, dropout):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(16, 33),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Sequential(nn.Linear(33, 33), nn.LayerNorm(33)),
        nn.Linear(33, 16),
    )
    if mode == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if mode == "fsdp":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for layer in (model[0], model[3], model[4]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def batches(loader):
    while True:
        yield from loader


def by_step(step, rank, world):
    """The data of a step, whatever the number of ranks: so many more rows for each of fewer."""
    rows = torch.stack([Waves()[(step * 8 + index) % 160] for index in range(8)])
    return rows[rank * 8 // world : (rank + 1) * 8 // world]


def train(environ, mode, tiers, steps, losses, kill=None, data="loader", stop=None):
    """Run one rank; ``kill`` is the (rank, step) that dies by SIGKILL after it has worked, before it is noted."""
    os.environ.update(environ)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torchdata calls what torch has deprecated
    rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    if mode != "plain":
        distributed.init_process_group("gloo")
    model = build(mode, 0.1 if data == "loader" else 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1000)
    progress = {"seen": 0}
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "progress": progress}
    if data == "loader":
        sampler = StatefulDistributedSampler(Waves(), num_replicas=world, rank=rank, shuffle=True, seed=3)
        state["data"] = loader = StatefulDataLoader(Waves(), batch_size=4, sampler=sampler)
    ckpt = Checkpointer(state=state, tiers=tiers)
    start = ckpt.restore()
    torch.manual_seed(77 + rank) if start == 0 else None
    source = batches(loader) if data == "loader" else None
    with ckpt, Path(f"{losses}.{rank}").open("a") as file:
        for step in range(start, steps):
            x = next(source) if source is not None else by_step(step, rank, world)
            noise = torch.rand(()) if data == "loader" else 0.5
            loss = (model(x) - x).square().mean() * (1 + 0.01 * noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress["seen"] += len(x)
            line = {"step": step, "loss": loss.item(), "lr": schedule.get_last_lr()[0], "seen": progress["seen"]}
            if kill == (rank, step):
                ckpt.wait()
                time.sleep(0.3)  # for the other ranks' commits
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(json.dumps(line) + "\n")
            file.flush()
            ckpt.step(step)
            if step == 2:
                ckpt.wait()  # steps are so short that the arena is not there before all of them are done
            if stop == (rank, step):
                os.kill(os.getpid(), signal.SIGTERM)
    if mode != "plain":
        distributed.destroy_process_group()
    Path(f"{losses}.{rank}.status").write_text(json.dumps(asdict(ckpt.status)))
    os._exit(0)  # no teardown of what the fork server had imported
