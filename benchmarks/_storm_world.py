"""A small state of two ranks in both tiers, and how it is saved and recovered: what the storm damages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mofang.clock import SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.background import BackgroundSaver, Outcomes, Slot
from mofang.recovery.checkpoint.load import load_checkpoint
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import Part, TrainingState
from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.restore import restore

RANKS = 2
ROWS = 64
STEPS = (10, 20, 30)  # on the disk
LATER = (40, 50)  # in memory
PREFIX = "storm."
CLOCK = SystemClock()


def values(step: int, *, rows: int = ROWS, first: int = 0) -> torch.Tensor:
    """Return some rows of the matrix of a step; no bit of it is the same in two steps by rule."""
    numbers = torch.arange(first * 512, (first + rows) * 512, dtype=torch.int64)
    return ((numbers * 2654435761 + step * 40503) % (1 << 24)).to(torch.float32).reshape(rows, 512)


def state_of(rank: int, step: int, *, blank: bool = False) -> TrainingState:
    """Return one rank's state: half of a matrix, a vector that both hold, a tensor of its own."""
    rows = ROWS // RANKS
    matrix = values(step, rows=rows, first=rank * rows)
    vector = values(step, rows=8).reshape(-1)
    held = {
        "matrix": Part(tensor=matrix, shape=(ROWS, 512), offset=(rank * rows, 0), replicated=False),
        "vector": Part(tensor=vector, shape=(4096,), offset=(0,), replicated=True),
    }
    if blank:
        held = {name: replace(part, tensor=torch.zeros_like(part.tensor)) for name, part in held.items()}
    own = torch.full((16,), rank * 1000 + step)
    return TrainingState(
        step=step, parts=held, private={"random": own}, scalars={"step": step, "lr": step / 7}, own={"at": rank + step}
    )


class Thread:
    """A rank that is a thread: what ``Peers`` does, without a network."""

    def __init__(self, rank: int, shared: tuple[threading.Barrier, list[Any]]) -> None:
        self.rank, self.world_size = rank, RANKS
        self._barrier, self._values = shared

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank said."""
        self._values[self.rank] = value
        self._barrier.wait()
        said = list(self._values)
        self._barrier.wait()
        return said

    gather_text = gather

    def all_ok(self, ok: bool) -> bool:
        """Return whether every rank says so."""
        return all(self.gather(ok))

    def from_first(self, value: int) -> int:
        """Return rank 0's value."""
        return int(self.gather(value)[0])


def together(action: Callable[[Any], Any]) -> list[Any]:
    """Run something on every rank at once."""
    shared = threading.Barrier(RANKS, timeout=60), [None] * RANKS
    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(lambda rank: action(Thread(rank, shared)), range(RANKS)))


@dataclass(frozen=True)
class World:
    """Where one injection happens."""

    root: Path

    @property
    def disk(self) -> Path:
        """The checkpoints."""
        return self.root / "disk"

    @property
    def memory(self) -> Path:
        """What stands for /dev/shm."""
        return self.root / "memory"

    def place(self, rank: int) -> Place:
        """Return where a rank keeps its snapshots."""
        return Place(prefix=PREFIX, rank=rank, world_size=RANKS, ranks_of_node=tuple(range(RANKS)), folder=self.memory)

    def step(self, step: int) -> Path:
        """Return the directory of a step."""
        return files.step_dir(self.disk, step)

    def arena(self, rank: int) -> Path:
        """Return a rank's arena."""
        return self.place(rank).snapshot(rank)


def save_disk(world: World, step: int) -> None:
    """Save as a training program does that has no memory tier."""
    together(lambda peers: save_checkpoint(world.disk, state_of(peers.rank, step), keep=3, peers=peers, clock=CLOCK))


def save_memory(world: World, steps: tuple[int, ...], done: Callable[[int], None] = lambda step: None) -> None:
    """Take snapshots with the real memory tier."""
    tiers = [MemoryTier(world.place(rank), fence=1, clock=CLOCK) for rank in range(RANKS)]
    for rank, tier in enumerate(tiers):
        tier.prepare(state_of(rank, 0))
    for step in steps:
        for rank, tier in enumerate(tiers):
            tier.take(state_of(rank, step))
        if not all(tier.wait(30) for tier in tiers):
            raise RuntimeError(f"no snapshot: {[tier.problem for tier in tiers]}")
        done(step)
    for tier in tiers:
        tier.close()


def save_background(world: World, step: int, failed: list[str]) -> None:
    """Make the newest slots durable, as the background does."""
    outcomes = Outcomes(saved=lambda *_: None, failed=lambda _, why: failed.append(why))
    save_memory(world, (step,))
    savers = []
    for rank in range(RANKS):
        saver = BackgroundSaver(
            world.disk, rank=rank, share=Share(), run=7, keep=3, clock=CLOCK, outcomes=outcomes, patience_s=5.0
        )
        saver.submit(newest_slot(world, rank))
        savers.append(saver)
    for saver in savers:
        saver.close(30)


def newest_slot(world: World, rank: int) -> Slot:
    """Return a rank's newest snapshot."""
    arena = Arena.open(world.arena(rank))
    if arena is None:
        raise RuntimeError("there is no arena")
    index, record = next(iter(arena.records().items()))
    return Slot(arena=arena, index=index, record=record, release=lambda: None)


@dataclass
class Found:
    """What came back."""

    step: int | None
    right: bool
    said: list[str]


def recover(world: World) -> Found:
    """Restore from memory, else from the disk, and look at every bit."""
    said: list[str] = []

    def one(peers: Any) -> tuple[int | None, bool]:
        state = state_of(peers.rank, 0, blank=True)
        how = {"peers": peers, "clock": CLOCK, "on_refused": lambda path, why: said.append(f"{path.name}: {why}")}
        try:
            loaded = restore(world.place(peers.rank), state, **how) or load_checkpoint(world.disk, state, **how)
        except CheckpointError as error:
            said.append(error.message)
            return None, True
        return (None, True) if loaded is None else (loaded.step, _same(peers.rank, state, loaded))

    results = together(one)
    return Found(results[0][0], all(right and step == results[0][0] for step, right in results), said)


def _same(rank: int, state: TrainingState, loaded: Any) -> bool:
    want = state_of(rank, loaded.step)
    return (
        all(torch.equal(state.parts[name].tensor, part.tensor) for name, part in want.parts.items())
        and all(torch.equal(loaded.private[name], tensor) for name, tensor in want.private.items())
        and loaded.scalars == want.scalars
        and loaded.own == tuple(state_of(other, loaded.step).own for other in range(RANKS))
    )
