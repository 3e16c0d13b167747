"""Why services could not be planned, with the figures and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Serve
from mofang.matching.options import Option
from mofang.matching.serving.capacity import token_bytes
from mofang.matching.serving.deployments import PRECISIONS
from mofang.matching.serving.ranking import Ranked
from mofang.matching.serving.space import Space, most_devices
from mofang.matching.serving.table import Table
from mofang.matching.serving.traffic import Operation
from mofang.units import show_bytes, show_duration

__all__ = [
    "closest",
    "describe",
    "form_rejection",
    "framework_rejection",
    "level_rejection",
    "memory_rejection",
    "room_rejection",
    "worse_rejection",
]


def closest(rows: Sequence[Rejection]) -> tuple[Rejection, ...]:
    """Return, of rejections for the same reason, the one that misses by least, standing for all of them."""
    if not rows:
        return ()
    nearest = min(rows, key=lambda row: (row.need or 0.0) / max(row.have or 0.0, 1e-300))
    return (replace(nearest, candidates=sum(row.candidates for row in rows)),)


def describe(table: Table, row: int, replicas: int) -> str:
    """Return a deployment in short: ``2 x 4 H100, vllm, tp 4, fp8``."""
    cut, space = table.cut, table.space
    each = int(cut.devices[row]) * space.threads
    parts = [f"{replicas} x {each} {space.option.name}", space.framework.name]
    parts += [f"tp {cut.tp[row]}"] if cut.tp[row] > 1 else []
    parts += [f"pp {cut.pp[row]}"] if cut.pp[row] > 1 else []
    parts += [f"attention dp {cut.dp[row]}"] if cut.dp[row] > 1 else []
    parts += [f"ep {cut.ep[row]}"] if cut.ep[row] > 1 else []
    weights, cache = PRECISIONS[cut.weights[row]].value, PRECISIONS[cut.kv[row]].value
    return ", ".join([*parts, weights, *([f"kv {cache}"] if cache != weights else [])])


def framework_rejection(task: Serve, option: Option, names: Sequence[str]) -> Rejection:
    """No serving framework runs this model on these devices."""
    kind = "latent attention" if task.model.latent else "experts" if task.model.moe else "dense layers"
    asked = task.strategy.framework
    return Rejection(
        code=Reason.FRAMEWORK,
        what=f"{asked or 'any framework'}, a model with {kind}, {option.name}",
        hint=f"frameworks that serve: {', '.join(names)}; see which chips and models each supports in the catalogue",
    )


def form_rejection(task: Serve, space: Space) -> Rejection:
    """The format or the cut that was asked for cannot be had."""
    asked = task.precision or task.strategy.precision
    known = ", ".join(sorted(precision.value for precision in space.framework.precisions))
    if asked is not None and asked not in space.framework.precisions:
        return Rejection(
            code=Reason.PRECISION,
            what=f"{asked.value}, {space.framework.name} on {space.option.name}",
            hint=f"{space.framework.name} serves in: {known}",
        )
    model, choice = task.model, task.strategy
    return Rejection(
        code=Reason.PARALLELISM,
        what=f"tp {choice.tp or 'any'}, pp {choice.pp or 'any'}, ep {choice.ep or 'any'}, {space.framework.name} on "
        f"{space.option.name}",
        need=float((choice.tp or 1) * (choice.pp or 1)),
        have=float(space.most),
        hint=f"tp must divide {model.heads} heads, {model.kv_heads} key-value heads (or be a multiple of them) and "
        f"{model.ffn} of the feed-forward, and lie in a node of {space.pool.devices_per_node}; tp x pp in {space.most}",
    )


def memory_rejection(task: Serve, table: Table) -> Rejection:
    """Weights, activations and the longest request's cache are larger than a device; the closest row is shown.

    The longest request alone must fit, or it could never be answered.
    """
    limit = table.space.pool.accelerator.memory_bytes * table.space.settings.memory_fraction
    rows = np.flatnonzero(~table.fits)
    longest = task.traffic.input.quantiles[-1] + task.traffic.output.quantiles[-1]
    cache = np.array([longest * token_bytes(task.model, table.cut, row) for row in range(len(table))])
    need = np.sum(list(table.memory.values()), axis=0) + cache
    row = int(rows[np.argmin(need[rows])])
    fitting = np.flatnonzero(table.fits)
    hint = (
        f"{show_bytes(float(cache[row]))} of it is the key-value cache of one request of {longest:,.0f} tokens, the "
        "longest: "
    )
    if len(fitting):
        best = int(fitting[np.argmin(table.cut.devices[fitting])])
        hint += f"fits with {describe(table, best, 1)}"
    else:
        hint += "use more or larger devices, a narrower format, or shorter requests"
    return Rejection(
        code=Reason.MEMORY,
        what=describe(table, row, 1),
        need=float(need[row]),
        have=float(limit),
        hint=hint,
        candidates=len(rows),
        feasible=len(fitting),
        data={**{part: float(size[row]) for part, size in table.memory.items()}, "cache": float(cache[row])},
    )


def room_rejection(table: Table) -> Rejection:
    """What fits a device does not fit the number of devices that may be used."""
    option = table.space.option
    fitting = np.flatnonzero(table.fits)
    least = int((table.cut.devices[fitting] * table.space.threads).min())
    return Rejection(
        code=Reason.TOO_FEW_DEVICES,
        what=f"{option.counts} x {option.name}, {table.space.framework.name}",
        need=float(max(least, option.counts.minimum)),
        have=float(most_devices(option)),
        hint=f"a replica takes {least} devices, and replicas must fill nodes evenly",
        candidates=len(fitting),
    )


def level_rejection(task: Serve, found: Ranked) -> Rejection:
    """What fits answers later than asked, or cannot keep up; the figure shown is the best of all."""
    table, operation, level = found.table, found.operation, task.level
    refused = np.flatnonzero(~found.feasible)
    stable = refused[operation.stable[refused]]
    if not len(stable):
        return _overload(task, found, refused)
    excess = np.zeros(len(operation))
    for limit, tail in ((level.ttft_s, operation.ttft_tail), (level.tpot_s, operation.tpot_tail)):
        if limit is not None:
            excess = np.maximum(excess, tail / limit)
    row = int(stable[np.argmin(excess[stable])])
    name, need, have = _missed(task, operation, row)
    what = describe(table, int(operation.row[row]), int(operation.replicas[row]))
    figure = f"{name} is {show_duration(need)} at the {level.percentile:.0%} percentile"
    if found.feasible.any():
        hint = f"others keep the level; of those that do not, this one's {figure}"
    else:
        hint = f"the best {figure}: allow more time, or have shorter prompts, less traffic, more or faster devices"
    return Rejection(
        code=Reason.SERVICE_LEVEL,
        what=what,
        need=need,
        have=have,
        hint=hint,
        candidates=len(refused),
        feasible=int(found.feasible.sum()),
        data={
            "figure": f"{name}, {level.percentile:.0%} of requests",
            "ttft_tail_s": float(operation.ttft_tail[row]),
            "tpot_tail_s": float(operation.tpot_tail[row]),
        },
    )


def _missed(task: Serve, operation: Operation, row: int) -> tuple[str, float, float]:
    """Return which limit a candidate misses most, its figure and the limit."""
    level = task.level
    figures = [
        (name, float(tail[row]), limit)
        for name, tail, limit in (
            ("time to the first token", operation.ttft_tail, level.ttft_s),
            ("time per token", operation.tpot_tail, level.tpot_s),
        )
        if limit is not None
    ]
    return max(figures, key=lambda figure: figure[1] / figure[2])


def _overload(task: Serve, found: Ranked, refused: np.typing.NDArray[np.intp]) -> Rejection:
    """No candidate keeps up with the rate: say how many requests a second the best one serves."""
    operation = found.operation
    row = int(refused[np.argmax(operation.max_requests_per_s[refused])])
    what = describe(found.table, int(operation.row[row]), int(operation.replicas[row]))
    return Rejection(
        code=Reason.SERVICE_LEVEL,
        what=what,
        need=task.traffic.rate,
        have=float(operation.max_requests_per_s[row]),
        hint="allow more devices, or expect fewer requests",
        candidates=len(refused),
        feasible=int(found.feasible.sum()),
        data={"figure": "requests/s"},
    )


def worse_rejection(last: Plan, count: int) -> Rejection:
    """What is feasible and not shown."""
    service = last.service
    shown = ""
    if service is not None:
        one = service.estimate
        shown = f" ({one.tokens_per_s:.0f} tokens/s, {show_bytes(one.memory_bytes)} a device)"
    return Rejection(
        code=Reason.WORSE,
        what=f"{count} more feasible deployments",
        hint=f"ranked after the last plan shown{shown}",
        candidates=count,
    )
