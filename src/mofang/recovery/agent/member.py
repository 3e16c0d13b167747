"""One worker as its agent sees it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from mofang.domain.reasons import Reason
from mofang.recovery.agent.failures import describe_exit, last_words, signature
from mofang.recovery.agent.messages import Problem
from mofang.recovery.agent.shims import ExitFile, read_exit
from mofang.recovery.processes import Process, is_alive
from mofang.recovery.rundir import AttemptDir, read_number

__all__ = ["Member", "explain_end"]

_NOT_EXECUTED = (126, 127)  # what a shell exits with when it cannot execute a program


@dataclass(slots=True, kw_only=True)
class Member:
    """A worker of the running generation."""

    rank: int
    generation: int
    shim: Process | None
    directory: AttemptDir
    end: ExitFile | None = None
    step: int | None = None
    _beat: tuple[int, int] | None = None  # modification time and size of the heartbeat
    _changed_at: float = field(default=0.0)

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

    def silent_for(self, now: float) -> float:
        """Return for how many seconds there was no progress; 0 before the first heartbeat."""
        path = self.directory.heartbeat(self.rank, self.generation)
        try:
            status = path.stat()
        except OSError:
            return 0.0
        beat = (status.st_mtime_ns, status.st_size)
        if beat != self._beat:
            self._beat, self._changed_at = beat, now
            self.step = read_number(path)
        return now - self._changed_at


def explain_end(
    member: Member, end: ExitFile, *, node: int, secrets: tuple[str, ...], through_shell: bool, memory_ran_out: bool
) -> Problem | None:
    """Return what is wrong with a worker's end; None where it ended well.

    Args:
        member: the worker.
        end: how it ended.
        node: the index of its node.
        secrets: values that must not be shown.
        through_shell: whether a shell started the program, whose exit code then says that it was not found.
        memory_ran_out: whether the kernel killed something for memory since the generation started.
    """
    if end.exit_code == 0 and end.kind == "exit":
        return None
    member.step = read_number(member.directory.heartbeat(member.rank, member.generation))
    words = end.message or last_words(member.directory.log(member.rank, member.generation), secrets)
    reason = _reason(end, through_shell, memory_ran_out)
    said = words if end.signal is None else ""
    said = "the machine ran out of memory" if reason is Reason.MEMORY else said
    message = end.message or describe_exit(member.rank, end.exit_code, end.signal, said)
    return Problem(
        node=node,
        generation=member.generation,
        reason=str(reason),
        message=message,
        signature=signature(reason, end.exit_code, end.signal, words),
        step=member.step,
        time=end.time,
    )


def _reason(end: ExitFile, through_shell: bool, memory_ran_out: bool) -> Reason:
    if end.kind != "exit":
        return Reason(end.kind)
    if end.signal == signal.SIGKILL and memory_ran_out:
        return Reason.MEMORY
    if end.signal is not None:
        return Reason.WORKER_KILLED
    if through_shell and end.exit_code in _NOT_EXECUTED:
        return Reason.COMMAND_NOT_FOUND
    return Reason.WORKER_FAILED
