"""Where a ``Checkpointer`` keeps state, as its user writes it down."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from mofang.errors import UsageError
from mofang.recovery.cadence import Every, parse_every

__all__ = ["Directory", "Memory", "Status", "one_of"]


T = TypeVar("T", "Memory", "Directory")


@dataclass(frozen=True, slots=True)
class Memory:
    """Shared memory of the node, where a snapshot outlives the process.

    Attributes:
        replicas: on how many other nodes each snapshot is kept too; without other nodes it means nothing.
        every: steps, a duration such as ``"30s"``, or ``"auto"``: as often as pays, stalls under 1 % of the time.
        name: of the run, where several programs of one user must be told apart; torchrun's run id by default.
    """

    replicas: int = 1
    every: int | str | timedelta | Every = "auto"
    name: str = ""

    @property
    def interval(self) -> Every:
        """How often, understood."""
        return parse_every(self.every)


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that all ranks share, where a checkpoint outlives the nodes.

    Attributes:
        path: of the directory. In a job of Mofang a relative one lies among the job's checkpoints.
        every: steps, or a duration such as ``"10m"``.
        keep: how many complete checkpoints remain.
        upload: a URL that fsspec knows (``s3://bucket/run``), where each complete checkpoint is sent to as well.
    """

    path: str | os.PathLike[str] = ""
    every: int | str | timedelta | Every = "10m"
    keep: int = 2
    upload: str = ""

    @property
    def interval(self) -> Every:
        """How often, understood.

        Raises:
            UsageError: it is left open; what a checkpoint costs the storage is not known here.
        """
        every = parse_every(self.every)
        if every.steps is None and every.seconds is None:
            raise UsageError('Directory(every="auto") is not understood', hint='write every="10m" or every=500 (steps)')
        return every

    def resolve(self, environ: Mapping[str, str]) -> Path:
        """Return where the directory is.

        Raises:
            UsageError: the path is a URL.
        """
        text = os.fspath(self.path)
        if "://" in text:
            raise UsageError(
                f"Directory({text!r}) is not a local path", hint=f'write Directory("checkpoints", upload={text!r})'
            )
        home = environ.get("MOFANG_CHECKPOINT_DIR")
        return Path(home, text) if home else Path(text or "checkpoints").absolute()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a checkpointer has done so far. Steps are numbers of finished steps, -1 for none.

    Attributes:
        snapshot_step: of the newest snapshot in memory.
        durable_step: of the newest checkpoint that is durable or being written.
        snapshots: how many were taken.
        stall_s: the median of the seconds that a snapshot held up training, None before the first.
        interval_s: seconds between snapshots, None where steps are counted.
        problem: why there are no snapshots in memory, "" while all is well.
    """

    snapshot_step: int
    durable_step: int
    snapshots: int
    stall_s: float | None
    interval_s: float | None
    problem: str


def one_of(tiers: Sequence[Memory | Directory], kind: type[T]) -> T | None:
    """Return the tier of a kind, or None.

    Raises:
        UsageError: there are several, or something else is among them.
    """
    found = [tier for tier in tiers if isinstance(tier, kind)]
    if len(found) > 1:
        raise UsageError(f"tiers has {len(found)} of {kind.__name__}", hint="give one of each at most")
    if not all(isinstance(tier, Memory | Directory) for tier in tiers) or not tiers:
        raise UsageError("tiers wants Memory and Directory", hint='write tiers=[Memory(), Directory("ckpt")]')
    return found[0] if found else None
