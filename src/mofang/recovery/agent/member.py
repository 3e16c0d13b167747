"""One worker as its agent sees it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from mofang.domain.reasons import Reason
from mofang.recovery.agent.causes import Action, policy_of
from mofang.recovery.agent.failures import describe_exit, last_words, signature
from mofang.recovery.agent.messages import Problem
from mofang.recovery.agent.pace import StepTimes
from mofang.recovery.agent.shims import ExitFile, read_exit
from mofang.recovery.heartbeat import Heartbeat, read_heartbeat
from mofang.recovery.kernel_log import Fact
from mofang.recovery.processes import Process, is_alive
from mofang.recovery.rundir import AttemptDir

__all__ = ["Member", "Surroundings", "explain_end", "explain_log"]

_NOT_EXECUTED = (126, 127)  # what a shell exits with when it cannot execute a program
_AWAKE_S = 1.0  # of silence counted between two looks: when this process stood still, the worker may have as well


@dataclass(slots=True, kw_only=True)
class Member:
    """A worker of the running generation."""

    rank: int
    generation: int
    shim: Process | None
    directory: AttemptDir
    end: ExitFile | None = None
    beat: Heartbeat | None = None
    silent_s: float = 0.0  # seconds without a heartbeat, as of the last look; 0 before the first
    pace: StepTimes = field(default_factory=StepTimes)
    _beat_at: int = 0  # modification time of the heartbeat, nanoseconds
    _stepped_at: int | None = None  # that of the last one of the phase train that ended a step
    _looked_at: float = 0.0

    @property
    def step(self) -> int | None:
        """The last step it is known to have finished."""
        return None if self.beat is None else self.beat.step

    def look_for_end(self, statuses: dict[int, int], now: float) -> ExitFile | None:
        """Return how the worker ended, or None while it runs.

        Args:
            statuses: wait statuses of ended children by process number.
            now: seconds since the epoch.
        """
        path = self.directory.exit(self.rank, self.generation)
        end = read_exit(path)
        if end is None and (self.shim is None or self.shim.pid in statuses or not is_alive(self.shim)):
            end = read_exit(path) or self._end_without_file(statuses, now)
        self.end = end
        return end

    def _end_without_file(self, statuses: dict[int, int], now: float) -> ExitFile:
        """A shim that ended by itself hands its worker's exit code on; one that was killed took the worker with it."""
        status = statuses.get(self.shim.pid) if self.shim is not None else None
        if status is not None and os.WIFEXITED(status):
            return ExitFile(exit_code=os.WEXITSTATUS(status), signal=None, kind="exit", message="", time=now)
        return ExitFile(exit_code=None, signal=9, kind="exit", message="", time=now)

    def look(self, now: float) -> Heartbeat | None:
        """Look at the heartbeat; return it if it is new.

        Args:
            now: seconds, monotonic.
        """
        path = self.directory.heartbeat(self.rank, self.generation)
        try:
            beat_at = path.stat().st_mtime_ns
        except OSError:
            return None
        passed, self._looked_at = now - self._looked_at, now
        if beat_at == self._beat_at:
            self.silent_s += min(passed, _AWAKE_S)
            return None
        beat = read_heartbeat(path)
        if beat is not None:
            self._learn(beat, beat_at)
            self.beat = beat
        self._beat_at, self.silent_s = beat_at, 0.0
        return beat

    def _learn(self, beat: Heartbeat, beat_at: int) -> None:
        """Take in the time from step to step, unless something else was done on the way."""
        before = self.beat
        if before is None or not (before.trains and beat.trains):
            self._stepped_at = None
        if before is None or beat.step == before.step:
            return
        if self._stepped_at is not None and beat.step > before.step:
            self.pace.note((beat_at - self._stepped_at) / 1e9, beat.step - before.step)
        self._stepped_at = beat_at

    def newest_step(self) -> int | None:
        """Return the step in the heartbeat as it is now."""
        self.beat = read_heartbeat(self.directory.heartbeat(self.rank, self.generation)) or self.beat
        return self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known when a worker's end is explained.

    ``secrets`` are values that must not be shown; ``through_shell``: a shell started the program, whose exit code then
    says that it was not found; ``memory_ran_out``: the kernel killed something for memory since the generation started,
    in the agent's cgroup where that is counted; ``facts``: what the kernel log said meanwhile.
    """

    node: int
    secrets: tuple[str, ...] = ()
    through_shell: bool = False
    memory_ran_out: bool = False
    facts: Sequence[Fact] = ()


def explain_end(member: Member, end: ExitFile, around: Surroundings) -> Problem | None:
    """Return what is wrong with a worker's end; None where it ended well."""
    if end.exit_code == 0 and end.kind == "exit":
        return None
    said = last_words(member.directory.log(member.rank, member.generation), around.secrets)
    reason, words = _reason(end, said.reason, around), end.message or said.words
    shown = _shown(end, reason, words, around)
    return Problem(
        node=around.node,
        generation=member.generation,
        reason=str(reason),
        message=end.message or describe_exit(member.rank, end.exit_code, end.signal, shown),
        signature=signature(reason, end.exit_code, end.signal, words),
        step=member.newest_step(),
        time=end.time,
        exclude=policy_of(reason).action is Action.ELSEWHERE,
    )


def explain_log(member: Member, around: Surroundings, now: float) -> Problem | None:
    """Return what a worker that is still on its way out says in its log, if that is an error.

    Its traceback is written before it ends, and others that fail because of it may be seen first.
    """
    said = last_words(member.directory.log(member.rank, member.generation), around.secrets)
    if not said.certain or policy_of(said.reason).symptom:
        return None
    return Problem(
        node=around.node,
        generation=member.generation,
        reason=str(said.reason),
        message=f"rank {member.rank} failed: {said.words}",
        signature=signature(said.reason, 1, None, said.words),
        step=member.newest_step(),
        time=now,
        exclude=policy_of(said.reason).action is Action.ELSEWHERE,
    )


def _shown(end: ExitFile, reason: Reason, words: str, around: Surroundings) -> str:
    """Return what explains the end best: the kernel's words, else the program's own."""
    if reason is Reason.MEMORY and end.signal is not None:
        return "the machine ran out of memory"
    fact = _grave(around) or next((fact for fact in around.facts if "XID" in fact.text), None)
    if fact is not None and fact.reason in {reason, Reason.WORKER_FAILED}:
        return f"{fact.text}: {words}" if words and end.signal is None else fact.text
    return words if end.signal is None or reason is not Reason.WORKER_KILLED else ""


def _grave(around: Surroundings) -> Fact | None:
    return next((fact for fact in around.facts if fact.reason is Reason.DEVICE_ERROR), None)


def _reason(end: ExitFile, said: Reason, around: Surroundings) -> Reason:
    if end.kind != "exit":
        return Reason(end.kind)
    if end.signal == signal.SIGKILL:
        out = around.memory_ran_out or any(fact.reason is Reason.MEMORY for fact in around.facts)
        return Reason.MEMORY if out else Reason.WORKER_KILLED
    if around.through_shell and end.exit_code in _NOT_EXECUTED:
        return Reason.COMMAND_NOT_FOUND
    if (fact := _grave(around)) is not None and (fact.grave or said is Reason.WORKER_FAILED):
        return fact.reason
    if end.signal is None:
        return said
    return Reason.WORKER_KILLED if said is Reason.WORKER_FAILED or end.signal != signal.SIGABRT else said
