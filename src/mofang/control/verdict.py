"""What becomes of a job when one of its attempts has ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.job import JobState
from mofang.domain.reasons import Reason

__all__ = ["MOST_RETRIES", "Verdict", "judge"]

MOST_RETRIES = 5  # attempts in a row that were lost before the job made a step
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

# The platform's faults, not the job's: another attempt may go better.
_RETRIED = frozenset({Reason.NODE_LOST, Reason.AGENT_LOST, Reason.LAUNCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A job's next state. ``pause_s``: how long it waits for its next attempt."""

    state: JobState
    reason: Reason
    message: str
    pause_s: float = 0.0
    retries: int = 0


def judge(reason: Reason, message: str, *, stopping: bool, progressed: bool, retries: int) -> Verdict:
    """Return what becomes of the job.

    Args:
        reason: why the attempt ended.
        message: the same for people.
        stopping: whether the user has asked to stop.
        progressed: whether the job has made a step since the attempt started.
        retries: attempts in a row, before this one, that were lost without a step.
    """
    if reason is Reason.COMPLETED:
        return Verdict(state=JobState.SUCCEEDED, reason=reason, message=message)
    if stopping or reason is Reason.STOPPED_BY_USER:
        return Verdict(state=JobState.STOPPED, reason=Reason.STOPPED_BY_USER, message=message)
    if reason not in _RETRIED:
        return Verdict(state=JobState.FAILED, reason=reason, message=message)
    lost = 0 if progressed else retries
    if lost >= MOST_RETRIES:
        return Verdict(
            state=JobState.FAILED, reason=reason, message=f"{message}; {lost + 1} attempts were lost", retries=lost
        )
    pause = min(_FIRST_PAUSE_S * 2**lost, _LONGEST_PAUSE_S)
    return Verdict(
        state=JobState.WAITING,
        reason=reason,
        message=f"{message}; goes on in {pause:.0f} s",
        pause_s=pause,
        retries=lost + 1,
    )
