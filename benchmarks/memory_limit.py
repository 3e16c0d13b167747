"""Predicted against real feasibility: the GPT recipe under a memory cap, in settings around the limit.

Settings are drawn from a published seed over the ranges below. For each the memory that the job needs is predicted
from what a worker without a model occupies, and a cap is drawn so that the prediction lies between 70 % and 130 % of
it. Then the recipe takes a few steps inside a memory cgroup with that cap: it fits if every worker ends well, it does
not if the kernel kills one. The baseline does without a model of activations: the worker and 16 bytes a parameter.

    python benchmarks/memory_limit.py --json

Needs a memory cgroup it may write to (version 1 or 2; in containers and on most machines that means root).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from _gpt_runs import (
    BF16_SHARE,
    HEAD_DIMS,
    bare_task,
    cores_pool,
    describe_model,
    draw_model,
    start_workers,
    step_flops,
    write_text,
)
from mofang.clock import SystemClock, seeded
from mofang.domain.hardware import Pool, Precision
from mofang.domain.rates import HostRates
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Pretrain
from mofang.domain.strategy import Method, Offload, Parallelism, Recompute, Sharding, Strategy
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.memory import host_bytes, memory_parts
from mofang.matching.work import work_of

SEED = 20261122
COUNT = 40
LAYERS = (1, 10)
HEADS = (2, 12)
VOCABULARIES = (256, 1024, 4096, 16384, 32768, 65536)
SEQUENCES = (64, 128, 256, 512, 1024)
MICRO_BATCHES = (1, 2, 4, 8, 16)
ACCUMULATIONS = (1, 2)
# Redrawn beyond this work in a step, so that the whole benchmark takes minutes, and outside these needs.
MOST_FLOP = {Precision.FP32: 30e9, Precision.BF16: 3e9}
LEAST_NEED, MOST_NEED = 0.6 * 2**30, 2.6 * 2**30
AROUND = (0.7, 1.3)  # predicted need over cap
STEPS = 5
TIMEOUT_S = 120


@dataclass(frozen=True)
class Setting:
    """One thing to predict and to run."""

    task: Pretrain
    strategy: Strategy
    need: float  # bytes of all workers, predicted
    naive: float
    parts: dict[str, float]  # of one worker
    cap: int = 0


@dataclass(frozen=True)
class Run:
    """What happened under a cap. ``peak`` is bytes that could not be given back, as far as they were seen."""

    fits: bool
    killed: bool
    peak: int
    seconds: float
    errors: str = ""


def draw(seed: int, count: int, data: Path, pool: Pool, least: float = LEAST_NEED) -> list[Setting]:
    """Return ``count`` settings with their caps; the same for the same seed and worker size."""
    chance = seeded(seed)
    found: list[Setting] = []
    while len(found) < count:
        heads, head_dim = chance.randint(*HEADS), chance.choice(HEAD_DIMS)
        sequence = chance.choice(SEQUENCES)
        model = draw_model(
            chance, heads=heads, head_dim=head_dim, sequence=sequence, layers=LAYERS, vocabularies=VOCABULARIES
        )
        model = replace(model, tied_embeddings=chance.random() < 0.5)
        workers = chance.choice((1, 2))
        strategy = Strategy(
            parallelism=Parallelism(dp=workers),
            sharding=chance.choice((Sharding.DDP, Sharding.FSDP)) if workers > 1 else Sharding.NONE,
            precision=Precision.BF16 if chance.random() < BF16_SHARE else Precision.FP32,
            recompute=chance.choice((Recompute.NONE, Recompute.FULL)),
            micro_batch=chance.choice(MICRO_BATCHES),
            accumulation=chance.choice(ACCUMULATIONS),
        )
        around = chance.uniform(*AROUND)
        task = bare_task(model, data, global_batch=strategy.global_batch, steps=STEPS)
        if step_flops(task) > MOST_FLOP[strategy.precision]:
            continue
        setting = predict(task, strategy, pool)
        if least <= setting.need <= MOST_NEED:
            found.append(replace(setting, cap=int(setting.need / around)))
    return found


def predict(task: Pretrain, strategy: Strategy, pool: Pool) -> Setting:
    """Return the setting with the memory its job is predicted to need on the node."""
    row = candidate(strategy)
    work = work_of(task)
    parts = memory_parts(work, pool, row)
    worker = sum(parts.values(), np.zeros(1))
    empty = pool.rates.worker_memory_bytes if pool.rates else 0
    workers = strategy.parallelism.dp
    state = 16.0 * task.model.params / (workers if strategy.sharding is Sharding.FSDP else 1)
    return Setting(
        task=task,
        strategy=strategy,
        need=float(host_bytes(work, pool, row, worker)[0]),
        naive=workers * (state + empty),
        parts={name: float(size[0]) for name, size in parts.items()},
    )


def candidate(strategy: Strategy) -> Candidates:
    """Return a strategy as the one row that the memory model takes."""
    values = {
        "nodes": 1,
        "devices": strategy.parallelism.world_size,
        "threads": 1,
        "micro_batch": strategy.micro_batch,
        "accumulation": strategy.accumulation,
        "precision": PRECISIONS.index(strategy.precision),
        "recompute": RECOMPUTES.index(strategy.recompute),
        "sharding": SHARDINGS.index(strategy.sharding),
        "compile": 0,
        "method": METHODS.index(Method.FULL),
        "offload": OFFLOADS.index(Offload.NONE),
        **{name: getattr(strategy.parallelism, name) for name in ("dp", "tp", "pp", "cp", "ep", "vpp")},
    }
    return Candidates(**{name: np.array([value]) for name, value in values.items()})


def this_pool() -> Pool:
    """Return this machine's cores; all that is measured is a worker that has loaded torch and holds no model."""
    code = "from mofang.backends.local.probe.machine import worker_memory\nimport torch\nprint(worker_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rates = HostRates(
        host="here",
        measured_at=0.0,
        torch_version="",
        operators=(),
        collectives=(),
        worker_memory_bytes=int(done.stdout),
    )
    return cores_pool(rates, cores=2, memory_bytes=0)


class Cap:
    """A memory cgroup with a limit, version 1 or 2."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        folder.mkdir()
        self._is_first = (folder / "memory.limit_in_bytes").exists()
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if not self._is_first:
            names = ("memory.max", "memory.swap.max")
        (folder / names[0]).write_text(str(limit))
        with contextlib.suppress(OSError):  # without swap there is nothing to limit
            (folder / names[1]).write_text(str(limit if self._is_first else 0))

    def enter(self) -> None:
        """Move the calling process in; it is called between fork and exec."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def held(self) -> int:
        """Return the bytes that the kernel cannot take back: anonymous and shared memory."""
        rows = (line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        values = {name: int(value) for name, value in rows}
        return values.get("rss" if self._is_first else "anon", 0) + values.get("shmem", 0)

    def killed(self) -> bool:
        """Whether the kernel has killed a process of the group for its memory."""
        file = self._folder / ("memory.oom_control" if self._is_first else "memory.events")
        rows = (line.split() for line in file.read_text().splitlines())
        return any(name == "oom_kill" and int(value) > 0 for name, value in rows)

    def remove(self) -> None:
        """Remove the group; its processes have ended."""
        self._folder.rmdir()


def cgroup_root() -> Path:
    """Return a folder in which memory cgroups can be made.

    Raises:
        SystemExit: there is none.
    """
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        control = root / "cgroup.subtree_control"
        with contextlib.suppress(OSError):
            if control.exists():
                control.write_text("+memory")
            trial = root / f"mofang-trial-{os.getpid()}"
            trial.mkdir()
            there = any((trial / name).exists() for name in ("memory.limit_in_bytes", "memory.max"))
            trial.rmdir()
            if there:
                return root
    raise SystemExit("no memory cgroup can be made here: run as root on a machine with the memory controller")


@contextlib.contextmanager
def capped(limit: int) -> Iterator[Cap]:
    """Yield a group with a limit and remove it afterwards."""
    cap = Cap(cgroup_root() / f"mofang-cap-{os.getpid()}", limit)
    try:
        yield cap
    finally:
        cap.remove()


def run(setting: Setting, cap_bytes: int) -> Run:
    """Run the recipe under a cap to the end, or until the kernel kills a worker."""
    with tempfile.TemporaryDirectory() as folder, capped(cap_bytes) as cap:
        config = GptConfig(task=setting.task, strategy=setting.strategy, steps=STEPS, device=DeviceKind.CPU)
        clock = SystemClock()
        started = clock.monotonic()
        workers = start_workers(config, Path(folder), before=cap.enter)
        peak, done = _Peak(cap), False
        try:
            peak.start()
            done = _wait(workers)
        finally:
            for worker in workers:
                worker.kill()
            errors = [worker.communicate()[1] for worker in workers]
            peak.stop()
        return Run(
            fits=done and not any(worker.returncode for worker in workers),
            killed=cap.killed(),
            peak=peak.most,
            seconds=clock.monotonic() - started,
            errors="".join(errors),
        )


def _wait(workers: list[subprocess.Popen[str]]) -> bool:
    """Wait until all have ended well, or one has not, or it takes too long: what swaps its own program in and out."""
    clock = SystemClock()
    until = clock.monotonic() + TIMEOUT_S
    while clock.monotonic() < until:
        codes = [worker.poll() for worker in workers]
        if any(codes):
            return False
        if all(code == 0 for code in codes):
            return True
        clock.sleep(0.02)
    return False


class _Peak(threading.Thread):
    """Watches what a group holds."""

    def __init__(self, cap: Cap) -> None:
        super().__init__(daemon=True)
        self._cap, self._over, self.most = cap, threading.Event(), 0

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._cap.held())

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


def describe(setting: Setting) -> str:
    """Return a setting on one line."""
    cut = setting.strategy
    return (
        f"{describe_model(setting.task.model)} mb{cut.micro_batch}x{cut.accumulation} {cut.parallelism.dp} "
        f"{cut.sharding.value} {cut.precision.value} {cut.recompute.value}"
    )


def verdict(predicted: bool, fits: bool) -> str:
    """Return how the prediction did."""
    if predicted == fits:
        return "right"
    return "wrongly feasible" if predicted else "wrongly refused"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=COUNT, help=f"how many settings (default: {COUNT})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the draw (default: {SEED})")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    root, pool = cgroup_root(), this_pool()
    print(f"{options.settings} settings, seed {options.seed}; caps are memory cgroups in {root}")
    print(f"{'setting':<70} {'need':>6} {'cap':>6} {'held':>6} {'predicted':>11} {'run':>7} {'verdict'}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text = write_text(Path(folder), options.seed)
        for setting in draw(options.seed, options.settings, text, pool):
            row = _row(setting, run(setting, setting.cap))
            rows.append(row)
            print(
                f"{row['setting']:<70} {row['need'] / 2**20:6.0f} {row['cap'] / 2**20:6.0f} "
                f"{row['held'] / 2**20:6.0f} {'feasible' if row['feasible'] else 'infeasible':>11} "
                f"{'fits' if row['fits'] else 'killed' if row['killed'] else 'failed':>7} {row['verdict']}",
                flush=True,
            )
    result = _result(rows, options.seed)
    print(
        f"wrongly feasible {result['wrongly_feasible']}, wrongly refused {result['wrongly_refused']} of {len(rows)}; "
        f"need over held where it fits: median error {result['median_ape']:.1%}; baseline (16 bytes a parameter) "
        f"wrongly feasible {result['baseline_wrongly_feasible']}, wrongly refused {result['baseline_wrongly_refused']}"
    )
    if options.json:
        print(json.dumps(result))


def _row(setting: Setting, done: Run) -> dict[str, object]:
    if not done.fits and not done.killed:
        print(done.errors, file=sys.stderr)
    feasible = setting.need <= setting.cap
    return {
        "setting": describe(setting),
        "need": setting.need,
        "parts": setting.parts,
        "cap": setting.cap,
        "held": done.peak,
        "feasible": feasible,
        "fits": done.fits,
        "killed": done.killed,
        "verdict": verdict(feasible, done.fits),
        "baseline": verdict(setting.naive <= setting.cap, done.fits),
        "seconds": done.seconds,
    }


def _result(rows: list[dict[str, object]], seed: int) -> dict[str, object]:
    errors = [abs(float(row["need"]) / float(row["held"]) - 1.0) for row in rows if row["fits"]]
    counts = {
        f"{prefix}{kind.replace(' ', '_')}": sum(row[key] == kind for row in rows)
        for prefix, key in (("", "verdict"), ("baseline_", "baseline"))
        for kind in ("wrongly feasible", "wrongly refused")
    }
    return {
        **counts,
        "settings": len(rows),
        "fit": sum(bool(row["fits"]) for row in rows),
        "median_ape": statistics.median(errors) if errors else None,
        "seconds": sum(float(row["seconds"]) for row in rows),
        "seed": seed,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
