"""Finding the worker that hangs: by what was learned of its steps, by the phase it is in, and which one holds the rest.

All ranks stall together when one hangs. The one to name is behind the others: it has finished fewer steps, or has not
come to the point of the step from where it waits for others, or is stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mofang.recovery.agent.evidence import ask_for_stacks, describe, is_stopped
from mofang.recovery.agent.member import Member
from mofang.recovery.heartbeat import SYNC, Heartbeat

__all__ = ["Hang", "Hangs"]

_EVIDENCE_S = 0.2  # for a worker to write its stacks
_OTHERS_S = 1.5  # for the agent of another node, where all workers here wait for others
_PATIENCE = 4.0  # times the limit, where the last hang was at the same step: perhaps it is only slow there
_SAME_STEP = 2
_LEARNED_AT_MOST = 2  # hangs in a row at one step; after them the whole timeout is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """A worker that makes no progress. ``limit_s`` is how long it was given, ``evidence`` what it was seen to do."""

    member: Member
    silent_s: float
    limit_s: float
    evidence: str

    @property
    def message(self) -> str:
        """One line for people."""
        phase = self.member.beat.phase if self.member.beat is not None else ""
        where = f" ({self.evidence})" if self.evidence else ""
        doing = {SYNC: ", waiting for other ranks", "train": ""}.get(phase, f" in {phase}")
        return (
            f"rank {self.member.rank} made no progress for {self.silent_s:.1f} s{doing}, "
            f"{self.limit_s:.1f} s is the limit{where}"
        )


class Hangs:
    """Watches the heartbeats of one node's workers.

    Args:
        timeout_s: no progress for so long is a hang in any phase.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._in_a_row, self._last_step = 0, -math.inf
        self._suspected_at: float | None = None
        self._log_sizes: dict[int, int] = {}

    def begin(self) -> None:
        """Take in that another generation starts."""
        self._suspected_at = None

    def look(self, members: Sequence[Member], pids: Mapping[int, int], now: float) -> Hang | None:
        """Return the worker that hangs; a look or two after it is first suspected, for evidence.

        Args:
            members: the living workers; their heartbeats were looked at just now.
            pids: process numbers by rank, of those where they are known.
            now: seconds, monotonic.
        """
        over = [(member, limit) for member in members if member.silent_s > (limit := self._limit(member, members))]
        if not over:
            self._suspected_at = None
            return None
        if self._suspected_at is None:
            self._suspected_at = now
            self._log_sizes = {member.rank: _log_size(member) for member in members}
            for pid in pids.values():
                ask_for_stacks(pid)
            return None
        limit = min(limit for _, limit in over)
        culprit = self._culprit(members, limit, pids)
        waits = culprit.beat is not None and culprit.beat.phase == SYNC
        if now - self._suspected_at < (_OTHERS_S if waits else _EVIDENCE_S):
            return None
        self._remember(culprit, limit)
        pid = pids.get(culprit.rank, 0)
        log = culprit.directory.log(culprit.rank, culprit.generation)
        evidence = describe(pid, log, self._log_sizes.get(culprit.rank, 0)) if pid else ""
        return Hang(member=culprit, silent_s=culprit.silent_s, limit_s=limit, evidence=evidence)

    def _limit(self, member: Member, members: Iterable[Member]) -> float:
        """Return how long a worker may be silent; what was learned counts only while all of them train."""
        beats = [other.beat for other in members if other.beat is not None]
        if member.beat is None or not all(beat.trains for beat in beats):
            return self._timeout_s
        patience = self._patience(member.beat)
        learned = member.pace.limit(self._timeout_s, patience) if math.isfinite(patience) else None
        return self._timeout_s if learned is None else learned

    def _patience(self, beat: Heartbeat) -> float:
        if abs(beat.step - self._last_step) > _SAME_STEP:
            return 1.0
        return math.inf if self._in_a_row >= _LEARNED_AT_MOST else _PATIENCE**self._in_a_row

    def _remember(self, culprit: Member, limit: float) -> None:
        step = -1 if culprit.beat is None else culprit.beat.step
        again = abs(step - self._last_step) <= _SAME_STEP
        self._in_a_row = (self._in_a_row if again else 0) + (limit < self._timeout_s)
        self._last_step = step

    def _culprit(self, members: Sequence[Member], limit: float, pids: Mapping[int, int]) -> Member:
        silent = [member for member in members if member.silent_s > limit / 2.0]

        def holds_the_rest(member: Member) -> tuple[bool, float, bool, float]:
            step = member.newest_step()
            waits = member.beat is not None and member.beat.phase == SYNC
            moving = not (member.rank in pids and is_stopped(pids[member.rank]))
            return moving, -1 if step is None else step, waits, -member.silent_s

        return min(silent, key=holds_the_rest)


def _log_size(member: Member) -> int:
    try:
        return member.directory.log(member.rank, member.generation).stat().st_size
    except OSError:
        return 0
