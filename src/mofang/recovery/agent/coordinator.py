"""The course of an attempt: which generation runs, when it ends, what follows. Pure: reports and time in, orders out.

GATHERING --all nodes said hello--> RUNNING (adopted) or CLEARING; the first time, WAITING
CLEARING  --nothing is left-------> WAITING, or FINISHED
WAITING   --time and nodes--------> RUNNING (a new generation)
RUNNING   --failure, stop, done, more nodes than take part--> CLEARING

A node that is lost or excluded leaves its seat to a spare; without one, training goes on with fewer nodes where the
policy allows it, and grows again when somebody can take the empty seat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from mofang.domain.events import EventKind
from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.attendance import ABSENT_S, Attendance
from mofang.recovery.agent.causes import first_cause, is_symptom
from mofang.recovery.agent.failures import End, Failure, verdict
from mofang.recovery.agent.membership import Seats, Team, members
from mofang.recovery.agent.messages import (
    Cleared,
    Exited,
    Hello,
    Message,
    Pace,
    Problem,
    Started,
    StopAsked,
    StopGeneration,
)
from mofang.recovery.agent.record import History, Note
from mofang.recovery.agent.straggler import StragglerWatch, straggler_problem

__all__ = ["ABSENT_S", "GROW_MAX_S", "GROW_S", "RETURN_S", "Coordinator", "History", "Note"]

RETURN_S = 60.0  # an attempt that lacks nodes for this long ends
GROW_S = 5.0  # a generation of fewer nodes runs at least so long before it grows; twice as long every time
GROW_MAX_S = 300.0


class _Phase(StrEnum):
    GATHERING = "gathering"
    RUNNING = "running"
    CLEARING = "clearing"
    WAITING = "waiting"
    FINISHED = "finished"


class Coordinator:
    """Decides for all nodes of an attempt.

    Args:
        team: the nodes.
        policy: when to go on.
        grace_s: seconds between SIGTERM and SIGKILL when the attempt is stopped or grows.
        history: what earlier agents recorded.
        now: seconds, monotonic.
    """

    def __init__(self, *, team: Team, policy: RestartPolicy, grace_s: float, history: History, now: float) -> None:
        self._team, self._policy, self._grace_s = team, policy, grace_s
        self._history = history
        self._now = self._since = self._started_at = now
        self._phase = _Phase.GATHERING
        self._nodes = Attendance(size=len(team.names), now=now, excluded=set(history.excluded))
        self._problems: list[Problem] = []
        self._pids: dict[str, int] = {}
        self._done: set[int] = set()
        self._started: set[int] = set()
        self._to_clear: set[int] = set()
        self._end = history.ended
        self._resume_at = self._grow_at = now
        self._growths = 0
        self._grace = 0.0
        self._ran_s = 0.0
        self._unexplained = False  # a symptom ended the generation: until nothing is left of it, its cause may be told
        self._stragglers = StragglerWatch()
        self.generation = history.generation
        self.seats: Seats = history.seats or team.home
        self.to_start: int | None = None  # the generation that the caller is to start, with those on ``seats``
        self.orders: list[tuple[int, StopGeneration]] = []
        self.notes: list[Note] = []

    @property
    def outcome(self) -> End | None:
        """How the attempt ended, once nothing of it is left."""
        return self._end if self._phase is _Phase.FINISHED else None

    @property
    def _ends(self) -> bool:
        return self._end is not None

    @property
    def workers(self) -> int:
        """How many workers the generation has."""
        return sum(self._team.workers[node] for node in members(self.seats))

    def port_of(self, node: int) -> int:
        """Return a port that was free on a node when it last said so."""
        return self._nodes.ports.get(node, 0)

    def receive(self, message: Message, now: float) -> None:
        """Take in one report."""
        self._now = now
        match message:
            case Hello():
                self._welcome(message)
            case StopAsked():
                self._stop()
            case Started(generation=self.generation):
                self._pids |= message.pids
                self._started.add(message.node)
            case Exited(generation=self.generation):
                self._done.add(message.rank)
            case Problem(generation=self.generation):
                self._problems.append(message)
            case Cleared():
                self._note_cleared(message)
            case Pace(generation=self.generation):
                self._note_stragglers(message)

    def lose(self, node: int, now: float, *, silent: bool = False) -> None:
        """Take in that the connection to a node broke; unless it was silent, it may soon be back, its workers alive."""
        self._nodes.lose(node, now, silent=silent)

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
            case _Phase.WAITING:
                self._resume()
            case _Phase.FINISHED:
                pass

    def _welcome(self, hello: Hello) -> None:
        self._nodes.welcome(hello)
        takes_part = self.generation > 0 and hello.node in members(self.seats)
        if self._phase is _Phase.CLEARING and hello.node in self._to_clear:
            self._order(hello.node, self.generation, self._grace)
        elif self._phase is _Phase.RUNNING and takes_part:
            if not self._runs_here(hello):
                self._problems.append(self._lost_problem(hello.node, "came back without its workers"))
        elif hello.node not in self._nodes.ready and not (takes_part and self._phase is _Phase.GATHERING):
            self._order(hello.node, hello.generation, 0.0)  # what it ran is over

    def _note_cleared(self, report: Cleared) -> None:
        runs = self._phase in {_Phase.RUNNING, _Phase.GATHERING} and report.node in members(self.seats)
        late = report.node in self._to_clear and report.generation != self.generation
        if not runs and not late:
            self._nodes.clear(report.node, report.port)
            self._to_clear.discard(report.node)

    def _runs_here(self, hello: Hello) -> bool:
        return hello.intact and hello.generation == self.generation

    def _gather(self) -> None:
        if self.generation == 0 and self._end is None:
            self._resume()
            return
        missing = self._missing()
        if any(not self._nodes.is_lost(node, self._now) for node in missing):
            return
        if not missing and self._can_adopt():
            self._phase = _Phase.RUNNING
            self._started = set(members(self.seats))
            self._start_growing_later()
            if self._history.started != self.generation:
                self.note_started(0)  # the earlier agent died before it could
        elif missing and self._end is None and not self._failed():
            self._fail(self._lost_problem(missing[0], "stopped answering"))
        else:
            if self._end is None and self._failed():
                self._judge()
            self._clear(0.0)

    def _can_adopt(self) -> bool:
        if self._failed() or self._end is not None:
            return False
        return all(self._runs_here(self._nodes.hellos[node]) for node in members(self.seats))

    def _failed(self) -> bool:
        return bool(self._history.failures) and self._history.failures[-1].generation == self.generation

    def _missing(self) -> list[int]:
        return [node for node in members(self.seats) if node not in self._nodes.hellos]

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

    def _resume(self) -> None:
        """Begin the next generation once it is time and enough nodes are there."""
        if self._now < self._resume_at:
            return
        seats = self._team.fill(self.seats, self._nodes.available)
        awaited = range(len(self._team.names)) if None in seats else members(self.seats)
        if self._nodes.may_come(awaited, self._now) and self._now - self._since <= RETURN_S + self._grace:
            return
        if self._team.suffice(seats):
            self._begin(seats)
        elif self._now - self._since > RETURN_S + self._grace:
            self._give_up(seats)

    def _give_up(self, seats: Seats) -> None:
        """End for want of nodes, unless those that were excluded can be called back: better they than nobody."""
        back = self._nodes.ready & self._nodes.excluded
        if back and self._team.suffice(self._team.fill(seats, self._nodes.ready)):
            self._nodes.excluded -= back
            return
        self._finish(self._node_lost([node for node in members(self._team.home) if node not in members(seats)]))

    def _begin(self, seats: Seats) -> None:
        before, self.seats = self.seats, seats
        self.generation += 1
        self.to_start = self.generation
        self._phase = _Phase.RUNNING
        self._started_at = self._now
        self._problems, self._pids = [], {}
        self._done, self._started, self._to_clear = set(), set(), set()
        self._nodes.occupy(members(seats))
        self._start_growing_later()
        if before != seats:
            self._note_members(before)

    def _note_members(self, before: Seats) -> None:
        data = {
            "nodes": [self._team.names[node] for node in members(self.seats)],
            "spares": [self._team.names[node] for node in sorted(self._nodes.available)],
            "workers": self.workers,
            "message": self._team.describe_change(before, self.seats, self._nodes.excluded),
        }
        self.notes.append(Note(kind=EventKind.MEMBERS_CHANGED, generation=self.generation, data=data))

    def note_started(self, port: int) -> None:
        """Record the start once every node has reported it."""
        data = {"workers": self.workers, "pids": self._pids, "port": port}
        self.notes.append(Note(kind=EventKind.GENERATION_STARTED, generation=self.generation, data=data))

    @property
    def all_started(self) -> bool:
        """Whether the workers of all nodes that take part were started."""
        return self._started >= set(members(self.seats))

    def _watch(self) -> None:
        for node in self._missing():
            if self._nodes.is_lost(node, self._now):
                self._problems.append(self._lost_problem(node, "stopped answering"))
        if self._problems:
            self._fail(first_cause(self._problems))
        elif len(self._done) == self.workers:
            self._complete()
            self._clear(0.0)
        elif None in self.seats and self._now >= self._grow_at:
            self._grow()

    def _complete(self) -> None:
        self._end = End(reason=Reason.COMPLETED, message="")
        self._note_ended(self._end.reason, self._end.message, {})

    def _start_growing_later(self) -> None:
        self._grow_at = self._now + min(GROW_S * 2.0**self._growths, GROW_MAX_S)

    def _grow(self) -> None:
        """Make room for nodes that could take part: stop with grace, so that nothing is lost."""
        now = set(members(self.seats))
        new = set(members(self._team.fill(self.seats, self._nodes.available | now))) - now
        if not new or self._missing() or not self.all_started:
            return
        self._growths += 1
        message = f"{self._team.describe(new)} can take part: growing to {len(now) + len(new)} nodes"
        self._note_ended(Reason.RESIZED, message, {"seconds": self._now - self._started_at})
        self._resume_at = self._now
        self._clear(self._grace_s)

    def _fail(self, problem: Problem) -> None:
        """End the generation at once. What a symptom is due to may still be told until nothing is left of it."""
        self._ran_s = self._now - self._started_at
        self._unexplained = is_symptom(problem)
        if not self._unexplained:
            self._settle(problem)
        self._clear(0.0)

    def _settle(self, problem: Problem) -> None:
        """Record why the generation failed, and decide what follows."""
        failure = Failure(
            generation=self.generation,
            reason=Reason(problem.reason),
            message=problem.message,
            signature=problem.signature,
            step=problem.step,
            seconds=self._ran_s,
        )
        if failure.seconds > GROW_MAX_S:
            self._growths = 0
        if problem.exclude:
            self._exclude(problem.node)
        self._history.failures.append(failure)
        details: dict[str, Any] = {"step": failure.step, "signature": failure.signature, "seconds": failure.seconds}
        details |= {"node": self._team.names[problem.node]} if len(self._team.names) > 1 else {}
        details |= {"excluded": sorted(self._nodes.excluded)} if self._nodes.excluded else {}
        self._note_ended(failure.reason, failure.message, details)
        self._judge()

    def _note_stragglers(self, report: Pace) -> None:
        for straggler, node in self._stragglers.take(report, self.workers):
            data = {"rank": straggler.rank, "node": self._team.names[node], "ratio": straggler.ratio}
            data |= {"step": straggler.step}
            self.notes.append(Note(kind=EventKind.STRAGGLER_DETECTED, generation=self.generation, data=data))
            if self._policy.replace_stragglers and self._nodes.available:
                self._problems.append(straggler_problem(straggler, node, self.generation))

    def _exclude(self, node: int) -> None:
        """Leave a node out from now on, where the attempt can do without it."""
        others = (self._nodes.available | set(members(self.seats))) & self._nodes.hellos.keys() - {node}
        if node in members(self.seats) and self._team.suffice(self._team.fill(self.seats, others)):
            self._nodes.excluded.add(node)

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
        self._clear(self._grace if self._phase is _Phase.CLEARING else self._grace_s)

    def _clear(self, grace_s: float) -> None:
        """Have everything ended: on the nodes that take part, and at the end of the attempt on all."""
        self._phase = _Phase.CLEARING
        self._since = self._now
        self._grace = grace_s
        self._to_clear = set(members(self.seats)) if self.generation else set()
        if self._end is not None:
            self._to_clear |= self._nodes.hellos.keys()
        for node in sorted(self._to_clear & self._nodes.hellos.keys()):
            self._order(node, self.generation, grace_s)

    def _order(self, node: int, generation: int, grace_s: float) -> None:
        self.orders.append((node, StopGeneration(generation=generation, grace_s=grace_s, last=self._end is not None)))

    def _await_cleared(self) -> None:
        absent = self._to_clear - self._nodes.hellos.keys()
        if self._to_clear - absent or any(not self._nodes.is_lost(node, self._now) for node in absent):
            return
        if self._end is None and self._unexplained:
            self._unexplained = False
            self._settle(first_cause(self._problems))
            if self._ends:
                self._clear(0.0)  # once more: now it is for good
                return
        if self._end is None:
            self._after_clearing()
        elif not absent or self._now - self._since > RETURN_S + self._grace:
            self._finish(self._end)

    def _after_clearing(self) -> None:
        """Go on; workers of a lost node that still live are cut off from the others, and end when it is back."""
        if len(self._done) == self.workers:  # all had finished before they were asked to stop
            self._complete()
            self._clear(0.0)
            return
        self._phase = _Phase.WAITING
        self._resume()

    def _finish(self, end: End) -> None:
        self._end = end
        self._phase = _Phase.FINISHED
        data = {"reason": str(end.reason), "message": end.message}
        self.notes.append(Note(kind=EventKind.OUTCOME, generation=self.generation, data=data))
