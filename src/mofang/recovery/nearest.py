"""The newest state that can be restored, from the nearest tier that has it."""

from __future__ import annotations

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.load import Loaded, Refused
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.durable import Durable
from mofang.recovery.session import Session
from mofang.recovery.snapshot.restore import restore

__all__ = ["nearest"]


def nearest(session: Session, durable: Durable | None, target: TrainingState, refused: Refused) -> Loaded | None:
    """Fill the tensors of ``target`` in place; collective. None where there is nothing to go on from.

    Memory is preferred where it is as new as the disk. Where none of the newer checkpoints on disk can be used, an
    older snapshot in memory is better than nothing.

    Args:
        session: of this rank.
        durable: the tier on disk, if there is one.
        target: where tensors go.
        refused: told the path and the reason of what cannot be used.

    Raises:
        CheckpointError: there is something and none of it can be used.
    """
    newest = durable.newest() if durable is not None else -1
    loaded = _from_memory(session, target, refused, max(0, newest))
    if loaded is not None or durable is None or newest < 0:
        return loaded
    try:
        return durable.load(target, refused)
    except CheckpointError:
        loaded = _from_memory(session, target, refused, 0)
        if loaded is None:
            raise
        return loaded


def _from_memory(session: Session, target: TrainingState, refused: Refused, from_step: int) -> Loaded | None:
    if session.place is None:
        return None
    return restore(
        session.place,
        target,
        peers=session.peers,
        clock=session.clock,
        on_refused=refused,
        fetch=session.neighbours.fetch if session.neighbours is not None else None,
        from_step=from_step,
    )
