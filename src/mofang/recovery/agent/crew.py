"""The workers of one node: starting them, seeing how they are, leaving nothing of them behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.errors import MofangError
from mofang.recovery.agent.channel import free_port
from mofang.recovery.agent.environment import (
    cores_of,
    link_mounts,
    load_secrets,
    worker_command,
    worker_environment,
)
from mofang.recovery.agent.hangs import Hang, Hangs
from mofang.recovery.agent.member import Member, Surroundings, explain_end, explain_log
from mofang.recovery.agent.membership import Team, ranks_of, read_seats
from mofang.recovery.agent.messages import (
    Cleared,
    Exited,
    Finish,
    Hello,
    Message,
    Pace,
    Problem,
    Started,
    StartGeneration,
    StopGeneration,
)
from mofang.recovery.agent.pace import StepTimes
from mofang.recovery.agent.shims import ExitFile, find_shims
from mofang.recovery.agent.starter import Starter
from mofang.recovery.agent.straggler import BusyTimes
from mofang.recovery.agent.sweep import Sweep
from mofang.recovery.kernel_log import KernelLog
from mofang.recovery.memory_kills import count_memory_kills
from mofang.recovery.processes import Process, find, is_alive, kill, reap
from mofang.recovery.rundir import AttemptDir, read_number, worker_name
from mofang.recovery.spool import SpoolWriter

__all__ = ["Crew"]

_LOOK_S = 0.25  # between looks at the heartbeats
_SETTLE_S = 0.005  # about what a killed process takes to be gone


class Crew:
    """One node's part of an attempt.

    Args:
        spec: the attempt.
        node: the index of this node.
        spool: where this agent's events go.
        clock: the time.
        noted: the exits that an earlier agent recorded already, as (generation, rank).
        kernel: what the kernel says of this node.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        node: int,
        spool: SpoolWriter,
        clock: Clock,
        noted: Iterable[tuple[int, int]] = (),
        *,
        kernel: KernelLog,
    ) -> None:
        self._spec, self._node, self._spool, self._clock = spec, node, spool, clock
        self._directory = AttemptDir(Path(spec.attempt_dir))
        self._sweep = Sweep(spec.marker, self._directory, clock, node)
        self._starter = Starter(spec, node, spool, clock)
        self._waiting: StartGeneration | None = None  # for the standby, which still loads
        self._team = Team.of(spec)
        self._ranks = range(0)  # of this node in the newest generation; none where it takes no part
        self._generation = 0
        self._members: list[Member] = []
        self._secrets: tuple[str, ...] = ()
        self._pids: dict[str, int] = {}
        self._processes: list[Process] = []  # of the generation: shims, and workers as far as they are known
        self._stopping: StopGeneration | None = None
        self._kill_at = 0.0
        self._look_at = 0.0
        self._messages: list[Message] = []
        self._noted = set(noted)
        self._memory_kills = count_memory_kills()
        self._kernel = kernel
        self._paces: dict[int, StepTimes] = {}  # by rank: with as many nodes as before, steps take as long
        self._paced_nodes = 0
        self._hangs, self._busy = Hangs(spec.restart.hang_timeout_s), BusyTimes()
        self._started_at = clock.now()
        self.is_over = False  # whether no generation follows, so that nothing new is to be started
        self.finished = False  # whether the attempt is over

    @property
    def generation(self) -> int:
        """The newest generation that this node knows of."""
        return self._generation

    @property
    def processes(self) -> Mapping[int, int]:
        """The process numbers of the workers by rank; 0 for one that was taken over from an earlier agent."""
        return {member.rank: self._pids.get(str(member.rank), 0) for member in self._members}

    @property
    def is_clearing(self) -> bool:
        """Whether workers are being ended."""
        return self._stopping is not None

    @property
    def is_busy(self) -> bool:
        """Whether there will soon be something to report."""
        return self.is_clearing or bool(self._messages)

    @property
    def awaited(self) -> list[Process]:
        """The processes whose ends are worth a look at once."""
        return list(self._sweep.dying) if self.is_killing else self._processes

    @property
    def is_killing(self) -> bool:
        """Whether processes are on their way out that have no choice."""
        return self._stopping is not None and bool(self._sweep.dying)

    def descriptors(self) -> list[int]:
        """Return what becomes readable when something is worth a look at once."""
        return self._starter.descriptors()

    def adopt(self) -> None:
        """Take over what an earlier agent left: the living workers and the exit files of the newest generation."""
        self._starter.open()
        self._generation = read_number(self._directory.generation) or 0
        if self._generation == 0:
            return
        seats = read_seats(self._directory, self._generation) or self._team.home
        self._ranks = self._team.ranks(seats).get(self._node, range(0))
        with suppress(MofangError):
            self._secrets = tuple(load_secrets(self._spec.secrets_file).values())
        shims = find_shims(self._spec.marker, self._generation)
        self._members = [
            Member(rank=rank, generation=self._generation, shim=shims.get(rank), directory=self._directory)
            for rank in self._ranks
        ]
        self._processes = [member.shim for member in self._members if member.shim is not None]

    def hello(self) -> Hello:
        """Return how the node stands; after it, everything is reported again."""
        intact = self._waiting is not None or (
            bool(self._members)
            and all(
                member.end is not None
                or self._directory.exit(member.rank, member.generation).exists()
                or (member.shim is not None and is_alive(member.shim))
                for member in self._members
            )
        )
        for member in self._members:
            member.end = None
        if self._pids:
            self._messages.append(Started(node=self._node, generation=self._generation, pids=self._pids))
        return Hello(
            node=self._node,
            generation=self._generation,
            intact=intact and self._stopping is None,
            idle=self._waiting is None and not self._members and not self._sweep.left(),
            port=free_port(self._spec.nodes[self._node].address),
        )

    def obey(self, order: Message) -> None:
        """Carry out an order of the coordinator."""
        match order:
            case StartGeneration():
                self._start(order)
            case StopGeneration():
                self._stop(order)
            case Finish():
                self.finished = True
                self._leave()

    def poll(self) -> list[Message]:
        """Look at the workers; return what is to be reported: their start first, and only then their ends."""
        if self._messages:
            return self._take_messages()
        self._starter.poll(self._generation)
        if self._waiting is not None and not self._starter.is_loading:
            self._start_all(self._waiting)
            return self._take_messages()
        statuses = reap()
        self._look_for_ends(statuses)
        if self._stopping is not None:
            self._advance_stop(self._stopping)
        elif self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + _LOOK_S
            self._look_at_heartbeats()
            self._sweep.watch(member.shim for member in self._members if member.shim is not None)
        return self._take_messages()

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def kill_all(self, *, last: bool = False) -> None:
        """Kill everything, without an order: nobody is left to give one.

        Args:
            last: whether this node takes no part in the attempt any more.
        """
        if self._stopping is None:
            self._stop(StopGeneration(generation=self._generation, grace_s=0.0, last=last))

    def _leave(self) -> None:
        """Leave nothing of the attempt behind, should its end have come after the last sweep."""
        self._starter.close()
        while not self._sweep.clean((), last=True):
            self._clock.sleep(_SETTLE_S)

    def _start(self, order: StartGeneration) -> None:
        self._generation, self._stopping, self._pids = order.generation, None, {}
        self._ranks = ranks_of(self._team.workers, order.nodes)[self._node]
        self._paces = {rank: pace for rank, pace in self._paces.items() if len(order.nodes) == self._paced_nodes}
        self._paced_nodes = len(order.nodes)
        self._members, self._processes = [], []
        self._memory_kills = count_memory_kills()
        self._hangs.begin()
        self._busy = BusyTimes()
        self._started_at = self._clock.now()
        if self._starter.is_loading:
            self._waiting = order
        else:
            self._start_all(order)

    def _start_all(self, order: StartGeneration) -> None:
        self._waiting = None
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
                nodes=order.nodes,
            )
            task = {
                "argv": worker_command(self._spec),
                "cwd": str(workdir),
                "log": str(self._directory.log(rank, order.generation)),
                "exit": str(self._directory.exit(rank, order.generation)),
                "cores": cores_of(self._spec.nodes[self._node], local_rank, present),
            }
            what = (worker_name(rank, order.generation), task, environment)
            started.append((rank, what, self._starter.start(*what)))
        for rank, what, shim in started:
            process, pid = self._starter.worker(shim, *what)
            worker = find(pid)
            self._pids[str(rank)] = pid
            self._processes += [process] if worker is None else [process, worker]
            pace = self._paces.setdefault(rank, StepTimes())
            pace.restart()
            self._members.append(
                Member(rank=rank, generation=order.generation, shim=process, directory=self._directory, pace=pace)
            )

    def _look_for_ends(self, statuses: dict[int, int]) -> None:
        for member in self._members:
            if member.end is not None:
                continue
            end = member.look_for_end(statuses, self._clock.now())
            if end is None:
                continue
            problem = explain_end(member, end, self._surroundings())
            self._note_exit(member.rank, end, problem.message if problem is not None else "")
            self._messages.append(problem or Exited(node=self._node, generation=self._generation, rank=member.rank))

    def _surroundings(self) -> Surroundings:
        self._kernel.look()
        return Surroundings(
            node=self._node,
            secrets=self._secrets,
            through_shell=bool(self._spec.environment.modules),
            memory_ran_out=count_memory_kills() > self._memory_kills,
            facts=self._kernel.since(self._started_at),
        )

    def _note_exit(self, rank: int, end: ExitFile, message: str) -> None:
        if (self._generation, rank) not in self._noted:
            self._noted.add((self._generation, rank))
            data = {"rank": rank, "exit_code": end.exit_code, "signal": end.signal, "message": message}
            self._spool.append(EventKind.WORKER_EXITED, self._generation, data)

    def _look_at_heartbeats(self) -> None:
        now = self._clock.monotonic()
        living = [member for member in self._members if member.end is None]
        for member in living:
            beat = member.look(now)
            if beat is not None and beat.busy_s is not None and beat.trains:
                self._busy.note(member.rank, beat.step, beat.busy_s)
        if windows := self._busy.close(now):
            rows = [[window.rank, window.step, window.low, window.median, window.high] for window in windows]
            self._messages.append(Pace(node=self._node, generation=self._generation, rows=rows))
        pids = {int(rank): pid for rank, pid in self._pids.items() if pid}
        hang = self._hangs.look(living, pids, now)
        if hang is not None:
            self._report_hang(hang)

    def _report_hang(self, hang: Hang) -> None:
        member = hang.member
        data: dict[str, Any] = {"rank": member.rank, "silent_s": hang.silent_s, "step": member.step}
        data |= {"limit_s": hang.limit_s, "evidence": hang.evidence}
        self._spool.append(EventKind.HANG_DETECTED, self._generation, data)
        self._report_problem(Reason.HANG, hang.message, member.step)

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
        if order.grace_s == 0.0:
            self._explain_what_runs()
        self._stopping, self._waiting, self.is_over = order, None, order.last
        self._kill_at = self._clock.monotonic() + order.grace_s
        if order.grace_s > 0:
            kill((member.shim for member in self._members if member.shim is not None), signal.SIGTERM)
        else:
            self._advance_stop(order)

    def _explain_what_runs(self) -> None:
        """Report errors of workers that are still on their way out: what is seen first may be their consequence."""
        around = self._surroundings()
        for member in self._members:
            problem = explain_log(member, around, self._clock.now()) if member.end is None else None
            self._messages += [problem] if problem is not None else []

    def _advance_stop(self, order: StopGeneration) -> None:
        running = any(member.shim is not None and is_alive(member.shim) for member in self._members)
        if running and self._clock.monotonic() < self._kill_at:
            return
        if order.last:
            self._starter.close()
        if self._sweep.clean((member.shim for member in self._members if member.shim is not None), last=order.last):
            self._members, self._processes = [], []
            self._pids = {}
            port = free_port(self._spec.nodes[self._node].address)
            self._messages.append(Cleared(node=self._node, generation=order.generation, port=port))
            self._stopping = None
