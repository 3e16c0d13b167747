"""Measure what workers of the GPT recipe hold on processor cores, and fit the memory model's coefficients to it.

    python benchmarks/memory_coefficients.py measure runs.jsonl --settings 80 --seed 101
    python benchmarks/memory_coefficients.py fit runs.jsonl

`measure` draws settings as benchmarks/memory_limit.py does, from a seed of its own, runs each without a limit inside a
memory cgroup and appends what it held to the file. `fit` finds how often each kind of tensor is there at once (least
squares of the relative error, none negative), says how well that does on settings left out of the fit, and writes
`memory_cores.yaml` of the package.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import yaml

import memory_limit
from _gpt_runs import write_text
from mofang.clock import seeded
from mofang.domain.codec import from_data, to_data
from mofang.domain.rates import HostRates
from mofang.domain.scenario import Pretrain
from mofang.domain.strategy import Sharding, Strategy
from mofang.matching.memory import cores
from mofang.matching.work import work_of

OUT = Path(cores.__file__).parent.parent / "data" / "memory_cores.yaml"
UNLIMITED = 64 * 2**30
FOLDS = 5
COVERED = 0.75  # of the settings left out lie below the prediction and its margin
HEADER = f"""\
# Written by benchmarks/{Path(__file__).name}: how often each feature of mofang.matching.memory.cores is held at once.
# `margin` is added so that about three quarters of settings left out of the fit hold less than predicted; `error` is
# their mean absolute error without it.
"""


def measure(path: Path, seed: int, count: int, only: Sharding | None) -> None:
    """Append what each drawn setting holds; ``only`` leaves the others out."""
    pool = memory_limit.this_pool()
    with tempfile.TemporaryDirectory() as folder, path.open("a", encoding="utf-8") as out:
        text = write_text(Path(folder), seed)
        for setting in memory_limit.draw(seed, count, text, pool, least=0.0):
            if only not in {None, setting.strategy.sharding}:
                continue
            done = memory_limit.run(setting, UNLIMITED)
            row = {
                "task": to_data(replace(setting.task, data=replace(setting.task.data, paths=("text",)))),
                "strategy": to_data(setting.strategy),
                "worker": pool.rates.worker_memory_bytes if pool.rates else 0,
                "held": done.peak,
            }
            print(json.dumps(row), file=out, flush=True)
            print(f"{memory_limit.describe(setting):<70} held {done.peak / 2**20:6.0f} MiB", flush=True)
            if not done.fits:
                raise SystemExit(f"the recipe failed: {done.errors}")


def fit(path: Path) -> None:
    """Fit, validate and write."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    features, known, held = _matrix(rows)
    order = np.array(seeded(0).sample(range(len(held)), len(held)))
    errors = np.zeros(len(held))
    for fold in range(FOLDS):
        test = order[fold::FOLDS]
        train = np.setdiff1d(order, test)
        times = _non_negative(features[train], known[train], held[train])
        errors[test] = (known[test] + features[test] @ times) / held[test] - 1.0
    times = _non_negative(features, known, held)
    margin = max(0.0, float(1.0 / (1.0 + np.quantile(errors, 1.0 - COVERED)) - 1.0))
    result = {
        "runs": len(rows),
        "torch": metadata.version("torch"),
        "error": round(float(np.mean(np.abs(errors))), 4),
        "margin": round(margin, 4),
        "times": {name: round(float(value), 3) for name, value in zip(cores.FEATURES, times, strict=True)},
    }
    OUT.write_text(HEADER + yaml.safe_dump(result, sort_keys=False), encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))
    print(f"left out: mean error {np.mean(np.abs(errors)):.1%}, bias {statistics.median(errors):+.1%}")


def _matrix(rows: list[dict[str, object]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, what is known exactly and what was held, of one worker, one row a run."""
    features, known, held = [], [], []
    pool = memory_limit.this_pool()
    for row in rows:
        task, strategy = from_data(Pretrain, row["task"]), from_data(Strategy, row["strategy"])
        rates = replace(pool.rates, worker_memory_bytes=row["worker"]) if isinstance(pool.rates, HostRates) else None
        one = memory_limit.candidate(strategy)
        found = cores.core_features(work_of(task), replace(pool, rates=rates), one)
        features.append([float(found[name][0]) for name in cores.FEATURES])
        known.append(sum(float(size[0]) for size in cores.core_state(work_of(task), one).values()))
        held.append(float(row["held"]) / strategy.parallelism.dp)
    return np.array(features), np.array(known), np.array(held)


def _non_negative(features: np.ndarray, known: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return the coefficients of least relative error, dropping the most negative one until none is."""
    kept = list(np.flatnonzero(features.any(axis=0)))
    times = np.zeros(features.shape[1])
    while kept:
        found = np.linalg.lstsq(features[:, kept] / held[:, None], (held - known) / held, rcond=None)[0]
        if found.min() >= 0:
            times[kept] = found
            return times
        kept.pop(int(found.argmin()))
    return times


def main() -> None:
    """Measure or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "fit"))
    parser.add_argument("file", type=Path, help="JSON lines, one a run")
    parser.add_argument("--settings", type=int, default=80, help="how many to measure (default: 80)")
    parser.add_argument("--seed", type=int, default=101, help="of the draw (default: 101)")
    parser.add_argument("--only", type=Sharding, choices=tuple(Sharding), help="measure only these of the drawn ones")
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.file, options.seed, options.settings, options.only)
    else:
        fit(options.file)


if __name__ == "__main__":
    main()
