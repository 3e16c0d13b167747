"""What a job is doing, folded from its events: the numbers of the moment, and the lines worth a person's time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mofang.domain.events import Event, EventKind
from mofang.domain.reasons import Reason
from mofang.report.steps import number
from mofang.report.words import plural, reason_text
from mofang.units import show_count, show_duration

__all__ = ["QUIET", "Progress", "absorb", "numbers_text"]

_SMOOTHING = 0.1  # the weight of the newest step in the running mean that the time left is computed from


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The latest of everything. Times in seconds, losses in nats; None: not known yet."""

    steps: int | None  # planned
    phase: str = "waiting"
    done: float | None = None  # of the phase, out of ``total``
    total: float | None = None
    step: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    step_time_s: float | None = None  # a running mean
    time: float = 0.0  # of the newest event
    generation: tuple[int, int] = (0, 0)
    fault_at: float | None = None  # since when the job has been recovering
    serves: bool = False  # it is a service, and has answered already
    requests: int | None = None  # that a service was asked
    failed: tuple[int, int] = (0, 0)  # the newest generation of which a worker's end was told
    unkept: tuple[int, int] = (0, 0)  # the newest generation of which was told that it takes no snapshots
    ended: bool = False

    @property
    def left_s(self) -> float | None:
        """Seconds until the last step at the present speed."""
        if self.steps is None or self.step_time_s is None:
            return None
        return max(0, self.steps - self.step) * self.step_time_s


def absorb(progress: Progress, event: Event) -> tuple[Progress, str]:
    """Return the progress after an event, and a line about it where it deserves one."""
    progress = replace(progress, time=max(progress.time, event.time))
    change = _CHANGES.get(event.kind)
    if change is not None:
        return change(progress, event)
    text = _line(event)
    return (_recovering(progress, event) if text and event.kind in _FAULTS else progress), text


def _asked(progress: Progress, event: Event) -> tuple[Progress, str]:
    return replace(progress, tokens_per_s=number(event, "tokens_per_s"), requests=event.data.get("requests")), ""


def _recovering(progress: Progress, event: Event) -> Progress:
    return progress if progress.fault_at is not None else replace(progress, fault_at=event.time, phase="recovering")


def _exited_worker(progress: Progress, event: Event) -> tuple[Progress, str]:
    """Tell of the first worker of a generation that failed: the agent ends the others, and that is no news."""
    text, generation = _line(event), (event.attempt, event.generation)
    if not text or generation <= progress.failed:
        return progress, ""
    return replace(_recovering(progress, event), failed=generation), text


def _unkept(progress: Progress, event: Event) -> tuple[Progress, str]:
    """Tell of the first worker of a generation that can take no snapshots: one is enough to keep all from it."""
    generation = (event.attempt, event.generation)
    if generation <= progress.unkept:
        return progress, ""
    return replace(progress, unkept=generation), _line(event)


def _stepped(progress: Progress, event: Event) -> tuple[Progress, str]:
    generation, took = (event.attempt, event.generation), number(event, "step_time_s")
    text, fault_at = "", progress.fault_at
    if fault_at is not None and generation > progress.generation:
        text, fault_at = f"stepping again {show_duration(max(0.0, event.time - fault_at))} after the fault", None
    mean = progress.step_time_s
    if took is not None and generation == progress.generation:  # a generation's first step pays for warming up
        mean = took if mean is None else mean + _SMOOTHING * (took - mean)
    return (
        replace(
            progress,
            phase="recovering" if fault_at is not None else "train",
            done=None,
            total=None,
            step=int(number(event, "step") or 0),
            loss=number(event, "loss"),
            tokens_per_s=number(event, "tokens_per_s"),
            mfu=number(event, "mfu"),
            step_time_s=mean,
            generation=max(generation, progress.generation),
            fault_at=fault_at,
        ),
        text,
    )


def _generation(progress: Progress) -> Progress:
    if progress.steps is None and not progress.serves:  # a program that reports no steps goes on as soon as it runs
        return replace(progress, phase="running", fault_at=None)
    return progress if progress.fault_at is not None else replace(progress, phase="starting")


def _serving(progress: Progress, event: Event) -> tuple[Progress, str]:
    again = ""
    if progress.fault_at is not None:
        again = f" again, {show_duration(max(0.0, event.time - progress.fault_at))} after the fault"
    return replace(progress, phase="serving", serves=True, fault_at=None), _line(event) + again


def _phase(progress: Progress, event: Event) -> Progress:
    name = str(event.data.get("name", progress.phase))
    return replace(progress, phase=name, done=number(event, "done"), total=number(event, "total"))


_FAULTS = {
    EventKind.FAULT_INJECTED,
    EventKind.HANG_DETECTED,
    EventKind.GENERATION_ENDED,
    EventKind.ATTEMPT_ENDED,
}


def _line(event: Event) -> str:
    write = _LINES.get(event.kind)
    return write(event.data, event) if write is not None else ""


def _exited(data: Mapping[str, Any], _: Event) -> str:
    if data.get("signal"):
        return f"worker {data.get('rank')} was killed by signal {data['signal']}"
    if data.get("exit_code") in {0, None}:
        return ""
    return f"worker {data.get('rank')} failed: {data.get('message') or 'exit code ' + str(data['exit_code'])}"


def _ended(data: Mapping[str, Any], _: Event) -> str:
    reason = data.get("reason")
    if reason in {None, Reason.COMPLETED, Reason.STOPPED_BY_USER}:
        return ""
    return f"the attempt ended: {data.get('message') or reason_text(reason)}"


def _more(data: Mapping[str, Any]) -> str:
    return f": {data['message']}" if data.get("message") else ""


def _loaded(data: Mapping[str, Any]) -> str:
    places = {"memory": "the snapshot in memory", "peer": "a peer's snapshot"}
    return f"resumed from {places.get(str(data.get('tier')), 'the checkpoint')} of step {data.get('step')}"


def _started(data: Mapping[str, Any], event: Event) -> str:
    return f"{plural(int(data.get('workers') or 0), 'worker')} started (generation {event.generation})"


def _lost(data: Mapping[str, Any], _: Event) -> str:
    """Tell of a generation that ended with a node: of other ends the workers' own tell."""
    return f"a node was lost{_more(data)}" if data.get("reason") == Reason.NODE_LOST else ""


def _hangs(data: Mapping[str, Any], _: Event) -> str:
    where = f" ({data['evidence']})" if data.get("evidence") else ""
    return f"worker {data.get('rank')} hangs{where}: no progress for {show_duration(float(data.get('silent_s') or 0))}"


def _slow(data: Mapping[str, Any], _: Event) -> str:
    times = f"its steps take {float(data.get('ratio') or 0):.1f} x as long"
    return f"worker {data.get('rank')} on {data.get('node')} holds the others back: {times}"


def _corrupt(data: Mapping[str, Any], _: Event) -> str:
    ranks = ", ".join(map(str, data.get("ranks") or ()))
    return f"silent corruption at step {data.get('step')}: other {data.get('what')} on worker {ranks}"


def _went_back(data: Mapping[str, Any], _: Event) -> str:
    skipped = len(data.get("skipped") or ())
    left_out = f"; the data of {plural(skipped, 'step')} is left out" if skipped else ""
    return f"went back from step {data.get('step')} to step {data.get('to')}: {data.get('why')}{left_out}"


def _risk(data: Mapping[str, Any], _: Event) -> str:
    chance = (
        f"{float(data.get('probability') or 0) * 100:.2g} % within {show_duration(float(data.get('horizon_s') or 0))}"
    )
    asked = ": asked for a snapshot" if data.get("snapshot") else ""
    return f"node {data.get('node')} may fail ({chance}, mostly for {data.get('cause')}){asked}"


def _waiting(data: Mapping[str, Any], _: Event) -> str:
    return f"waiting: {data.get('message') or reason_text(data.get('reason'))}"


def _validation(data: Mapping[str, Any], event: Event) -> str:
    accuracy = number(event, "accuracy")
    more = "" if accuracy is None else f", accuracy {accuracy * 100:.1f} %"
    return f"step {data.get('step')}: validation loss {number(event, 'loss') or float('nan'):.3f}{more}"


_LINES: dict[EventKind, Callable[[Mapping[str, Any], Event], str]] = {
    EventKind.WAITING: _waiting,
    EventKind.GENERATION_STARTED: _started,
    EventKind.WORKER_EXITED: _exited,
    EventKind.GENERATION_ENDED: _lost,
    EventKind.HANG_DETECTED: _hangs,
    EventKind.FAULT_INJECTED: lambda data, _: (
        f"fault on purpose at step {data.get('step')}: worker {data.get('rank')}, {data.get('what')}"
    ),
    EventKind.CHECKPOINT_LOADED: lambda data, event: _loaded(data) if event.source.endswith("0000") else "",
    EventKind.CHECKPOINT_REFUSED: lambda data, _: f"a checkpoint was refused{_more(data)}",
    EventKind.CHECKPOINT_FAILED: lambda data, _: f"the checkpoint of step {data.get('step')} failed{_more(data)}",
    EventKind.SNAPSHOTS_OFF: lambda data, _: f"no snapshots in memory{_more(data)}",
    EventKind.STRAGGLER_DETECTED: _slow,
    EventKind.CORRUPTION_DETECTED: _corrupt,
    EventKind.LOSS_SPIKE: lambda data, _: f"a loss spike{_more(data)}",
    EventKind.ROLLED_BACK: _went_back,
    EventKind.MEMBERS_CHANGED: lambda data, _: str(data.get("message") or "goes on with other nodes"),
    EventKind.RISK: _risk,
    EventKind.STANDBY: lambda data, _: "" if data.get("ready") else f"no warm standby{_more(data)}",
    EventKind.VALIDATION: _validation,
    EventKind.SERVING: lambda data, _: f"{data.get('model')} answers at {data.get('url')}/v1/completions",
    EventKind.EXPORTED: lambda data, _: f"wrote the {data.get('what')} to {data.get('path')}",
    EventKind.AGENT_RESTARTED: lambda data, _: f"the agent on {data.get('node')} was restarted",
    EventKind.STOP_REQUESTED: lambda data, _: f"stopping, as {data.get('by') or 'someone'} asked",
    EventKind.ATTEMPT_ENDED: _ended,
}


# Of these nothing is said: they are numbers of the moment, come too often, or are told by another.
QUIET = frozenset(
    {
        EventKind.SUBMITTED,
        EventKind.ATTEMPT_STARTED,
        EventKind.JOB_ENDED,  # the command that follows says how
        EventKind.OUTCOME,  # ATTEMPT_ENDED tells it
        EventKind.PHASE,
        EventKind.STEP,
        EventKind.TRAFFIC,
        EventKind.SNAPSHOT,
        EventKind.REPLICATED,
        EventKind.CHECKPOINT_SAVED,
        EventKind.SAMPLE,
        EventKind.RESULT,
    }
)

_CHANGES: dict[EventKind, Callable[[Progress, Event], tuple[Progress, str]]] = {
    EventKind.STEP: _stepped,
    EventKind.PHASE: lambda progress, event: (_phase(progress, event), ""),
    EventKind.TRAFFIC: _asked,
    EventKind.SERVING: _serving,
    EventKind.JOB_ENDED: lambda progress, _: (replace(progress, ended=True), ""),
    EventKind.WORKER_EXITED: _exited_worker,
    EventKind.SNAPSHOTS_OFF: _unkept,
    EventKind.GENERATION_STARTED: lambda progress, event: (_generation(progress), _line(event)),
}


def numbers_text(progress: Progress) -> str:
    """Return the numbers of the moment: ``loss 2.41, 34.1k tokens/s, MFU 41 %, 1m 12s left``."""
    parts = []
    if progress.requests is not None:
        parts.append(plural(progress.requests, "request"))
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_s is not None:
        parts.append(f"{show_count(progress.tokens_per_s)} tokens/s")
    if progress.mfu is not None:
        parts.append(f"MFU {progress.mfu * 100:.0f} %")
    if progress.left_s:
        parts.append(f"{show_duration(progress.left_s)} left")
    return ", ".join(parts)
