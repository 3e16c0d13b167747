"""Keeps one attempt as the store says it should be: looks at the world, and puts right what differs.

Every call to the backend runs on a worker thread, one at a time for an attempt, and is safe to repeat; so a controller
that died in the middle is followed by one that simply looks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mofang.backends.protocol import Backend, Observation, ObservedState
from mofang.control.spools import Outcome, SpoolReader
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.errors import BackendError, MofangError

__all__ = ["Keeper", "News"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0  # between looks at a quiet attempt
_SOON_S = 0.1
_OUTCOME_GRACE_S = 10.0  # the outcome is known, yet something still runs: then it is cleared by force
_STOP_AGAIN_S = 5.0
_HEALTHY_S = 30.0  # an agent that lived this long was not restarted in vain
_MOST_RESTARTS = 20  # of agents that died again at once
_MOST_FAILURES = 8  # calls in a row that the backend could not carry out: about a minute


class News(NamedTuple):
    """What a turn found out: that the attempt was first seen running, whose agents are started again, how it ended."""

    running: bool = False
    restarted: tuple[str, ...] = ()
    ended: Outcome | None = None


@dataclass(slots=True, kw_only=True)
class Keeper:
    """One attempt in the controller's care.

    ``stopping`` is set when the user asks to stop. Calls go to ``workers``; each turn takes at most one answer and
    makes at most one call.
    """

    spec: LaunchSpec
    backend: Backend
    reader: SpoolReader
    workers: Executor
    wake: Callable[[], object]  # called when a call has been answered
    fresh: bool  # committed just now, so that there is nothing to look for before it is launched
    stopping: bool = False
    _call: tuple[str, Future[Any]] | None = None
    _next_look: float = 0.0
    _seen_running: bool = False
    _stopped_at: float = float("-inf")
    _outcome_at: float | None = None
    _restarted_at: float = float("-inf")
    _restarts: int = 0
    _coordinated: bool = False  # whether the agent that decides for all was alive when last looked at
    _failures: int = 0
    _verdict: Outcome | None = None  # decided; what is left to do is clear
    _news: list[News] = field(default_factory=list)

    def turn(self, now: float) -> list[News]:
        """Take the answer of the call in flight, make the next call, and return what is new."""
        if self.reader.ingest() and self.reader.outcome is not None and self._outcome_at is None:
            self._outcome_at, self._next_look = now, now
        self._take_answer(now)
        if self._call is None and now >= self._next_look and not any(news.ended for news in self._news):
            self._look(now)
            self._take_answer(now)  # an executor that works at once has answered by now
        news, self._news = self._news, []
        return news

    @property
    def next_turn(self) -> float:
        """When a turn is due at the latest, apart from the answers of calls."""
        return self._next_look

    def hurry(self) -> None:
        """Look at the next turn: something has changed."""
        self._next_look = 0.0

    def _look(self, now: float) -> None:
        if self._verdict is not None:
            self._start("clear", self.backend.clear)
        elif self.fresh and not self.stopping:
            self.fresh = False
            self._start("launch", self.backend.launch)
        elif self.stopping and self._seen_running and now - self._stopped_at >= _STOP_AGAIN_S:
            self._stopped_at = now
            self._start("stop", self.backend.stop)
        else:
            self._start("observe", self.backend.observe)

    def _start(self, name: str, call: Callable[[LaunchSpec], Any]) -> None:
        future = self.workers.submit(call, self.spec)
        self._call = name, future
        future.add_done_callback(lambda _: self.wake())

    def _take_answer(self, now: float) -> None:
        while self._call is not None and self._call[1].done():
            name, future = self._call
            self._call = None
            try:
                answer = future.result()
            except MofangError as error:
                self._failed(name, error, now)
                return
            if name != "observe":
                _log.info("%s done", name, extra={"attempt": self.spec.marker})
            self._failures = 0
            self._answered(name, answer, now)

    def _answered(self, name: str, answer: Any, now: float) -> None:
        self._next_look = now + _SOON_S
        if name == "observe":
            self._next_look = now + _LOOK_S
            self._seen(answer, now)
        elif name == "clear" and self._verdict is not None:
            self.reader.ingest()
            self._news.append(News(ended=self.reader.last_word() or self._verdict))

    def _seen(self, seen: Observation, now: float) -> None:
        if seen.state is ObservedState.ENDED:
            lost = Outcome(reason=Reason.AGENT_LOST, message="the agents ended without a last word")
            self._end(lost)
        elif self._outcome_at is not None and now - self._outcome_at >= _OUTCOME_GRACE_S:
            self._end(Outcome(reason=Reason.AGENT_LOST, message="the agents did not end"))
        elif seen.state is ObservedState.RUNNING:
            if not self._seen_running:
                self._seen_running = True
                self._news.append(News(running=True))
            if self.stopping or self._outcome_at is not None:
                self._next_look = now + _SOON_S
        elif seen.state is ObservedState.ABSENT and self.stopping:
            self._end(Outcome(reason=Reason.STOPPED_BY_USER, message="stopped"))
        else:
            self._coordinated = bool(seen.dead_nodes) and self.spec.nodes[0].node not in seen.dead_nodes
            self._relaunch(seen, now)

    def _relaunch(self, seen: Observation, now: float) -> None:
        if now - self._restarted_at > _HEALTHY_S:
            self._restarts = 0
        if self._restarts >= _MOST_RESTARTS and self._coordinated:
            self._next_look = now + _HEALTHY_S  # the others go on or not as the coordinator says
            return
        if self._restarts >= _MOST_RESTARTS:
            self._end(Outcome(reason=Reason.AGENT_LOST, message=f"the agent died {self._restarts} times in a row"))
            return
        self._restarts += 1
        self._restarted_at = now
        if seen.state is ObservedState.AGENT_DEAD:
            self._news.append(News(restarted=seen.dead_nodes or tuple(node.node for node in self.spec.nodes)))
        if self.stopping:
            self._stopped_at = float("-inf")  # the new agent is told as well
            self._seen_running = True
        self._start("launch", self.backend.launch)

    def _end(self, outcome: Outcome) -> None:
        self._verdict = outcome
        self._next_look = 0.0
        self._start("clear", self.backend.clear)

    def _failed(self, name: str, error: MofangError, now: float) -> None:
        _log.warning("%s failed: %s", name, error.message, extra={"attempt": self.spec.marker})
        self._failures += 1
        self._next_look = now + min(0.25 * 2**self._failures, 15.0)
        if self._verdict is not None:
            if self._failures >= _MOST_FAILURES:
                # Nobody can reach what may still run there; the fence number keeps it away from the next attempt.
                self._news.append(News(ended=self.reader.last_word() or self._verdict))
            return
        if name == "launch" and not self._seen_running:
            self.fresh = True
            if not isinstance(error, BackendError) or self._failures >= 3:
                self._verdict = Outcome(reason=Reason.LAUNCH, message=error.message)
        elif self._failures >= _MOST_FAILURES and not (name == "launch" and self._coordinated):
            self._verdict = Outcome(reason=Reason.NODE_LOST, message=error.message)
