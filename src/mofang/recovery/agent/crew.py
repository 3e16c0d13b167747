"""The workers of one node: starting them, seeing how they are, leaving nothing of them behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.errors import MofangError
from mofang.recovery.agent.environment import (
    cores_of,
    link_mounts,
    load_secrets,
    ranks_of,
    worker_command,
    worker_environment,
)
from mofang.recovery.agent.member import Member, explain_end
from mofang.recovery.agent.messages import (
    Cleared,
    Exited,
    Finish,
    Hello,
    Message,
    Problem,
    Started,
    StartGeneration,
    StopGeneration,
)
from mofang.recovery.agent.shims import ExitFile, find_shims, start_shim
from mofang.recovery.agent.sweep import Sweep
from mofang.recovery.processes import count_memory_kills, is_alive, kill, reap
from mofang.recovery.rundir import AttemptDir, read_number, worker_name
from mofang.recovery.spool import SpoolWriter

__all__ = ["Crew"]

_LOOK_S = 0.25  # between looks at the heartbeats


class Crew:
    """One node's part of an attempt.

    Args:
        spec: the attempt.
        node: the index of this node.
        spool: where this agent's events go.
        clock: the time.
        noted: the exits that an earlier agent recorded already, as (generation, rank).
    """

    def __init__(
        self, spec: LaunchSpec, node: int, spool: SpoolWriter, clock: Clock, noted: Iterable[tuple[int, int]] = ()
    ) -> None:
        self._spec, self._node, self._spool, self._clock = spec, node, spool, clock
        self._directory = AttemptDir(Path(spec.attempt_dir))
        self._sweep = Sweep(spec.marker, self._directory.segments(node), clock)
        self._ranks = ranks_of(spec)[node]
        self._generation = 0
        self._members: list[Member] = []
        self._secrets: tuple[str, ...] = ()
        self._pids: dict[str, int] = {}
        self._stopping: StopGeneration | None = None
        self._kill_at = 0.0
        self._look_at = 0.0
        self._messages: list[Message] = []
        self._noted = set(noted)
        self._memory_kills = count_memory_kills()
        self.finished = False  # whether the attempt is over

    @property
    def is_clearing(self) -> bool:
        """Whether workers are being ended."""
        return self._stopping is not None

    @property
    def is_busy(self) -> bool:
        """Whether there will soon be something to report."""
        return self.is_clearing or bool(self._messages)

    def adopt(self) -> None:
        """Take over what an earlier agent left: the living workers and the exit files of the newest generation."""
        self._generation = read_number(self._directory.generation) or 0
        if self._generation == 0:
            return
        with suppress(MofangError):
            self._secrets = tuple(load_secrets(self._spec.secrets_file).values())
        shims = find_shims(self._spec.marker, self._generation)
        self._members = [
            Member(rank=rank, generation=self._generation, shim=shims.get(rank), directory=self._directory)
            for rank in self._ranks
        ]

    def hello(self) -> Hello:
        """Return how the node stands; after it, everything is reported again."""
        intact = self._generation > 0 and all(
            member.end is not None
            or self._directory.exit(member.rank, member.generation).exists()
            or (member.shim is not None and is_alive(member.shim))
            for member in self._members
        )
        for member in self._members:
            member.end = None
        if self._pids:
            self._messages.append(Started(node=self._node, generation=self._generation, pids=self._pids))
        return Hello(node=self._node, generation=self._generation, intact=intact and self._stopping is None)

    def obey(self, order: Message) -> None:
        """Carry out an order of the coordinator."""
        match order:
            case StartGeneration():
                self._start(order)
            case StopGeneration():
                self._stop(order)
            case Finish():
                self.finished = True

    def poll(self) -> list[Message]:
        """Look at the workers; return what is to be reported: their start first, and only then their ends."""
        if self._messages:
            return self._take_messages()
        statuses = reap()
        self._look_for_ends(statuses)
        if self._stopping is not None:
            self._advance_stop(self._stopping)
        elif self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + _LOOK_S
            self._look_for_hangs()
            self._sweep.watch(member.shim for member in self._members if member.shim is not None)
        return self._take_messages()

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def kill_all(self) -> None:
        """Kill everything, without an order: nobody is left to give one."""
        if self._stopping is None:
            self._stop(StopGeneration(generation=self._generation, grace_s=0.0))

    def _start(self, order: StartGeneration) -> None:
        self._generation, self._stopping, self._pids = order.generation, None, {}
        self._members = []
        self._memory_kills = count_memory_kills()
        try:
            secrets = load_secrets(self._spec.secrets_file)
            self._secrets = tuple(secrets.values())
            workdir = Path(self._spec.workdir or self._spec.attempt_dir)
            link_mounts(self._spec, workdir)
            self._start_workers(order, secrets, workdir)
        except (MofangError, OSError) as error:
            self._report_problem(Reason.LAUNCH, f"the workers cannot be started: {error}", None)
            return
        self._messages.append(Started(node=self._node, generation=self._generation, pids=self._pids))

    def _start_workers(self, order: StartGeneration, secrets: Mapping[str, str], workdir: Path) -> None:
        started = []
        present = sorted(os.sched_getaffinity(0))
        for local_rank, rank in enumerate(self._ranks):
            environment = worker_environment(
                self._spec,
                base=os.environ,
                node=self._node,
                local_rank=local_rank,
                generation=order.generation,
                meeting=(order.address, order.port),
                secrets=secrets,
            )
            task = {
                "argv": worker_command(self._spec),
                "cwd": str(workdir),
                "log": str(self._directory.log(rank, order.generation)),
                "exit": str(self._directory.exit(rank, order.generation)),
                "cores": cores_of(self._spec.nodes[self._node], local_rank, present),
            }
            shim = start_shim(worker_name(rank, order.generation), task, environment)
            started.append((rank, shim))
            self._members.append(
                Member(rank=rank, generation=order.generation, shim=shim.process, directory=self._directory)
            )
        self._pids = {str(rank): shim.worker() for rank, shim in started}

    def _look_for_ends(self, statuses: dict[int, int]) -> None:
        for member in self._members:
            if member.end is not None:
                continue
            end = member.look_for_end(statuses, self._clock.now())
            if end is None:
                continue
            problem = explain_end(
                member,
                end,
                node=self._node,
                secrets=self._secrets,
                through_shell=bool(self._spec.environment.modules),
                memory_ran_out=count_memory_kills() > self._memory_kills,
            )
            self._note_exit(member.rank, end, problem.message if problem is not None else "")
            self._messages.append(problem or Exited(node=self._node, generation=self._generation, rank=member.rank))

    def _note_exit(self, rank: int, end: ExitFile, message: str) -> None:
        if (self._generation, rank) not in self._noted:
            self._noted.add((self._generation, rank))
            data = {"rank": rank, "exit_code": end.exit_code, "signal": end.signal, "message": message}
            self._spool.append(EventKind.WORKER_EXITED, self._generation, data)

    def _look_for_hangs(self) -> None:
        now = self._clock.monotonic()
        silent = [(member.silent_for(now), member) for member in self._members if member.end is None]
        if not silent:
            return
        seconds, member = max(silent, key=lambda pair: pair[0])
        if seconds <= self._spec.restart.hang_timeout_s:
            return
        data = {"rank": member.rank, "silent_s": seconds, "step": member.step}
        self._spool.append(EventKind.HANG_DETECTED, self._generation, data)
        self._report_problem(Reason.HANG, f"rank {member.rank} made no progress for {seconds:.0f} s", member.step)

    def _report_problem(self, reason: Reason, message: str, step: int | None) -> None:
        self._messages.append(
            Problem(
                node=self._node,
                generation=self._generation,
                reason=str(reason),
                message=message,
                signature=str(reason),
                step=step,
                time=self._clock.now(),
            )
        )

    def _stop(self, order: StopGeneration) -> None:
        self._stopping = order
        self._kill_at = self._clock.monotonic() + order.grace_s
        if order.grace_s > 0:
            kill((member.shim for member in self._members if member.shim is not None), signal.SIGTERM)

    def _advance_stop(self, order: StopGeneration) -> None:
        running = any(member.shim is not None and is_alive(member.shim) for member in self._members)
        if running and self._clock.monotonic() < self._kill_at:
            return
        if self._sweep.clean(member.shim for member in self._members if member.shim is not None):
            self._members = []
            self._pids = {}
            self._messages.append(Cleared(node=self._node, generation=order.generation))
            self._stopping = None
