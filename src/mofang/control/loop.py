"""The loop: watch, view, decide, commit, act, ingest. One thread; no event loop, no sleeping, no time of its own.

What it holds in memory can be read back from the store at any moment, and is after every error: so a controller that
is killed anywhere and started again goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from mofang.clock import Clock
from mofang.control import baggage
from mofang.control.fleet import FleetWatch
from mofang.control.keeper import Keeper, News
from mofang.control.measuring import measurement
from mofang.control.queue import Queue, Started
from mofang.control.spools import Outcome, SpoolReader
from mofang.control.verdict import judge
from mofang.domain.job import AttemptState, Job, JobState
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.errors import BackendError, SpecError
from mofang.store import attempts, events, jobs
from mofang.store.attempts import Restarted
from mofang.store.endings import JobEnd
from mofang.store.store import Store

if TYPE_CHECKING:
    from mofang.scheduling.view import RunningJob

__all__ = ["Loop"]

_log = logging.getLogger(__name__)

_TICK_S = 10.0  # decide at least so often: time alone can make a job start
_BUSY_S = 0.2  # between turns while something runs
_CALM = 10.0  # deciding may take this part of the time: 1 / (1 + _CALM)


@dataclass(slots=True, kw_only=True)
class _Entry:
    """A job that has not ended. ``keeper`` is there while an attempt has not ended."""

    job: Job
    not_before: float = 0.0
    retries: int = 0
    step: int | None = None  # reached before the attempt that runs
    keeper: Keeper | None = None


@dataclass(slots=True, kw_only=True)
class Loop:
    """Everything that happens to jobs after they were accepted.

    Args:
        store: led by this process.
        home: Mofang's folder.
        clock: the time.
        fleet: the nodes.
        queue: decides on waiting jobs.
        workers: where calls to backends run.
        changed: told the id of each job whose events or state have changed.
        wake: called, from any thread, when something has come in or a call to a backend has been answered.
    """

    store: Store
    home: Path
    clock: Clock
    fleet: FleetWatch
    queue: Queue
    workers: Executor
    changed: Callable[[str], object] = lambda _job_id: None
    wake: Callable[[], object] = lambda: None
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _kept: dict[str, _Entry] = field(default_factory=dict)  # those with an attempt that has not ended
    _waiting: dict[str, _Entry] = field(default_factory=dict)
    _inbox: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)
    _dirty: bool = True
    _next_decision: float = 0.0
    _last_decision: float = 0.0
    _ripe_at: float = inf  # when the next job may start that waits after a lost attempt

    def load(self) -> None:
        """Take every job that has not ended from the store; what was in memory is forgotten."""
        for entries in (self._entries, self._kept, self._waiting):
            entries.clear()
        self.queue.waits.clear()
        for job_id in self.store.read(jobs.live):
            try:
                self._load_job(job_id)
            except SpecError as error:
                self._give_up(job_id, error)
        baggage.sweep(self.home, self._entries.keys())
        self._dirty = True

    def add(self, job: Job) -> None:
        """Take over a job that has just been accepted. Any thread may call this."""
        self._inbox.put(lambda: self._enter(_Entry(job=job)))
        self.wake()

    def stopped(self, job_id: str, state: JobState) -> None:
        """Take note of a stop that has just been committed. Any thread may call this."""
        self._inbox.put(lambda: self._take_stop(job_id, state))
        self.wake()

    @property
    def num_live(self) -> int:
        """How many jobs have not ended, as far as the loop has heard."""
        return len(self._entries) + self._inbox.qsize()

    def turn(self) -> float:
        """Do everything that is due, once; return the seconds until the next turn is due at the latest."""
        self._take_inbox()
        now = self.clock.now()
        if self.fleet.turn(now):
            self._dirty = True
        for entry in list(self._kept.values()):
            self._keep(entry, now)
        self._decide(now)
        return self._pause(self.clock.now())

    # Memory follows the store.

    def _load_job(self, job_id: str) -> None:
        found = self.store.read(jobs.load, job_id)
        attempt = found.job.attempt
        entry = _Entry(job=found.job, not_before=found.not_before or 0.0, retries=found.retries, step=found.step)
        if attempt is not None and attempt.state is not AttemptState.ENDED:
            entry.step = self.store.read(attempts.start_step, attempt.fence)
            entry.keeper = self._keeper(found.job, self.store.read(attempts.launch_of, attempt.fence))
            entry.keeper.reader.step = found.step
            entry.keeper.fresh = False
        self._enter(entry)

    def _give_up(self, job_id: str, error: SpecError) -> None:
        """End a job that waits and cannot be understood; one that runs is left to its agents."""
        _log.error("%s", error.message, extra={"job": job_id})
        end = JobEnd(
            job_id=job_id,
            attempt=0,
            time=self.clock.now(),
            state=JobState.FAILED,
            reason=Reason.LAUNCH,
            message=error.message,
        )
        self.store.write(jobs.fail, end)

    def _enter(self, entry: _Entry) -> None:
        job_id = entry.job.id
        for entries in (self._kept, self._waiting):
            entries.pop(job_id, None)
        self._entries[job_id] = entry
        if entry.keeper is not None:
            self._kept[job_id] = entry
        else:
            self._waiting[job_id] = entry
            self._ripe_at = min(self._ripe_at, entry.not_before or inf)
        self._dirty = True

    def _take_inbox(self) -> None:
        try:
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _take_stop(self, job_id: str, state: JobState) -> None:
        entry = self._entries.get(job_id)
        if entry is None:
            return
        if state.is_final:
            self._leave(job_id)
        elif state is JobState.STOPPING:
            entry.job = replace(entry.job, state=state)
            if entry.keeper is not None:
                entry.keeper.stopping = True
                entry.keeper.hurry()

    def _leave(self, job_id: str) -> None:
        for entries in (self._entries, self._kept, self._waiting):
            entries.pop(job_id, None)
        baggage.drop_secrets(self.home, job_id)
        self._dirty = True

    def _keeper(self, job: Job, spec: LaunchSpec) -> Keeper:
        attempt = job.attempt
        backend = None if attempt is None else self.fleet.backend_of(attempt.allocation.cluster)
        if attempt is None or backend is None:
            raise BackendError(f"no backend has the cluster of job {job.id}")
        reader = SpoolReader(
            store=self.store,
            job_id=job.id,
            attempt_dir=Path(spec.attempt_dir),
            offsets=self.store.read(events.offsets, job.id),
        )
        return Keeper(
            spec=spec,
            backend=backend,
            reader=reader,
            workers=self.workers,
            wake=self.wake,
            fresh=True,
            stopping=job.state is JobState.STOPPING,
        )

    # What runs.

    def _keep(self, entry: _Entry, now: float) -> None:
        keeper = entry.keeper
        if keeper is None:
            return
        seen = sum(keeper.reader.offsets.values())
        news = keeper.turn(now)
        for each in news:
            self._take_news(entry, each, now)
        if news or sum(keeper.reader.offsets.values()) != seen:
            self.changed(entry.job.id)

    def _take_news(self, entry: _Entry, news: News, now: float) -> None:
        attempt = entry.job.attempt
        if attempt is None:
            return
        if news.running:
            self.store.write(attempts.mark_running, attempt.fence)
        for node in news.restarted:
            item = Restarted(job_id=entry.job.id, number=attempt.number, time=now, node=node)
            self.store.write(attempts.note_restart, item)
        if news.ended is not None:
            self._finish(entry, news.ended, now)

    def _finish(self, entry: _Entry, outcome: Outcome, now: float) -> None:
        job, keeper = entry.job, entry.keeper
        if job.attempt is None or keeper is None:
            return
        verdict = judge(
            outcome.reason,
            outcome.message,
            stopping=keeper.stopping,
            progressed=keeper.reader.served or (keeper.reader.step or 0) > (entry.step or 0),
            retries=entry.retries,
        )
        ending = attempts.Ending(
            job_id=job.id,
            number=job.attempt.number,
            time=now,
            attempt_reason=outcome.reason,
            attempt_message=outcome.message,
            job_state=verdict.state,
            reason=verdict.reason,
            message=verdict.message,
            not_before=now + verdict.pause_s if verdict.pause_s else None,
            retries=verdict.retries,
            measurement=measurement(self.store, job, now) if verdict.state is JobState.SUCCEEDED else None,
        )
        state = self.store.write(attempts.end, ending)
        if state.is_final:
            self._leave(job.id)
        else:
            self._load_job(job.id)

    # What waits.

    def _decide(self, now: float) -> None:
        due = self._dirty or now >= self._ripe_at or now - self._last_decision >= _TICK_S
        # A decision over many jobs takes time: pacing leaves most of it to those who submit them.
        if not due or now < self._next_decision or not self.fleet.is_known:
            return
        self._dirty, self._last_decision, self._ripe_at = False, now, inf
        if not self._waiting:
            return
        before = self.clock.monotonic()
        waiting = {job_id: (entry.job, entry.not_before) for job_id, entry in self._waiting.items()}
        started = self.queue.turn(now, self.fleet.nodes, self._running(), waiting)
        self._ripe_at = min((at for _, at in waiting.values() if at > now), default=inf)
        self._next_decision = now + _CALM * (self.clock.monotonic() - before)
        for each in started:
            self._act(each, now)
        self._drop_failed(waiting)

    def _act(self, started: Started, now: float) -> None:
        before = self._entries[started.job.id]
        entry = _Entry(job=started.job, retries=before.retries, step=before.step)
        entry.keeper = self._keeper(started.job, started.spec)
        self._enter(entry)
        self._keep(entry, now)
        self.changed(started.job.id)

    def _drop_failed(self, waiting: Mapping[str, tuple[Job, float]]) -> None:
        """Read jobs again that the decision neither started nor left waiting: they ended, or changed under it."""
        for job_id in (waiting.keys() - self.queue.waits.keys()) & self._waiting.keys():
            if self.store.read(jobs.load, job_id).job.state.is_final:
                self._leave(job_id)
            else:
                self._load_job(job_id)
            self.changed(job_id)

    def _running(self) -> list[RunningJob]:
        from mofang.scheduling.view import RunningJob  # noqa: PLC0415 - numpy: only where a job waits

        found = []
        for entry in self._kept.values():
            attempt = entry.job.attempt
            if attempt is None:
                continue
            plan = entry.job.plans[attempt.plan_index]
            end = None if plan.estimate is None else attempt.started_at + plan.estimate.total_time_s
            found.append(
                RunningJob(
                    id=entry.job.id,
                    allocation=attempt.allocation,
                    node_memory_bytes=plan.placement.node_memory_bytes,
                    expected_end=end,
                    submitted_at=entry.job.submitted_at,
                )
            )
        return found

    def _pause(self, now: float) -> float:
        due = [self.fleet.next_look]
        if self._kept or not self.fleet.is_known:
            due.append(now + _BUSY_S)
        if self._waiting:
            due.append(max(self._next_decision, now if self._dirty else min(self._ripe_at, now + _TICK_S)))
        return max(0.0, min(due) - now)
