"""Why a worker failed, when two failures are alike, and whether to go on."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mofang.domain.reasons import Reason
from mofang.domain.scenario import RestartPolicy
from mofang.recovery.agent.causes import Action, Recognised, policy_of, recognise

__all__ = ["End", "Failure", "Restart", "describe_exit", "last_words", "signature", "verdict"]

_TAIL_BYTES = 16384
_TAIL_LINES = 80
_MAX_WORDS = 300
_SHORT_S = 5.0  # a generation that fails sooner than this waits before the next, if the one before did as well
_FIRST_DELAY_S = 0.5
_MAX_DELAY_S = 5.0
_UNCLEAR_FACTOR = 5
_OWN_END = {Reason.DISK_FULL, Reason.DEVICE_MEMORY, Reason.DISK_ERROR, Reason.CORRUPTION}  # say more than "repeated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one generation failed. ``seconds`` is how long it ran."""

    generation: int
    reason: Reason
    message: str
    signature: str
    step: int | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start the next generation after this many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """End the attempt."""

    reason: Reason
    message: str


def last_words(log: Path, secrets: Iterable[str] = ()) -> Recognised:
    """Return what a log says about why its program ended: its last exception, else its last line.

    Values of secrets are blotted out.
    """
    lines = _tail(log)
    rest = Recognised(reason=Reason.WORKER_FAILED, words=lines[-1].strip() if lines else "", certain=False)
    found = recognise(lines) or rest
    words = found.words
    for secret in secrets:
        words = words.replace(secret, "***") if secret else words
    return replace(found, words=words[:_MAX_WORDS])


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]


def describe_exit(rank: int, exit_code: int | None, number: int | None, words: str) -> str:
    """Return one line: which rank ended how, and its last words."""
    what = f"exited with code {exit_code}" if number is None else f"was killed by {_signal_name(number)}"
    return f"rank {rank} {what}" + (f": {words}" if words else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signature(reason: Reason, exit_code: int | None, number: int | None, words: str) -> str:
    """Return text that is equal for failures alike: numbers and addresses in the last words do not count."""
    said = re.sub(r"0x[0-9a-fA-F]+|\d+", "#", words) if number is None else ""
    return f"{reason}/{exit_code}/{number}/{said}"


def verdict(failures: Sequence[Failure], policy: RestartPolicy) -> Restart | End:
    """Return what follows the last of these failures, the oldest of which comes first."""
    last = failures[-1]
    if policy_of(last.reason).action is Action.STOP:
        return End(reason=last.reason, message=last.message)
    if _alike(failures) >= _patience(last, policy) and not policy_of(last.reason).outside:
        where = "" if last.step is None else f"at step {last.step} "
        reason = last.reason if last.reason in _OWN_END else Reason.REPEATED_FAILURE
        return End(reason=reason, message=f"failed the same way {where}{_alike(failures)} times: {last.message}")
    if policy.max_restarts is not None and len(failures) > policy.max_restarts:
        after = f" (after {policy.max_restarts} restarts)" if policy.max_restarts else ""
        return End(reason=last.reason, message=last.message + after)
    return Restart(delay_s=_delay(failures))


def _alike(failures: Sequence[Failure]) -> int:
    last = failures[-1]
    count = 0
    for failure in reversed(failures):
        if (failure.signature, failure.step) != (last.signature, last.step):
            break
        count += 1
    return count


def _patience(failure: Failure, policy: RestartPolicy) -> int:
    """Return how many failures alike end it: more where somebody killed a worker and no step says that it is alike."""
    kills = {signature(Reason.WORKER_KILLED, None, number, "") for number in (signal.SIGKILL, signal.SIGTERM)}
    unclear = failure.step is None and failure.signature in kills
    return policy.same_failure * (_UNCLEAR_FACTOR if unclear else 1)


def _delay(failures: Sequence[Failure]) -> float:
    short = 0
    for failure in reversed(failures):
        if failure.seconds >= _SHORT_S:
            break
        short += 1
    return 0.0 if short < 2 else min(_FIRST_DELAY_S * 2.0 ** (short - 2), _MAX_DELAY_S)
