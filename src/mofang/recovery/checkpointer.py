"""Checkpoint and resume for any PyTorch loop.

>>> state = {"model": model, "optimizer": optimizer, "schedule": schedule, "data": loader}
>>> ckpt = Checkpointer(state=state, tiers=[Memory(replicas=1), Directory("ckpt", every="10m")])
>>> start = ckpt.restore()
>>> for step in range(start, steps):
...     train(step)
...     ckpt.step(step)
>>> ckpt.close()

Every rank runs the same lines: alone, with DDP, with FSDP2, started by anything that sets up ``torch.distributed``. In
a job of Mofang the agent's memory, directory and advice are used, and what happens is reported to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from mofang.clock import Clock, SystemClock
from mofang.domain.events import EventKind
from mofang.errors import CheckpointError, UsageError
from mofang.recovery.advice import AdviceReader
from mofang.recovery.agreement import next_turn
from mofang.recovery.cadence import Cadence
from mofang.recovery.checkpoint.load import Loaded
from mofang.recovery.checkpoint.randomness import restore_random_states
from mofang.recovery.checkpoint.remote import Remote
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.collect import collect, digest
from mofang.recovery.durable import Durable
from mofang.recovery.nearest import nearest
from mofang.recovery.session import open_session
from mofang.recovery.snapshot.arena import Record
from mofang.recovery.snapshot.memory import BALLOT, MemoryTier, Turn
from mofang.recovery.stopsignal import STOPPED, StopSignal
from mofang.recovery.telling import Teller
from mofang.recovery.tiers import Directory, Memory, Status, one_of
from mofang.units import show_duration

__all__ = ["Checkpointer", "Status"]

_WISHES = 5  # numbers that come before the ballot: snapshot, save, stop, busy, off


class Checkpointer:
    """Snapshots and checkpoints of a program's own objects.

    Args:
        state: modules, optimizers, whatever has ``state_dict`` and ``load_state_dict``, dicts of tensors and JSON
            values. See ``mofang.recovery.collect``.
        tiers: at most one ``Memory`` and one ``Directory``.
        clock: the time; the machine's by default.
        stop_signal: whether SIGTERM saves the state after the step that is under way and ends the program with exit
            code 143. A handler of the program's own is left in place.

    Raises:
        UsageError: an entry of the state, or a tier, is not understood.
        CheckpointError: an optimizer has a parameter that none of the modules has.
        ConflictError: another living program has the snapshots of this name in use.
    """

    def __init__(
        self,
        state: Mapping[str, Any],
        tiers: Sequence[Memory | Directory],
        *,
        clock: Clock | None = None,
        stop_signal: bool = True,
    ) -> None:
        memory, directory = one_of(tiers, Memory), one_of(tiers, Directory)
        self._clock = clock or SystemClock()
        self._collected = collect(state)
        self._session = open_session(memory.name if memory else None, self._clock, memory.replicas if memory else 0)
        self._teller = Teller(self._session)
        self._advice = AdviceReader.from_environment(os.environ)
        self._often = Cadence(memory.interval) if memory else None
        self._seldom = Cadence(directory.interval) if directory else None
        self._durable = self._open_durable(directory) if directory else None
        self._tier = self._open_memory() if memory else None
        self._stop = StopSignal() if stop_signal else None
        self._done, self._snapshot_step, self._count = 0, -1, 0
        self._snapshot_due = self._save_due = self._prepared = self._checked = self._closed = False
        self._problem = ""
        self._random: Mapping[str, Tensor] = {}
        self._begin(0)
        for value in state.values():
            if isinstance(value, Optimizer):  # whose update must wait for the copies of accelerators
                value.register_step_pre_hook(self._before_update)

    @property
    def status(self) -> Status:
        """What has been done so far."""
        return Status(
            snapshot_step=self._snapshot_step,
            durable_step=self._durable.last_step if self._durable else -1,
            snapshots=self._count,
            stall_s=self._often.stall_s if self._often else None,
            interval_s=self._often.interval_s if self._often else None,
            problem=self._problem or (self._tier.problem if self._tier else ""),
        )

    def restore(self) -> int:
        """Put the newest valid state back in place, from the nearest tier that has it; collective.

        Returns:
            The number of steps that are done, which is the step to begin with; 0 where there is nothing to go on from.

        Raises:
            CheckpointError: there is something and none of it can be used.
        """
        loaded = nearest(self._session, self._durable, self._collected.target(), self._teller.refused)
        if loaded is None:
            self._collected.abandon()
            if self._tier is not None:
                self._tier.forget(0)
            self._begin(0)
            return 0
        self._put_back(loaded)
        self._begin(loaded.step)
        return loaded.step

    def step(self, step: int) -> None:
        """Say that a step of the loop has ended; a snapshot is taken or a checkpoint saved if it is time. Collective.

        Args:
            step: the loop's counter, from 0.

        Raises:
            CheckpointError: the state holds something that cannot be kept.
            SystemExit: with code 143 after SIGTERM to any rank, once the state is saved.
        """
        self._done = step + 1
        now = self._clock.monotonic()
        for cadence in self._cadences():
            cadence.stepped(now)
        self._heed()
        self._prepare()
        votes = self._session.agreement.collect(self._say)
        self._snapshot_due |= self._often is not None and self._often.due(self._done)
        self._save_due |= self._seldom is not None and self._seldom.due(self._done)
        if votes is not None:
            self._act(votes[:_WISHES], votes[_WISHES:])
        self._session.agreement.issue(self._say)
        self._session.worker.heartbeat(self._done)
        self._teller.report(self._durable)

    def restore_randomness(self) -> None:
        """Put the random generators back once more, where something drew from them between ``restore`` and the loop."""
        restore_random_states(self._random)

    def wish(self) -> None:
        """Ask for a snapshot at the next chance; one rank's wish suffices."""
        for cadence in [self._often] if self._often else [self._seldom] if self._seldom else []:
            cadence.wish()

    def wait(self) -> bool:
        """Wait until this rank's snapshots are committed and its checkpoints written; return whether they are."""
        kept = self._tier.wait() if self._tier is not None else True
        return (self._durable.flush() if self._durable is not None else True) and kept

    def flush(self) -> bool:
        """Make the state as it is now as safe as the tiers can, and wait for it; collective.

        Returns:
            Whether it is.
        """
        safe = self._save_now()
        self._teller.report(self._durable, force=True)
        return safe

    def close(self) -> None:
        """End: the last state is made durable, and snapshots in memory, which nobody needs any more, are removed.

        Collective. After an error leave it out, or use ``with``: then the snapshots stay for the next start.
        """
        if not self._closed:
            clean = self._durable is None or self.flush()
            self._end(clean=clean)

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._end(clean=False)

    # building

    def _open_durable(self, directory: Directory) -> Durable:
        path = directory.resolve(os.environ)
        remote = Remote(directory.upload, keep=directory.keep, clock=self._clock) if directory.upload else None
        return Durable(path, peers=self._session.peers, clock=self._clock, keep=directory.keep, remote=remote)

    def _open_memory(self) -> MemoryTier:
        session = self._session
        if session.place is None:
            raise UsageError("there is no place for snapshots in memory")
        tier = MemoryTier(session.place, fence=session.fence, clock=self._clock, replicas=session.replicas)
        if self._durable is not None:
            self._durable.follow(tier, session.share(), session.fence)
        tier.on_commit(self._committed)
        return tier

    def _committed(self, _slot: int, record: Record) -> None:
        self._teller.committed(record.length)
        if self._session.claim is not None:
            self._session.claim.touch()

    def _before_update(self, *_: Any) -> None:
        if self._tier is not None:
            self._tier.before_update()

    def _cadences(self) -> Iterator[Cadence]:
        return (cadence for cadence in (self._often, self._seldom) if cadence is not None)

    def _begin(self, done: int) -> None:
        self._done = done
        for cadence in self._cadences():
            cadence.start(done, self._clock.monotonic())

    def _prepare(self) -> None:
        """Let the arena be made. At a fresh start that is after the first step, when the optimizer has its moments."""
        if self._tier is not None and not self._prepared:
            self._prepared = True
            self._tier.prepare(self._state())

    # restoring

    def _put_back(self, loaded: Loaded) -> None:
        peers = self._session.peers
        alike = loaded.world_size == peers.world_size
        own = loaded.own[peers.rank] if alike and peers.rank < len(loaded.own) else {}
        self._collected.put_back(loaded.scalars, own, loaded.private)
        self._random = loaded.private
        self._snapshot_step = loaded.step if loaded.tier != "disk" else -1
        if self._durable is not None and loaded.tier == "disk":
            self._durable.last_step = loaded.step
        if self._tier is not None:
            self._tier.forget(loaded.step, loaded.fence if loaded.tier != "disk" else None)
            self._prepare()
        self._teller.tell(
            EventKind.CHECKPOINT_LOADED,
            f"step {loaded.step} restored from {loaded.tier} in {show_duration(loaded.seconds)}",
            {"step": loaded.step, "seconds": loaded.seconds, "path": str(loaded.path), "tier": loaded.tier},
        )
        if not alike and any(loaded.own):
            self._teller.tell(
                None, f"{peers.world_size} ranks instead of {loaded.world_size}: data loaders begin anew", {}
            )

    # between steps

    def _heed(self) -> None:
        """Take over what the agent of this node advises."""
        advice = self._advice.look()
        if advice is None:
            return
        if advice.snapshot:
            self.wish()
        if advice.hazard_per_s is not None and self._often is not None:
            self._often.expect(advice.hazard_per_s, advice.recall)

    def _say(self) -> list[float]:
        """Return what this rank says to the others: its wishes, whether a save is under way, and its ballot."""
        now, tier = self._clock.monotonic(), self._tier
        often = self._often is not None and self._often.wants(self._done, now)
        seldom = self._seldom is not None and self._seldom.wants(self._done, now)
        stop = self._stop is not None and self._stop.asked
        busy = self._durable is not None and self._durable.busy
        off = bool(self._problem) or (tier is not None and bool(tier.problem))
        ballot = tier.ballot() if tier is not None else (0.0,) * BALLOT
        return [float(often), float(seldom), float(stop), float(busy), float(off), *ballot]

    def _act(self, wishes: Sequence[float], ballot: Sequence[float]) -> None:
        """Do what all ranks have agreed on."""
        often, seldom, stop, busy, off = wishes
        if off and self._tier is not None:
            self._do_without_memory()
        self._snapshot_due |= often > 0
        self._save_due |= seldom > 0
        if stop:
            self._leave()
        if self._tier is None:
            if self._save_due:
                self._save()
            return
        saving = self._save_due and not busy
        if not (self._snapshot_due or saving):
            return
        turn = self._tier.choose(ballot)
        if turn is not None:
            self._snapshot(turn, saving=saving)

    def _state(self) -> TrainingState:
        state = self._collected.state(self._done)
        if not self._checked:
            self._checked = True
            self._check_alike(state)
        return state

    def _check_alike(self, state: TrainingState) -> None:
        """Make sure, once, that what is kept in one copy is alike on every rank."""
        peers, number = self._session.peers, digest(state)
        if not peers.all_ok(peers.from_first(number) == number):
            raise CheckpointError(
                "the ranks hold different names, shapes or values where one copy is kept for all",
                hint="wrap what differs between ranks in PerRank(...), or shard it as a DTensor",
            )

    def _snapshot(self, turn: Turn, *, saving: bool) -> None:
        if self._tier is None:
            return
        if saving and self._durable is not None:
            self._durable.want(self._done)
        try:
            stall = self._tier.take(self._state(), turn)
        except CheckpointError as error:
            self._problem = error.message  # the next votes tell the other ranks
            return
        now = self._clock.monotonic()
        self._snapshot_due, self._snapshot_step = False, self._done
        self._count += 1
        self._teller.taken(self._done, stall)
        if self._often is not None:
            self._often.taken(self._done, now, stall)
        if saving and self._seldom is not None:
            self._save_due = False
            self._seldom.taken(self._done, now, stall)

    def _save(self) -> bool:
        """Save while training waits."""
        if self._durable is None or self._seldom is None:
            return False
        started = self._clock.monotonic()
        saved = self._durable.save(self._state())
        now = self._clock.monotonic()
        self._save_due = False
        self._seldom.taken(self._done, now, now - started)
        return saved

    def _save_now(self) -> bool:
        """Make the present state safe on all ranks, and wait for it."""
        waiting = self._session.agreement.collect(lambda: [0.0])  # what is under way comes first
        del waiting
        durable = self._durable
        if durable is not None and durable.last_step == self._done and self._agreed(durable.flush()):
            return True
        if self._tier is not None:
            self._prepare()
            turn = next_turn(self._tier, self._session.agreement, self._clock)
            if turn is not None:
                self._snapshot(turn, saving=durable is not None)
                kept = self._tier.wait() and not self._problem
                if self._agreed(kept and (durable is None or durable.flush())):
                    return True
        return durable is not None and self._save() and durable.flush()

    def _agreed(self, ok: bool) -> bool:
        return self._session.peers.all_ok(ok)

    def _do_without_memory(self) -> None:
        """Give the memory tier up, on all ranks: from now on only the directory is used."""
        tier, self._tier = self._tier, None
        problem = self._problem or (tier.problem if tier else "") or "another rank has no memory for snapshots"
        self._problem, self._snapshot_due = problem, False
        if self._durable is not None:
            self._durable.unfollow()
        self._teller.tell(EventKind.SNAPSHOTS_OFF, f"no snapshots in memory: {problem}", {"message": problem})
        if tier is not None:
            tier.close()

    def _leave(self) -> None:
        """Save and end the program, as it was asked to."""
        self._save_now()
        self._teller.report(self._durable, force=True)
        self._end(clean=False)
        raise SystemExit(STOPPED)

    def _end(self, *, clean: bool) -> None:
        self._closed = True
        if self._stop is not None:
            self._stop.close()
        if self._durable is not None:
            self._durable.close()
        if self._tier is not None:
            self._tier.close()
        self._session.close(clean=clean)
