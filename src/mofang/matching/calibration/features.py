"""What the calibration knows of a job: labels that jobs share, and sizes that bring jobs near each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.catalog.frameworks import Framework
from mofang.domain.hardware import Accelerator, Pool
from mofang.domain.model import ModelArchitecture
from mofang.matching.candidates import METHODS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.work import Work

__all__ = [
    "LAYOUT",
    "NOBODY",
    "SIZES",
    "WAYS",
    "Features",
    "call_labels",
    "call_sizes",
    "candidate_features",
    "stack",
    "way_labels",
]

Floats = NDArray[np.float64]

NOBODY = ""  # the site and the source of what nobody has measured yet

# Labels by the column of candidates that they follow from, with what its codes stand for.
WAYS: Mapping[str, Sequence[str]] = {
    "precision": [one.value for one in PRECISIONS],
    "method": [one.value for one in METHODS],
    "recompute": [one.value for one in RECOMPUTES],
    "sharding": [one.value for one in SHARDINGS],
    "compile": ["eager", "compiled"],
}
# Sizes that are columns of candidates; they count by their logarithm to base two.
LAYOUT = ("tp", "pp", "cp", "ep", "devices")
# Sizes that all candidates of a work share.
SIZES = ("sequence", "active", "hidden", "sparsity", "expert")


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One row a job: text by label, and logarithms of sizes by name."""

    labels: Mapping[str, NDArray[np.str_]]
    sizes: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(next(iter(self.sizes.values())))

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Features:
        """Return the rows that a mask or indices keep."""
        return Features(
            labels={name: column[rows] for name, column in self.labels.items()},
            sizes={name: column[rows] for name, column in self.sizes.items()},
        )


def stack(parts: Sequence[Features]) -> Features:
    """Return the rows of all parts, in their order."""
    first = parts[0]
    return Features(
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels},
        sizes={name: np.concatenate([part.sizes[name] for part in parts]) for name in first.sizes},
    )


def call_labels(work: Work, chip: Accelerator, framework: Framework | None) -> dict[str, str]:
    """Return the labels that all candidates of a work on a chip share."""
    return {
        "framework": "" if framework is None else framework.name,
        "vendor": chip.vendor,
        "generation": f"{chip.vendor} {chip.architecture or chip.name}",
        "chip": chip.name,
        "kind": model_kind(work.model),
        "model": work.model.name.casefold(),
    }


def model_kind(model: ModelArchitecture) -> str:
    """Return dense, moe or mla (latent attention, with experts or without)."""
    if model.latent is not None:
        return "mla"
    return "dense" if model.moe is None else "moe"


def call_sizes(work: Work) -> dict[str, float]:
    """Return the logarithms (base two) of the sizes that all candidates of a work share."""
    model = work.model
    return {
        "sequence": math.log2(work.sequence),
        "active": math.log2(model.active_params),
        "hidden": math.log2(model.hidden),
        "sparsity": math.log2(model.params / model.active_params),
        "expert": 0.0 if model.moe is None else math.log2(model.moe.expert_ffn),
    }


def way_labels(candidates: Candidates) -> dict[str, NDArray[np.str_]]:
    """Return the labels that follow from the columns of candidates."""
    return {name: np.array(values)[getattr(candidates, name)] for name, values in WAYS.items()}


def candidate_features(
    work: Work, pool: Pool, candidates: Candidates, framework: Framework | None, site: str = NOBODY
) -> Features:
    """Return the features of every candidate, run at a site: the user's, or nobody's in particular."""
    size = len(candidates)
    shared = {**call_labels(work, pool.accelerator, framework), "site": site, "source": NOBODY}
    return Features(
        labels={name: np.full(size, text) for name, text in shared.items()} | way_labels(candidates),
        sizes={name: np.full(size, value) for name, value in call_sizes(work).items()}
        | {name: np.log2(getattr(candidates, name).astype(np.float64)) for name in LAYOUT},
    )
