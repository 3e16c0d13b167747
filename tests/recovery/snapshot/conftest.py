"""Ranks are threads here: what takes and restores snapshots is the real code, only the collectives are not."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from mofang.clock import SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.manifest import chunk
from mofang.recovery.checkpoint.state import Part, TrainingState, part_of
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.restore import restore

WHOLE = {
    "a": torch.arange(35.0).reshape(7, 5),
    "b": torch.arange(2, dtype=torch.int64),  # fewer rows than ranks
    "c": torch.arange(11).to(torch.bfloat16),
    "d": torch.tensor(3.5),  # no dimension at all
}


class ThreadPeers:
    def __init__(self, rank, world_size, shared):
        self.rank, self.world_size = rank, world_size
        self.barrier, self.values = shared

    def gather(self, value):
        self.values[self.rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values

    gather_text = gather

    def all_ok(self, ok):
        return all(self.gather(ok))

    def from_first(self, value):
        return self.gather(value)[0]


def together(world_size, action):
    """Run ``action(peers)`` on every rank at once; return results or errors in the order of ranks."""
    shared = threading.Barrier(world_size, timeout=20), [None] * world_size

    def one(rank):
        try:
            return action(ThreadPeers(rank, world_size, shared))
        except CheckpointError as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def values_at(step):
    return {name: tensor + step for name, tensor in WHOLE.items()}


def cut(whole, rank, world_size):
    start, length = chunk(whole.shape[0], world_size, rank)
    offset = (start, *(0,) * (whole.ndim - 1))
    return Part(tensor=whole[start : start + length].clone(), shape=tuple(whole.shape), offset=offset, replicated=False)


def state_of(rank, world_size, step=0, *, blank=False, sharded=("a", "b", "c")):
    source = {name: torch.zeros_like(tensor) if blank else tensor for name, tensor in values_at(step).items()}
    parts = {
        name: cut(tensor, rank, world_size) if name in sharded else part_of(tensor.clone())
        for name, tensor in source.items()
    }
    return TrainingState(
        step=step,
        parts=parts,
        private={"random": torch.full((3,), -1 if blank else 100 * step + rank)},
        scalars={"step": step, "lr": 0.1 + 0.2},
        own={"position": [step, rank]},
    )


@dataclass
class Job:
    """A job whose nodes are folders: everything of a node is seen by its ranks only."""

    folder: object

    def place(self, rank, layout):
        first = 0
        for node, size in enumerate(layout):
            if first <= rank < first + size:
                folder = self.folder / f"node-{node}"
                folder.mkdir(exist_ok=True)
                ranks = tuple(range(first, first + size))
                return Place(
                    prefix="mofang.job.1.", rank=rank, world_size=sum(layout), ranks_of_node=ranks, folder=folder
                )
            first += size
        raise AssertionError(rank)

    def tier(self, rank, layout, fence=1, *, sharded=("a", "b", "c")):
        tier = MemoryTier(self.place(rank, layout), fence=fence, clock=SystemClock())
        tier.prepare(state_of(rank, sum(layout), sharded=sharded))
        assert tier.wait(20), tier.problem
        return tier

    def snapshot(self, layout, steps, fence=1, *, sharded=("a", "b", "c"), forget=None):
        """Let every rank take snapshots of these steps, in one generation."""
        tiers = [self.tier(rank, layout, fence, sharded=sharded) for rank in range(sum(layout))]
        for tier in tiers if forget is not None else ():
            tier.forget(*forget)
        for step in steps:
            turn = tiers[0].choose([sum(ballots) for ballots in zip(*(tier.ballot() for tier in tiers), strict=True)])
            assert turn is not None
            for rank, tier in enumerate(tiers):
                tier.take(state_of(rank, sum(layout), step, sharded=sharded), turn)
            assert all(tier.wait(20) for tier in tiers), [tier.problem for tier in tiers]
        for tier in tiers:
            tier.close()

    def restore(self, layout, *, sharded=("a", "b", "c"), fetch=None, from_step=0):
        """Return (loaded, state) of every rank, and what was refused."""
        refused = []

        def one(peers):
            place = self.place(peers.rank, layout)
            state = state_of(peers.rank, sum(layout), blank=True, sharded=sharded)
            loaded = restore(
                place,
                state,
                peers=peers,
                clock=SystemClock(),
                on_refused=lambda path, why: refused.append((path.name, why)),
                fetch=fetch(place) if fetch else None,
                from_step=from_step,
            )
            return loaded, state

        return together(sum(layout), one), refused


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def assert_holds(results, step, *, sharded=("a", "b", "c")):
    for rank, (loaded, state) in enumerate(results):
        assert loaded is not None
        assert loaded.step == step
        expected = state_of(rank, len(results), step, sharded=sharded)
        for name, part in state.parts.items():
            assert torch.equal(part.tensor, expected.parts[name].tensor), (rank, name)
