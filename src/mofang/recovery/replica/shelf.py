"""The snapshots that lie on this node: the ranks' own and those kept for others, and room for one that comes in."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.errors import CheckpointError
from mofang.recovery.segments import arena_rank, replica_name
from mofang.recovery.snapshot.arena import SLOTS, Arena, Record

__all__ = ["Busy", "Draft", "Holding", "Shelf", "Stamp", "stamp"]

Stamp = tuple[int, int]  # fence number and step: what tells the snapshots of one rank apart, ordered from old to new
_KINDS = ("snapshot", "replica")


def stamp(record: Record) -> Stamp:
    """Return the fence number and the step of a record."""
    return (record.fence, record.step)


class Busy(Exception):  # noqa: N818 - not an error
    """Somebody else writes to the arena."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A committed snapshot in an arena. ``kind`` is ``snapshot`` (a rank's own) or ``replica``."""

    kind: str
    rank: int
    record: Record
    slot_bytes: int

    def to_wire(self) -> list[Any]:
        """Return it as JSON values."""
        record = self.record
        return [self.kind, self.rank, record.fence, record.step, record.length, f"{record.sum:016x}", self.slot_bytes]

    @classmethod
    def from_wire(cls, fields: Any) -> Holding:
        """Return what ``to_wire`` wrote.

        Raises:
            OSError: it is nothing of the kind.
        """
        try:
            kind, rank, fence, step, length, data_sum, slot_bytes = fields
            numbers = [int(rank), int(fence), int(step), int(length), int(slot_bytes)]
            record = Record(step=numbers[2], fence=numbers[1], length=numbers[3], sum=int(data_sum, 16))
        except (ValueError, TypeError) as error:
            raise ConnectionError("the peer's list cannot be read") from error
        if kind not in _KINDS or min(numbers) < 0 or not 0 < record.length <= numbers[4]:
            raise ConnectionError("the peer's list makes no sense")
        return cls(kind=kind, rank=numbers[0], record=record, slot_bytes=numbers[4])


@dataclass(slots=True, kw_only=True)
class Draft:
    """A slot that is being filled; it holds nothing until it is committed."""

    arena: Arena
    index: int
    final: Path

    def commit(self, record: Record) -> None:
        """Say that the slot holds this snapshot.

        Raises:
            CheckpointError: its bytes are others.
        """
        found = self.arena.sum(self.index, record.length)
        if found != record.sum:
            raise CheckpointError(f"step {record.step} arrived corrupt: {found:016x}, not {record.sum:016x}")
        self.arena.commit(self.index, record)
        if self.arena.path != self.final:
            self.arena.path.replace(self.final)


class Shelf:
    """The arenas of one node.

    Args:
        folder: where they lie.
        prefix: what their names start with.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self._open: dict[str, tuple[int, Arena]] = {}  # by name, with the number of the file

    def replica(self, rank: int) -> Path:
        """Return where the copies for a rank lie."""
        return self.folder / replica_name(self.prefix, rank)

    def holdings(self) -> list[Holding]:
        """Return every committed snapshot."""
        return [
            Holding(kind=kind, rank=rank, record=record, slot_bytes=arena.slot_bytes)
            for kind, rank, arena in self._arenas()
            for record in arena.records().values()
        ]

    def find(self, rank: int, wanted: Stamp, data_sum: int | None = None) -> tuple[Arena, int, Record] | None:
        """Return where a snapshot lies, a rank's own before a replica; its bytes are not looked at."""
        for _, _, arena in sorted(
            (item for item in self._arenas() if item[1] == rank), key=lambda item: item[0] == "replica"
        ):
            for index, record in arena.records().items():
                if stamp(record) == wanted and data_sum in {None, record.sum}:
                    return arena, index, record
        return None

    @contextmanager
    def draft(self, rank: int, length: int, slot_bytes: int, spare: Stamp | None = None) -> Iterator[Draft]:
        """Give room for a snapshot: the older slot, or a new arena where there is none or it is too small.

        A snapshot in an arena that is too small stays until the new one is whole, if there is memory for both.

        Args:
            rank: whose.
            length: bytes of the snapshot.
            slot_bytes: of a new arena's slots.
            spare: the snapshot that must not be overwritten.

        Raises:
            Busy: somebody else writes to the arena now.
            CheckpointError: shared memory is too small.
        """
        path = self.replica(rank)
        with self._locked(rank):
            arena = Arena.open(path)
            if arena is None or arena.slot_bytes < length:
                arena = self._new(rank, max(length, slot_bytes), beside=arena is not None)
            index = _older(arena, spare)
            arena.invalidate(index)
            yield Draft(arena=arena, index=index, final=path)

    def forget(self, rank: int, stale: Callable[[Record], bool]) -> None:
        """Drop the replicas of a rank that are stale."""
        with suppress(Busy), self._locked(rank):
            arena = Arena.open(self.replica(rank))
            if arena is None:
                return
            for index, record in arena.records().items():
                if stale(record):
                    arena.invalidate(index)

    def remove(self, rank: int) -> None:
        """Remove the replica arena of a rank."""
        with suppress(Busy), self._locked(rank):
            self.replica(rank).unlink(missing_ok=True)

    def _new(self, rank: int, slot_bytes: int, *, beside: bool) -> Arena:
        if beside:
            try:
                return Arena.create(self._aside("grown", rank), slot_bytes)
            except CheckpointError:
                pass  # no memory for both: what there was is given up
        return Arena.create(self.replica(rank), slot_bytes)

    def _aside(self, what: str, rank: int) -> Path:
        """Return a file beside the replicas, which nobody takes for one."""
        return self.folder / f"{self.prefix}replica.{what}.r{rank:04d}"

    @contextmanager
    def _locked(self, rank: int) -> Iterator[None]:
        descriptor = os.open(self._aside("lock", rank), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(f"somebody else writes to {self.replica(rank).name}") from error
            yield
        finally:
            os.close(descriptor)

    def _arenas(self) -> list[tuple[str, int, Arena]]:
        present: dict[str, tuple[int, Arena]] = {}
        found = []
        for name in os.listdir(self.folder):  # noqa: PTH208 - many times a second
            known = arena_rank(self.prefix, name)
            entry = self._opened(name) if known is not None else None
            if known is not None and entry is not None:
                present[name] = entry
                found.append((*known, entry[1]))
        self._open = present
        return sorted(found, key=lambda item: item[:2])

    def _opened(self, name: str) -> tuple[int, Arena] | None:
        """Return an arena, opened once for each file of that name."""
        path = self.folder / name
        try:
            number = path.stat().st_ino
        except OSError:
            return None
        known = self._open.get(name)
        if known is not None and known[0] == number:
            return known
        arena = Arena.open(path)
        return (number, arena) if arena is not None else None


def _older(arena: Arena, spare: Stamp | None) -> int:
    records = arena.records()
    empty = [index for index in range(SLOTS) if index not in records]
    old = [index for index in reversed(records) if stamp(records[index]) != spare]
    return [*empty, *old, 0][0]
