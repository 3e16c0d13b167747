"""What the calibration needs to know of an operating point: numbers of order one, the same for every deployment."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mofang.matching.curves import curves_of
from mofang.matching.serving.deployments import Load
from mofang.matching.serving.passes import Iteration, Passes
from mofang.matching.serving.steady import Steady

__all__ = ["FEATURES", "operating_point", "regimes"]

Floats = NDArray[np.float64]

# Numbers of order one that effects multiply; "one" is 1 everywhere.
FEATURES = (
    "one", "batch", "tp", "communication", "experts", "attention", "interference", "sequences", "iteration", "dp", "ep",
    "saturated", "start", "queue", "borrowed",
)  # fmt: skip

_TIMED_BY = {  # the operator whose curve gives each part of an iteration
    "linear": "matmul",
    "experts": "experts",
    "attention": "attention",
    "memory": "stream",
    "communication": "collective",
}

_UNKNOWN = 0.5  # where not even the error of borrowing is known
_A_SEQUENCE = 2e-5  # seconds of host work a sequence, and an iteration, that the two overhead features are shares of
_AN_ITERATION = 1e-3
_WAITING = 0.5  # of the queue feature: the first token takes twice what reading the prompt takes
_A_START = 4e-2  # seconds before a prompt is read, and until its first token is handed on


def operating_point(passes: Passes, load: Load, state: Steady) -> Mapping[str, Floats]:
    """Return the features of replicas at their steady state."""
    cut, none = passes.deployments, np.zeros_like(state.batch)
    work = Iteration(decoding=state.batch, context=load.context, prompt=none, prompts=none, reach=load.input)
    parts = passes.seconds(work)
    seconds = np.sum(list(parts.values()), axis=0)
    batch = state.batch / (cut.dp * cut.pp)
    return {
        "one": np.ones_like(seconds),
        "batch": (np.log2(np.maximum(batch, 0.5)) - 5.0) / 4.0,
        "tp": (np.log2(cut.tp) - 1.5) / 1.5,
        "communication": 2.0 * parts["communication"] / seconds,
        "experts": parts.get("experts", none) / seconds,
        "attention": 2.0 * parts["attention"] / seconds,
        "interference": 1.0 - state.decode_s / state.tpot_s,
        "sequences": np.minimum(batch * _A_SEQUENCE / seconds, 1.5),
        "iteration": np.minimum(_AN_ITERATION / seconds, 1.0),
        "dp": np.minimum(np.log2(cut.dp), 3.0) / 2.0,
        "ep": np.minimum(np.log2(cut.ep), 3.0) / 3.0,
        "saturated": (~np.isfinite(load.concurrency)).astype(np.float64),
        "start": np.log1p(_A_START / np.maximum(state.prefill_s, 1e-3)),
        "borrowed": _borrowed(passes, parts, seconds),
        "queue": np.clip(np.log2(np.maximum(state.ttft_s / np.maximum(state.prefill_s, 1e-6), 1.0)), 0.0, 8.0) / 2.0,
    }


def regimes(columns: Mapping[str, Floats], divided: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Return each operating point's regime: ``divided``, ``waiting`` for a place, or ``flowing``."""
    waiting = np.nan_to_num(columns["queue"]) >= _WAITING
    return np.where(divided, "divided", np.where(waiting, "waiting", "flowing")).astype(np.str_)


def _borrowed(passes: Passes, parts: Mapping[str, Floats], seconds: Floats) -> Floats:
    """Return the log standard deviation of an iteration that comes from curves no timing of this chip stands behind.

    Curves are borrowed from the same relatives, so their errors go together and add up by their shares.
    """
    curves = curves_of(passes.pool.accelerator)
    total = np.zeros_like(seconds)
    for part, operator in _TIMED_BY.items():
        if part in parts and not curves.known.get(operator, False):
            total += parts[part] / seconds * curves.spread.get(operator, _UNKNOWN)
    return total
