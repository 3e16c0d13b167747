"""Plans, reasons and rejections in words, for the command line and the report."""

from __future__ import annotations

from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Classify, Command, Goal, Pretrain, Scenario, Serve
from mofang.units import show_bytes, show_count, show_duration

__all__ = [
    "asked_text",
    "between",
    "difference",
    "energy_text",
    "goal_text",
    "money",
    "plural",
    "quantity",
    "reason_text",
    "rejection_text",
    "span",
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
    Reason.STRAGGLER: "one worker held all others back",
    Reason.DEVICE_MEMORY: "its device ran out of memory",
    Reason.DEVICE_ERROR: "its device or the driver failed",
    Reason.COLLECTIVE: "the workers lost each other",
    Reason.CORRUPTION: "workers that must hold the same values did not",
    Reason.NOT_FINITE: "the loss was not a number any more",
    Reason.RESIZED: "it went on with other nodes",
    Reason.AGENT_LOST: "the agent on its node died",
    Reason.COMMAND_NOT_FOUND: "the program does not exist or cannot be executed",
    Reason.DISK_ERROR: "a disk failed",
    Reason.DISK_FULL: "the disk is full",
    Reason.BAD_DATA: "the training data vanished or changed",
    Reason.CHECKPOINT: "no checkpoint could be read or written",
    Reason.LAUNCH: "the backend could not start it",
}


_THERE = {Reason.DEADLINE: "allowed", Reason.BUDGET: "allowed", Reason.SERVICE_LEVEL: "allowed"}


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
    figure = rejection.data.get("figure")
    if figure is not None and rejection.have is not None:
        return _figure_text(text, str(figure), rejection.need, rejection.have)
    need = _amount(rejection.code, rejection.need)
    if rejection.have is None:
        return f"{text}: {need} needed"
    have = _amount(rejection.code, rejection.have)
    if rejection.code is Reason.BATCH:
        return f"{text}: it would be {need}, not {have}"
    if need == have:
        return f"{text}: {_amount(rejection.code, rejection.need - rejection.have)} more than {have}"
    return f"{text}: {need} needed, {have} {_THERE.get(rejection.code, 'there')}"


def _figure_text(text: str, figure: str, need: float, have: float) -> str:
    """Return what a service misses: the rate it should keep up with, or a time at a percentile."""
    if figure == "requests/s":
        return f"it cannot keep up: {need:.3g} requests/s come, it serves {have:.3g}"
    return f"{text}: {figure}: {show_duration(need)}, {show_duration(have)} allowed"


def _amount(code: Reason, value: float) -> str:
    if code is Reason.MEMORY:
        return show_bytes(value)
    if code in {Reason.DEADLINE, Reason.SERVICE_LEVEL}:
        return show_duration(value)
    return money(value) if code is Reason.BUDGET else f"{value:,.6g}"


def between(low: float, high: float) -> str:
    """Return a range of seconds: ``120..190ms``."""
    first, last = show_duration(low), show_duration(high)
    if " " in first or " " in last:
        return f"{first}..{last}"
    unit = last.lstrip("0123456789.")
    return f"{first.removesuffix(unit) if first.lstrip('0123456789.') == unit else first}..{last}"


def span(low: float, high: float) -> str:
    """Return a range of counts: ``27.3..41k``."""
    first, last = show_count(low), show_count(high)
    unit = last.lstrip("0123456789.,")
    return f"{first.removesuffix(unit) if unit else first}..{last}"


def goal_text(scenario: Scenario) -> str:
    """Return what comes first among the plans."""
    task = scenario.task
    if scenario.goal is Goal.TIME and isinstance(task, Serve):
        level = task.level.ttft_s is not None or task.level.tpot_s is not None
        return "the fewest devices that keep this come first" if level else "the fastest come first"
    return {
        Goal.TIME: "the fastest come first",
        Goal.COST: "the cheapest come first",
        Goal.ENERGY: "those of least energy come first",
    }[scenario.goal]


def asked_text(scenario: Scenario) -> str:
    """Return what the user asked for, in one line."""
    task = scenario.task
    if isinstance(task, Command):
        return f"run {task.argv[0]} with {plural(task.workers, 'worker')}"
    if isinstance(task, Serve):
        return _service_asked(task)
    if isinstance(task, Classify):
        images = plural(task.data.num_images, "image")
        length = _length(task.steps, task.epochs, task.duration_s)
        return f"train {task.model.name} on {images} of {task.data.num_classes} classes for {length}"
    pretrain = isinstance(task, Pretrain)
    epochs = None if isinstance(task, Pretrain) else task.epochs
    return (
        f"{'pre-train' if pretrain else 'fine-tune'} {task.model.name} ({show_count(task.model.params)} parameters) "
        f"for {_length(task.steps, epochs, task.duration_s)}, {task.global_batch} x {task.sequence} tokens a step"
    )


def _length(steps: int | None, epochs: float | None, duration_s: float | None) -> str:
    if steps:
        return plural(steps, "step")
    if epochs is not None:
        return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    return f"about {show_duration(duration_s or 0.0)}"


def _service_asked(task: Serve) -> str:
    traffic, level = task.traffic, task.level
    words = [f"serve {task.model.name} ({show_count(task.model.params)} parameters)"]
    words.append(f"{traffic.input.mean:,.0f} tokens in, {traffic.output.mean:,.0f} out")
    if traffic.rate is not None:
        words.append(f"{traffic.rate:g} requests/s")
    if traffic.concurrency is not None:
        words.append(f"{traffic.concurrency} requests in flight")
    names = (("first token", level.ttft_s), ("each token", level.tpot_s))
    kept = [f"{name} within {show_duration(limit)}" for name, limit in names if limit is not None]
    if kept:
        words.append(f"{' and '.join(kept)} for {level.percentile * 100:.3g} % of requests")
    return ", ".join(words)


def money(value: float) -> str:
    """Return an amount of money to three figures, without its currency: ``0.0123``, ``41.2``, ``1.24M``."""
    return show_count(value)


def energy_text(joules: float) -> str:
    """Return energy in the unit that people pay for: ``41.2 kWh``."""
    hours = joules / 3600
    for unit, size in (("GWh", 1e9), ("MWh", 1e6), ("kWh", 1e3)):
        if hours >= size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours:.3g} Wh"


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
