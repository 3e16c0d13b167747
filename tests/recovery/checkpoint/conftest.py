"""Ranks as threads: the code that saves and loads is the real one, only the collectives are not."""

import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mofang.clock import SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.background import BackgroundSaver, Outcomes, Slot
from mofang.recovery.checkpoint.load import load_checkpoint
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.state import Part, TrainingState
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.contents import boxes_of, sources_of, views_of
from mofang.recovery.snapshot.layout import Meta, plan_slot, write_header


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


def load_all(directory, states, **how):
    """Load into one state a rank; return what each rank got, and what was refused."""
    refused = []

    def one(peers):
        note = lambda path, why: refused.append((path.name, why))  # noqa: E731
        state = states[peers.rank]
        return load_checkpoint(directory, state, peers=peers, clock=SystemClock(), on_refused=note, **how)

    return together(len(states), one), refused


def put_in_slot(path, state, rank, world_size, *, ranks_of_node=None, fence=1, index=0):
    """Take a snapshot as the memory tier does, and return the arena and the record."""
    ranks = ranks_of_node or world_size
    boxes = boxes_of(state, rank % ranks, ranks)
    plan = plan_slot(boxes, 100)
    arena = Arena.open(path) or Arena.create(path, plan.length)
    meta = Meta(
        step=state.step, fence=fence, rank=rank, world_size=world_size, scalars=state.scalars, own=dict(state.own)
    )
    arena.invalidate(index)
    write_header(arena.slot(index), plan, meta)
    for view, source in zip(views_of(arena.slot(index), plan), sources_of(state, boxes), strict=True):
        view.copy_(source)
    record = Record(step=state.step, fence=fence, length=plan.length, sum=arena.sum(index, plan.length))
    arena.commit(index, record)
    return arena, record


class Told:
    """Hears what became of the saves."""

    def __init__(self):
        self.saved, self.failed, self.released, self.let_go = [], [], 0, threading.Event()

    @property
    def outcomes(self):
        return Outcomes(
            saved=lambda step, size, seconds: self.saved.append((step, size)),
            failed=lambda step, why: self.failed.append((step, why)),
        )

    def release(self):
        self.released += 1
        self.let_go.set()

    def slot(self, arena, record, index=0):
        return Slot(arena=arena, index=index, record=record, release=self.release)


def saver_of(directory, rank, told, *, run=1, share=None, keep=3, patience_s=20.0):
    return BackgroundSaver(
        directory,
        rank=rank,
        share=share or Share(),
        run=run,
        keep=keep,
        clock=SystemClock(),
        outcomes=told.outcomes,
        patience_s=patience_s,
    )


def part(tensor, shape=None, offset=None, *, replicated=False):
    shape = tuple(tensor.shape) if shape is None else shape
    return Part(tensor=tensor, shape=shape, offset=offset or (0,) * len(shape), replicated=replicated)


def cut_boxes(tensors, boxes):
    """Return the parts of one rank: ``boxes[name]`` is (offset, extent), or None for the whole, replicated."""
    parts = {}
    for name, tensor in tensors.items():
        if boxes.get(name) is None:
            parts[name] = part(tensor.clone(), replicated=True)
        else:
            offset, extent = boxes[name]
            local = tensor[tuple(slice(o, o + e) for o, e in zip(offset, extent, strict=True))].contiguous()
            parts[name] = part(local.clone(), tuple(tensor.shape), offset)
    return parts


def blank(state):
    """Return the same state with nothing in it."""
    parts = {name: part(torch.zeros_like(p.tensor), p.shape, p.offset) for name, p in state.parts.items()}
    private = {name: torch.zeros_like(tensor) for name, tensor in state.private.items()}
    return TrainingState(step=0, parts=parts, private=private)


def same(one, other):
    return all(torch.equal(one.parts[name].tensor, held.tensor) for name, held in other.parts.items())


def _benchmark(name):
    """Return a module of the benchmarks' folder; what they inject is injected here too."""
    path = Path(__file__).parents[3] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_faults = _benchmark("_disk_faults")
Calls, no_space = _faults.Calls, _faults.no_space


@pytest.fixture(scope="session")
def storm():
    """The benchmark ``corruption_storm``."""
    _benchmark("_storm_world")
    return _benchmark("corruption_storm")


@pytest.fixture(scope="session")
def ranks():
    """What the tests of checkpoints share."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})
