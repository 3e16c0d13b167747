"""The course of an attempt: which generation runs, when it ends, what follows. Pure: reports and time in, orders out.

GATHERING --all nodes said hello--> RUNNING (adopted) or CLEARING
CLEARING  --nothing is left-------> DELAY, or FINISHED
DELAY     --time is up------------> RUNNING (a new generation)
RUNNING   --failure, stop, done---> CLEARING
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mofang.domain.events import EventKind
from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.failures import End, Failure, verdict
from mofang.recovery.agent.messages import (
    Cleared,
    Exited,
    Hello,
    Message,
    Problem,
    Started,
    StopAsked,
    StopGeneration,
)

__all__ = ["ABSENT_S", "RETURN_S", "Coordinator", "History", "Note"]

ABSENT_S = 8.0  # a node away for this long fails its generation
RETURN_S = 60.0  # one away for this long ends the attempt


class _Phase(StrEnum):
    GATHERING = "gathering"
    RUNNING = "running"
    CLEARING = "clearing"
    DELAY = "delay"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An event to record."""

    kind: EventKind
    generation: int
    data: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class History:
    """What an earlier agent recorded: the newest generation, how generations failed, and how the attempt was to end."""

    generation: int = 0
    started: int = 0  # the newest generation whose workers all started
    failures: list[Failure] = field(default_factory=list)
    ended: End | None = None


class Coordinator:
    """Decides for all nodes of an attempt.

    Args:
        ranks_of: the ranks of every node.
        policy: when to go on.
        grace_s: seconds between SIGTERM and SIGKILL when the attempt is stopped.
        history: what earlier agents recorded.
        now: seconds, monotonic.
    """

    def __init__(
        self, *, ranks_of: Sequence[range], policy: RestartPolicy, grace_s: float, history: History, now: float
    ) -> None:
        self._ranks_of, self._policy, self._grace_s = ranks_of, policy, grace_s
        self._history = history
        self._now = self._since = self._started_at = now
        self._phase = _Phase.GATHERING
        self._hellos: dict[int, Hello] = {}
        self._absent_since: dict[int, float] = {}
        self._problems: list[Problem] = []
        self._pids: dict[str, int] = {}
        self._done: set[int] = set()
        self._started: set[int] = set()
        self._cleared: set[int] = set()
        self._end = history.ended
        self._resume_at = 0.0
        self._grace = 0.0
        self.generation = history.generation
        self.to_start: int | None = None  # the generation that the caller is to start
        self.orders: list[tuple[int, StopGeneration]] = []
        self.notes: list[Note] = []

    @property
    def outcome(self) -> End | None:
        """How the attempt ended, once nothing of it is left."""
        return self._end if self._phase is _Phase.FINISHED else None

    def receive(self, message: Message, now: float) -> None:
        """Take in one report."""
        self._now = now
        match message:
            case Hello():
                self._welcome(message)
            case StopAsked():
                self._stop()
            case Started(generation=self.generation):
                self._note_started(message)
            case Exited(generation=self.generation):
                self._done.add(message.rank)
            case Problem(generation=self.generation):
                self._problems.append(message)
            case Cleared(generation=self.generation):
                self._cleared.add(message.node)

    def lose(self, node: int, now: float) -> None:
        """Take in that the connection to a node broke; it may come back with its workers alive."""
        self._hellos.pop(node, None)
        self._absent_since[node] = now

    def tick(self, now: float) -> None:
        """Decide; then ``orders``, ``notes``, ``to_start`` and ``outcome`` say what to do."""
        self._now = now
        match self._phase:
            case _Phase.GATHERING:
                self._gather()
            case _Phase.RUNNING:
                self._watch()
            case _Phase.CLEARING:
                self._await_cleared()
            case _Phase.DELAY:
                if now >= self._resume_at:
                    self._begin()
            case _Phase.FINISHED:
                pass

    def _welcome(self, hello: Hello) -> None:
        self._hellos[hello.node] = hello
        if self._phase is _Phase.CLEARING:
            self.orders.append((hello.node, StopGeneration(generation=self.generation, grace_s=0.0)))
        if self._phase is _Phase.RUNNING and not self._runs_here(hello):
            self._problems.append(self._lost_problem(hello.node, "came back without its workers"))

    def _runs_here(self, hello: Hello) -> bool:
        return hello.intact and hello.generation == self.generation

    def _gather(self) -> None:
        missing = self._missing()
        if missing:
            if self._now - self._since > RETURN_S:
                self._finish(self._node_lost(missing))
            return
        if self.generation == 0 and self._end is None:
            self._begin()
        elif self._can_adopt():
            self._phase = _Phase.RUNNING
            self._started = set(self._hellos)
            if self._history.started != self.generation:
                self.note_started(0)  # the earlier agent died before it could
        else:
            if self._end is None and self._failed():
                self._judge()
            self._clear(0.0)

    def _can_adopt(self) -> bool:
        if self._failed() or self._end is not None:
            return False
        return all(self._runs_here(hello) for hello in self._hellos.values())

    def _failed(self) -> bool:
        return bool(self._history.failures) and self._history.failures[-1].generation == self.generation

    def _missing(self) -> list[int]:
        return [node for node in range(len(self._ranks_of)) if node not in self._hellos]

    def _node_lost(self, nodes: Sequence[int]) -> End:
        names = ", ".join(str(node) for node in nodes)
        return End(reason=Reason.NODE_LOST, message=f"no answer from node {names} for {RETURN_S:.0f} s")

    def _lost_problem(self, node: int, what: str) -> Problem:
        return Problem(
            node=node,
            generation=self.generation,
            reason=Reason.NODE_LOST,
            message=f"node {node} {what}",
            signature=f"{Reason.NODE_LOST}/{node}",
        )

    def _begin(self) -> None:
        self.generation += 1
        self.to_start = self.generation
        self._phase = _Phase.RUNNING
        self._started_at = self._now
        self._problems, self._pids = [], {}
        self._done, self._started, self._cleared = set(), set(), set()

    def _note_started(self, report: Started) -> None:
        self._pids |= report.pids
        self._started.add(report.node)

    def note_started(self, port: int) -> None:
        """Record the start once every node has reported it."""
        data = {"workers": self._ranks_of[-1].stop, "pids": self._pids, "port": port}
        self.notes.append(Note(kind=EventKind.GENERATION_STARTED, generation=self.generation, data=data))

    @property
    def all_started(self) -> bool:
        """Whether the workers of all nodes were started."""
        return len(self._started) == len(self._ranks_of)

    def _watch(self) -> None:
        for node in self._missing():
            if self._now - self._absent_since.get(node, self._now) > ABSENT_S:
                self._problems.append(self._lost_problem(node, "stopped answering"))
        if self._problems:
            self._fail(min(self._problems, key=lambda problem: problem.time))
        elif len(self._done) == self._ranks_of[-1].stop:
            self._end = End(reason=Reason.COMPLETED, message="")
            self._note_ended(self._end.reason, self._end.message, {})
            self._clear(0.0)

    def _fail(self, problem: Problem) -> None:
        failure = Failure(
            generation=self.generation,
            reason=Reason(problem.reason),
            message=problem.message,
            signature=problem.signature,
            step=problem.step,
            seconds=self._now - self._started_at,
        )
        self._history.failures.append(failure)
        details = {"step": failure.step, "signature": failure.signature, "seconds": failure.seconds}
        self._note_ended(failure.reason, failure.message, details)
        self._judge()
        self._clear(0.0)

    def _note_ended(self, reason: Reason, message: str, details: Mapping[str, Any]) -> None:
        data = {"reason": str(reason), "message": message, **details}
        self.notes.append(Note(kind=EventKind.GENERATION_ENDED, generation=self.generation, data=data))

    def _judge(self) -> None:
        decision = verdict(self._history.failures, self._policy)
        if isinstance(decision, End):
            self._end = decision
        else:
            self._resume_at = self._now + decision.delay_s

    def _stop(self) -> None:
        if self._end is not None:
            return
        self._end = End(reason=Reason.STOPPED_BY_USER, message="stopped by the user")
        if self._phase is _Phase.RUNNING:
            self._note_ended(self._end.reason, self._end.message, {})
        if self._phase is not _Phase.CLEARING:
            self._clear(self._grace_s)

    def _clear(self, grace_s: float) -> None:
        self._phase = _Phase.CLEARING
        self._since = self._now
        self._grace = grace_s
        self._cleared = set()
        self.orders += [
            (node, StopGeneration(generation=self.generation, grace_s=grace_s)) for node in sorted(self._hellos)
        ]

    def _await_cleared(self) -> None:
        left = [node for node in range(len(self._ranks_of)) if node not in self._cleared]
        absent = [node for node in left if node not in self._hellos]
        if not left:
            self._after_clearing()
        elif absent and self._now - self._since > RETURN_S + self._grace:
            self._finish(self._end or self._node_lost(absent))

    def _after_clearing(self) -> None:
        if self._end is not None:
            self._finish(self._end)
        elif self._now >= self._resume_at:
            self._begin()
        else:
            self._phase = _Phase.DELAY

    def _finish(self, end: End) -> None:
        self._end = end
        self._phase = _Phase.FINISHED
        data = {"reason": str(end.reason), "message": end.message}
        self.notes.append(Note(kind=EventKind.OUTCOME, generation=self.generation, data=data))
