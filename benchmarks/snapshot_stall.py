"""For how long a snapshot of the training state stops the training.

    python benchmarks/snapshot_stall.py --json
    python benchmarks/snapshot_stall.py --gigabytes 0.5 --rounds 3 --skip-demo

1. A state of 2.4 GB in 192 tensors, taken into shared memory, beside a warm copy of the same bytes from memory to
   memory, ``torch.save``, ``dcp.save`` and ``dcp.async_save`` (the time of the call), all in turn in one process; and
   the processor time that each snapshot costs in the background.
2. A GPT of the size that the demonstration trains, with and without a snapshot every 10 steps, in pairs of turns.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp

from mofang.clock import SystemClock
from mofang.domain.scenario import Optimisation
from mofang.recipes.training.optimiser import AdamW
from mofang.recovery.allocator import keep_freed_memory
from mofang.recovery.checkpoint.state import TrainingState, part_of
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.place import Place

TENSORS = 192
EVERY = 10


def timed(action: Callable[[], Any]) -> float:
    """Return for how many seconds a call lasts."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextlib.contextmanager
def tier_of(name: str, state: TrainingState) -> Any:
    """Yield a tier that is ready; its arena is removed afterwards."""
    place = Place(prefix=f"mofang.benchmark-{name}-{os.getpid()}.")
    tier = MemoryTier(place, fence=1, clock=SystemClock())
    tier.prepare(state)
    if not tier.wait():
        raise SystemExit(tier.problem)
    try:
        yield tier
        tier.close()
    finally:
        for path in place.snapshots():
            path.unlink()


def measure_stall(gigabytes: float, rounds: int, folder: Path) -> dict[str, Any]:
    """Return seconds by method, the median and the range, for a state of this size."""
    count = int(gigabytes * 1e9 / 4 / TENSORS)
    tensors = {f"layer.{index:03d}": torch.rand(count) for index in range(TENSORS)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    parts = {name: part_of(tensor) for name, tensor in tensors.items()}
    whole, other = torch.cat(list(tensors.values())), torch.empty(size // 4)
    other.zero_()
    taken: dict[str, list[float]] = {}
    durable: dict[str, list[float]] = {}
    background: list[float] = []
    with tier_of("stall", TrainingState(step=0, parts=parts)) as tier:
        for number in range(rounds + 1):
            state = TrainingState(step=number + 1, parts=parts)
            stall = timed(lambda state=state: tier.take(state))
            busy = time.process_time()
            tier.wait()
            busy = time.process_time() - busy
            row = {
                "snapshot": stall,
                "warm copy (torch)": timed(lambda: other.copy_(whole)),
                "warm copy (memmove)": timed(lambda: ctypes.memmove(other.data_ptr(), whole.data_ptr(), size)),
                "torch.save": timed(lambda: torch.save(tensors, folder / "plain.pt")),
                "dcp.save": timed(lambda: dcp.save(tensors, checkpoint_id=folder / "dcp", no_dist=True)),
            }
            futures: list[Any] = []
            row["dcp.async_save"] = timed(
                lambda futures=futures: futures.append(
                    dcp.async_save(tensors, checkpoint_id=folder / "async", no_dist=True)
                )
            )
            whole_time = row["dcp.async_save"] + timed(futures[0].result)
            for name in ("dcp", "async"):
                shutil.rmtree(folder / name, ignore_errors=True)
            if number:  # the first one warms up
                background.append(busy / size * 1e9)
                for name, seconds in row.items():
                    taken.setdefault(name, []).append(seconds)
                durable.setdefault("dcp.async_save", []).append(whole_time)
    baseline = min(statistics.median(taken[name]) for name in taken if name.startswith("warm copy"))
    return {
        "bytes": size,
        "threads": torch.get_num_threads(),
        "seconds": {name: spread(values) for name, values in taken.items()},
        "until_durable": {name: spread(values) for name, values in durable.items()},
        "by_warm_copy": statistics.median(taken["snapshot"]) / baseline,
        "background_core_seconds_per_gb": statistics.median(background),
    }


def spread(values: list[float]) -> list[float]:
    """Return the median, the least and the most."""
    return [statistics.median(values), min(values), max(values)]


def measure_demo(pairs: int, steps: int) -> dict[str, Any]:
    """Return by how much a snapshot every ten steps slows a small GPT down, from pairs of turns."""
    from mofang.recipes.gpt.model import Gpt  # noqa: PLC0415 - beside its own settings

    model = demo_model(Gpt)
    named = {name: part_of(parameter) for name, parameter in model.named_parameters()}
    optimiser = AdamW(named, Optimisation())
    tokens = torch.randint(0, 256, (4, 256), generator=torch.Generator().manual_seed(1))

    def step() -> None:
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.mean().backward()
        optimiser.step({name: parameter.grad for name, parameter in model.named_parameters()}, 1e-4)
        model.zero_grad(set_to_none=True)

    def state(number: int) -> TrainingState:
        return TrainingState(step=number, parts=named | {f"o/{name}": part for name, part in optimiser.state().items()})

    with tier_of("demo", state(0)) as tier:

        def turn(snapshots: bool) -> float:
            started = time.perf_counter()
            for number in range(1, steps + 1):
                step()
                if snapshots and number % EVERY == 0:
                    tier.take(state(number))
            seconds = time.perf_counter() - started
            tier.wait()
            return seconds / steps

        turn(True)
        ratios, plain = [], []
        for index in range(pairs):
            first = turn(index % 2 == 0)
            second = turn(index % 2 == 1)
            without, with_them = (second, first) if index % 2 == 0 else (first, second)
            plain.append(without)
            ratios.append(with_them / without - 1.0)
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "step_s": statistics.median(plain),
        "slowed": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def demo_model(kind: Any) -> torch.nn.Module:
    """Return a GPT of about 8M parameters."""
    from mofang.domain.model import ModelArchitecture  # noqa: PLC0415

    shape = ModelArchitecture(
        name="8M", layers=4, hidden=384, heads=6, kv_heads=6, ffn=1056, vocab=512, head_dim=64, max_sequence=256
    )
    torch.manual_seed(0)
    model: torch.nn.Module = kind(shape, sequence=256, dtype=torch.float32)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(0.0, 0.02)
    return model


def report(stall: dict[str, Any], demo: dict[str, Any] | None) -> None:
    """Print what was measured."""
    size = stall["bytes"]
    print(f"state of {size / 1e9:.2f} GB in {TENSORS} tensors, {stall['threads']} threads")
    print(f"{'':24}{'seconds':>9}{'range':>18}{'GB/s':>8}")
    for name, (median, least, most) in stall["seconds"].items():
        print(f"{name:24}{median:9.3f}{f'{least:.3f}..{most:.3f}':>18}{size / median / 1e9:8.1f}")
    print(f"a snapshot stalls for {stall['by_warm_copy']:.2f} times the faster warm copy (aim: at most 1.3)")
    print(f"in the background {stall['background_core_seconds_per_gb']:.3f} core-seconds a GB")
    if demo is not None:
        low, high = demo["range"]
        print(
            f"{demo['params'] / 1e6:.1f}M parameters, step {demo['step_s']:.3f} s: one snapshot in {EVERY} steps slows "
            f"them by {100 * demo['slowed']:.2f} % [{100 * low:.2f} .. {100 * high:.2f}] (aim: below 2 %)"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.4, help="of state (default: 2.4)")
    parser.add_argument("--rounds", type=int, default=7, help="of each method (default: 7)")
    parser.add_argument("--pairs", type=int, default=8, help="of turns with and without snapshots (default: 8)")
    parser.add_argument("--steps", type=int, default=30, help="of a turn (default: 30)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch (default: all)")
    parser.add_argument("--skip-demo", action="store_true", help="leave out the second part")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        stall = measure_stall(options.gigabytes, options.rounds, Path(folder))
    torch.set_num_threads(1)  # as each rank of the demonstration
    demo = None if options.skip_demo else measure_demo(options.pairs, options.steps)
    report(stall, demo)
    if options.json:
        print(json.dumps({"stall": stall, "demo": demo}))


if __name__ == "__main__":
    main()
