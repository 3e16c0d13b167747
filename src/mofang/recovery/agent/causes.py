"""What made a generation fail: one closed list (``Reason``), how each is recognised, and what is done about it.

When one rank dies, the others fail because of it: their collectives break. So an error of a collective is a symptom
wherever any rank has another cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import resources

from mofang.domain.reasons import Reason
from mofang.recovery.agent.messages import Problem

__all__ = ["Action", "Policy", "Recognised", "first_cause", "is_symptom", "policy_of", "recognise"]

_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning|Fault)\b")
_NATIVE = re.compile(r"what\(\):|^terminate called|^Fatal Python error")
_CHAINED = re.compile(r"above exception")  # "During handling of the", and "The ... was the direct cause of"
_END_LINES = 8
_RANK = re.compile(r"^\[rank\d+\]:\s*")


class Action(StrEnum):
    """What follows a failure."""

    RESTART = "restart"
    ELSEWHERE = "restart-elsewhere"  # without the node, where another can take its place; else on it
    STOP = "stop"  # trying again cannot help


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done about one cause.

    ``symptom``: another cause, where there is one, explains it. ``outside``: it says nothing about the program, so that
    no number of such failures ends the job.
    """

    action: Action = Action.RESTART
    symptom: bool = False
    outside: bool = False


_ELSEWHERE = Policy(action=Action.ELSEWHERE)
_STOP = Policy(action=Action.STOP)

_POLICIES: Mapping[Reason, Policy] = {
    Reason.NODE_LOST: Policy(action=Action.ELSEWHERE, outside=True),
    Reason.STRAGGLER: Policy(action=Action.ELSEWHERE, outside=True),
    Reason.RESIZED: Policy(outside=True),
    Reason.DEVICE_ERROR: _ELSEWHERE,
    Reason.DISK_ERROR: _ELSEWHERE,
    Reason.CORRUPTION: _ELSEWHERE,
    Reason.COLLECTIVE: Policy(symptom=True),
    Reason.NOT_FINITE: _STOP,
    Reason.COMMAND_NOT_FOUND: _STOP,
    Reason.LAUNCH: _STOP,
}
_RESTART = Policy()  # a failed or killed worker, memory of host or device, a hang, a full disk, a checkpoint


def policy_of(reason: Reason) -> Policy:
    """Return what is done about a cause."""
    return _POLICIES.get(reason, _RESTART)


def is_symptom(problem: Problem) -> bool:
    """Return whether another problem of the generation, if there is one, explains this one."""
    return policy_of(Reason(problem.reason)).symptom


def first_cause(problems: Sequence[Problem]) -> Problem:
    """Return what made the generation fail: the first that is no symptom, else the first.

    Raises:
        ValueError: there are none.
    """
    return min(problems, key=lambda problem: (is_symptom(problem), problem.time))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a log says: the cause, ``WORKER_FAILED`` where it is the program's own error, and the line that says so.

    ``certain``: an exception is at the end of the log, with its traceback or of a known cause, so that it is what ends
    the program, and not one that it got over.
    """

    reason: Reason
    words: str
    certain: bool = True


def recognise(lines: Sequence[str]) -> Recognised | None:
    """Return what the end of a log says about why its program failed; None: nothing that looks like an error.

    The last exception decides. Where that is a collective's, and it was raised while another was handled, the other
    does. Without an exception any line may speak, the last first.
    """
    bare = [_RANK.sub("", line.strip()) for line in lines]
    errors = [index for index, line in enumerate(bare) if _EXCEPTION.match(line) or _NATIVE.search(line)]
    if not errors:
        return next((hit for line in reversed(bare) if (hit := _of(line))), None)
    last = errors.pop()
    at_end = last >= len(bare) - _END_LINES
    words = _of(bare[last]) or Recognised(reason=Reason.WORKER_FAILED, words=bare[last])
    while errors and policy_of(words.reason).symptom and any(map(_CHAINED.search, bare[errors[-1] : last])):
        last = errors.pop()
        words = _of(bare[last]) or Recognised(reason=Reason.WORKER_FAILED, words=bare[last])
    if _NATIVE.search(words.words) and words.reason is Reason.WORKER_FAILED:
        words = next((hit for line in reversed(bare) if (hit := _of(line))), words)
    traced = words.reason is not Reason.WORKER_FAILED or any(line.startswith("Traceback (most") for line in bare)
    return replace(words, certain=at_end and traced)


def _of(line: str) -> Recognised | None:
    reason = _match(line)
    return None if reason is None else Recognised(reason=reason, words=line)


def _match(line: str) -> Reason | None:
    return next((reason for reason, pattern in _patterns() if pattern.search(line)), None)


@cache
def _patterns() -> tuple[tuple[Reason, re.Pattern[str]], ...]:
    file = resources.files("mofang.recovery.agent").joinpath("data/causes.json")
    rows = json.loads(file.read_text(encoding="utf-8"))["patterns"]
    return tuple((Reason(row["reason"]), re.compile("|".join(f"(?:{one})" for one in row["any"]))) for row in rows)
