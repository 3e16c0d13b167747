"""Plans, reasons and rejections in words, for the command line and the report."""

from __future__ import annotations

from mofang.domain.hardware import CPU
from mofang.domain.plan import Plan
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Classify, Command, Pretrain, Scenario, Serve
from mofang.domain.strategy import Recompute, Sharding
from mofang.units import show_bytes, show_count, show_duration

__all__ = [
    "asked_text",
    "batch_text",
    "between",
    "difference",
    "hardware_text",
    "layout_text",
    "plural",
    "quantity",
    "reason_text",
    "rejection_text",
]

_REASONS = {
    Reason.NO_SUCH_DEVICE: "no cluster has this kind of device",
    Reason.TOO_FEW_DEVICES: "fewer devices exist than it needs",
    Reason.PARALLELISM: "the parallel degrees do not fit the devices or the model",
    Reason.BATCH: "the global batch cannot be cut this way",
    Reason.PRECISION: "the device cannot compute in this precision",
    Reason.MEMORY: "it does not fit in memory",
    Reason.FRAMEWORK: "no framework that runs on these devices can do it",
    Reason.SERVICE_LEVEL: "it would answer later than the service level allows",
    Reason.DEADLINE: "it would end after its deadline",
    Reason.BUDGET: "it would cost more than its budget",
    Reason.WORSE: "other plans are better for the goal",
    Reason.WAITING_FOR_DEVICES: "its devices are in use",
    Reason.RESERVED: "free devices are held for an older job",
    Reason.NODE_DOWN: "the only nodes that fit are down or drained",
    Reason.BACKOFF: "it waits a moment before its next attempt",
    Reason.COMPLETED: "completed",
    Reason.STOPPED_BY_USER: "stopped by its user",
    Reason.REPEATED_FAILURE: "it kept failing the same way at the same step",
    Reason.WORKER_FAILED: "a worker exited with an error",
    Reason.WORKER_KILLED: "a worker was killed by a signal",
    Reason.HANG: "it made no progress for longer than allowed",
    Reason.NODE_LOST: "a node stopped answering",
    Reason.AGENT_LOST: "the agent on its node died",
    Reason.COMMAND_NOT_FOUND: "the program does not exist or cannot be executed",
    Reason.DISK_FULL: "the disk is full",
    Reason.BAD_DATA: "the training data vanished or changed",
    Reason.CHECKPOINT: "no checkpoint could be read or written",
    Reason.LAUNCH: "the backend could not start it",
}


def plural(number: int, noun: str) -> str:
    """Return ``1 step``, ``2 steps``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def reason_text(reason: Reason | str | None) -> str:
    """Return a reason as a phrase; text that is no known reason is returned as it is."""
    if reason is None:
        return ""
    try:
        return _REASONS[Reason(reason)]
    except (ValueError, KeyError):
        return str(reason)


def rejection_text(rejection: Rejection) -> str:
    """Return why a candidate cannot run, with the figures that say so."""
    text = reason_text(rejection.code)
    if rejection.need is None:
        return text
    need = _amount(rejection.code, rejection.need)
    have = "" if rejection.have is None else f", {_amount(rejection.code, rejection.have)} there"
    return f"{text}: {need} needed{have}"


def _amount(code: Reason, value: float) -> str:
    if code is Reason.MEMORY:
        return show_bytes(value)
    if code is Reason.DEADLINE:
        return show_duration(value)
    return f"{value:,.6g}"


def hardware_text(plan: Plan, *, with_cluster: bool = True) -> str:
    """Return what a plan runs on: ``cpu:2 (local)``, ``H100:64 on 8 nodes``."""
    placement = plan.placement
    nodes = f" on {placement.num_nodes} nodes" if placement.num_nodes > 1 else ""
    cluster = f" ({placement.cluster})" if placement.cluster and with_cluster else ""
    return f"{placement.accelerator}:{placement.num_devices}{nodes}{cluster}"


def layout_text(plan: Plan) -> str:
    """Return how a plan cuts the job: ``ddp 2, fp32, 1 thread``."""
    strategy, degrees = plan.strategy, plan.strategy.parallelism
    threads = [plural(strategy.threads, "thread")] if plan.placement.accelerator == CPU else []
    if plan.steps is None:  # the user's own program: what its workers do is not ours to know
        return ", ".join([plural(plan.workers, "worker"), *threads])
    data = f"{strategy.sharding.value} {degrees.dp}" if strategy.sharding is not Sharding.NONE else "1 worker"
    parts = [
        data,
        *(f"{name} {getattr(degrees, name)}" for name in ("tp", "pp", "cp", "ep") if getattr(degrees, name) > 1),
    ]
    parts.append(strategy.precision.value)
    if strategy.recompute is not Recompute.NONE:
        parts.append("recompute")
    if strategy.compile:
        parts.append("compiled")
    return ", ".join([*parts, *threads])


def batch_text(plan: Plan) -> str:
    """Return micro-batch x accumulation x data parallel size = global batch, in sequences; nothing for a command."""
    strategy = plan.strategy
    if plan.steps is None:
        return ""
    return f"{strategy.micro_batch} x {strategy.accumulation} x {strategy.parallelism.dp} = {strategy.global_batch}"


def between(low: float, high: float) -> str:
    """Return a range of seconds: ``120..190ms``."""
    first, last = show_duration(low), show_duration(high)
    unit = last.lstrip("0123456789.")
    return f"{first.removesuffix(unit)}..{last}" if " " not in last else f"{first}..{last}"


def asked_text(scenario: Scenario) -> str:
    """Return what the user asked for, in one line."""
    task = scenario.task
    if isinstance(task, Command):
        return f"run {task.argv[0]} with {plural(task.workers, 'worker')}"
    if isinstance(task, Serve):
        return f"serve {task.model.name} ({show_count(task.model.params)} parameters)"
    if isinstance(task, Classify):
        return f"train {task.model.name} on {plural(task.data.num_images, 'image')} of {task.data.num_classes} classes"
    verb = "pre-train" if isinstance(task, Pretrain) else "fine-tune"
    length = plural(task.steps, "step") if task.steps else f"about {show_duration(task.duration_s or 0.0)}"
    return (
        f"{verb} {task.model.name} ({show_count(task.model.params)} parameters) for {length}, "
        f"{task.global_batch} x {task.sequence} tokens a step"
    )


def quantity(value: float | None, unit: str) -> str:
    """Return a measured or predicted value with its unit: seconds, bytes, fractions and rates as people read them."""
    if value is None:
        return "unknown"
    if unit == "s":
        return show_duration(value)
    if unit == "bytes":
        return show_bytes(value)
    if unit == "fraction":
        return f"{value * 100:.1f} %"
    return f"{show_count(value)} {unit}"


def difference(error: float | None) -> str:
    """Return a relative difference: ``+6 %``."""
    return "" if error is None else f"{error * 100:+.0f} %"
