"""From the spools in a run directory to the store: every event once, whatever dies in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from mofang.domain.events import Event, EventKind
from mofang.domain.reasons import Reason
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import read_spool
from mofang.store import events
from mofang.store.store import Store

__all__ = ["Outcome", "SpoolReader"]

_FIRST_WORKER = "r0000"  # its steps are the job's progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The agents' last word on an attempt."""

    reason: Reason
    message: str


@dataclass(slots=True, kw_only=True)
class SpoolReader:
    """Reads what the agents and workers of one attempt append."""

    store: Store
    job_id: str
    attempt_dir: Path
    offsets: dict[str, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    step: int | None = None
    served: bool = False  # whether a service began to answer

    def ingest(self) -> int:
        """Store every complete line that is new; return how many events those were."""
        total = 0
        while True:
            found, offsets = self._read()
            if not offsets:
                return total
            self._store(found, offsets)
            total += len(found)

    def last_word(self) -> Outcome | None:
        """Return the outcome from the spool, or else from the file that outlives a full disk."""
        if self.outcome is not None:
            return self.outcome
        try:
            data = json.loads(AttemptDir(self.attempt_dir).outcome.read_text())
        except (OSError, ValueError):
            return None
        return _outcome(data)

    def _read(self) -> tuple[list[Event], dict[str, int]]:
        found: list[Event] = []
        moved: dict[str, int] = {}
        for name, path in self._files():
            offset = self.offsets.get(name, 0)
            page = read_spool(path, offset)
            if page.offset > offset:
                found += [event for event in page.events if _is_sound(event)]
                moved[name] = page.offset
        found.sort(key=lambda event: (event.time, event.kind is EventKind.OUTCOME))  # the last word comes last
        return found, moved

    def _files(self) -> Iterator[tuple[str, Path]]:
        folder = self.attempt_dir / "spool"
        for path in sorted(folder.glob("*.jsonl")):
            name = f"{self.attempt_dir.name}/spool/{path.name}"
            if _size(path) > self.offsets.get(name, 0):
                yield name, path

    def _store(self, found: list[Event], offsets: dict[str, int]) -> None:
        progress: dict[str, float | int | str] = {}
        for event in found:
            if event.kind is EventKind.STEP and event.source == _FIRST_WORKER:
                progress |= _progress(event)
            elif event.kind is EventKind.SERVING and event.source == _FIRST_WORKER:
                self.served = True
                progress["message"] = f"answers at {event.data.get('url')}"
        rows = [
            (
                event.attempt,
                event.generation,
                event.source,
                event.sequence,
                event.time,
                event.kind.value,
                json.dumps(event.data),
                self.job_id,
            )
            for event in found
        ]
        item = events.Ingest(job_id=self.job_id, rows=rows, offsets=offsets, progress=progress)
        self.store.write(events.ingest, item)
        self.offsets |= offsets
        if "step" in progress:
            self.step = int(progress["step"])
        for event in found:
            if event.kind is EventKind.OUTCOME:
                self.outcome = _outcome(event.data)


def _is_sound(event: Event) -> bool:
    """Return whether the store can hold the event: a program may have written anything to its spool."""
    numbers = (event.attempt, event.generation, event.sequence)
    return isinstance(event.data, dict) and isfinite(event.time) and all(0 <= number < 2**63 for number in numbers)


def _size(path: Path) -> int:
    """Return the size of a file that can be read, else 0: it is looked at again in the next turn."""
    try:
        return path.stat().st_size if os.access(path, os.R_OK) else 0
    except OSError:
        return 0


def _progress(event: Event) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    step, loss = event.data.get("step"), event.data.get("loss")
    if isinstance(step, int) and 0 <= step < 2**63:
        found["step"] = step
    if isinstance(loss, int | float) and isfinite(loss):
        found["loss"] = float(loss)
    return found


def _outcome(data: object) -> Outcome:
    facts = data if isinstance(data, dict) else {}
    text = str(facts.get("message", ""))
    try:
        return Outcome(reason=Reason(str(facts.get("reason"))), message=text)
    except ValueError:  # an agent of another version
        return Outcome(reason=Reason.AGENT_LOST, message=f"{text} (reason {facts.get('reason')!r})")
