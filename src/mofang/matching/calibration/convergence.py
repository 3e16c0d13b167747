"""How many samples a benchmark's fixed segment takes at a global batch, so that its time says something of speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml

from mofang.catalog.names import key
from mofang.domain.measurement import TrainingMeasurement

__all__ = ["samples_to_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Benchmark:
    model: str
    task: str
    samples: Mapping[int, float]

    def at(self, batch: int) -> float:
        """Return the samples at a batch: lines between the known batches in the logarithms of both."""
        batches = np.log(np.array(sorted(self.samples), dtype=np.float64))
        samples = np.log(np.array([self.samples[size] for size in sorted(self.samples)], dtype=np.float64))
        wanted = float(np.log(batch))
        place = int(np.clip(np.searchsorted(batches, wanted), 1, len(batches) - 1))
        slope = (samples[place] - samples[place - 1]) / (batches[place] - batches[place - 1])
        return float(np.exp(samples[place - 1] + slope * (wanted - batches[place - 1])))


@cache
def _benchmarks() -> tuple[_Benchmark, ...]:
    file = resources.files("mofang.matching.calibration").joinpath("data/convergence.yaml")
    rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(
        _Benchmark(
            model=key(row["model"]), task=row["task"], samples={int(b): float(n) for b, n in row["samples"].items()}
        )
        for row in rows
    )


def samples_to_target(row: TrainingMeasurement) -> float | None:
    """Return the samples that the row's segment takes at its global batch; None where no reference says."""
    if row.global_batch is None:
        return None
    model, task = key(row.model), row.task.casefold()
    known = (one for one in _benchmarks() if one.model in model and one.task in task)
    found = next(known, None)
    return None if found is None else found.at(row.global_batch)
