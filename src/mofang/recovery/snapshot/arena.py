"""A file in shared memory with two slots: one holds the newest snapshot while the other is written. No torch.

Layout: a header of one page, then the slots. The header has a record for each slot, written last and with a sum of its
own: a slot whose record is torn or missing holds nothing. All pages are touched when the file is made, since the first
touch of a page costs several times what a copy to it does.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import xxhash

from mofang.errors import CheckpointError
from mofang.units import show_bytes

__all__ = ["SLOTS", "Arena", "Record"]

SLOTS = 2
_PAGE = mmap.PAGESIZE
_MAGIC = b"MFARENA1"
_HEAD = struct.Struct("<8sQ")  # magic, bytes of a slot
_RECORD = struct.Struct("<QQQQI")  # step, fence, length, sum of the data, sum of this record so far
_RECORD_AT = (256, 512)  # in the header; on cache lines of their own
_POPULATE_WRITE = 23  # madvise(2): of no effect before Linux 5.14
_LIBC = ctypes.CDLL(None)
_SPARE = 0.02  # of the file system's free space that is left to others


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a slot holds: a step, the fence number of its attempt, its length in bytes and its sum (XXH3, 64 bits)."""

    step: int
    fence: int
    length: int
    sum: int


class Arena:
    """One rank's arena.

    Args:
        path: of the file, in a file system that lives in memory.
        mapped: the whole file.
        slot_bytes: size of a slot.
    """

    def __init__(self, path: Path, mapped: mmap.mmap, slot_bytes: int) -> None:
        self.path, self.slot_bytes, self._mapped = path, slot_bytes, mapped

    @classmethod
    def create(cls, path: Path, slot_bytes: int) -> Arena:
        """Make an arena whose slots hold so many bytes each, in place of one that is there.

        Raises:
            CheckpointError: shared memory is too small for it.
        """
        rounded, size = _rounded(slot_bytes), cls.size_of(slot_bytes)
        path.unlink(missing_ok=True)
        _check_room(path.parent, size)
        draft = path.with_name(f"{path.name}.draft")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)  # a page that cannot be had is an error here, not a SIGBUS later
            mapped = mmap.mmap(handle, size, flags=mmap.MAP_SHARED)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _too_small(path.parent, size) from error
        finally:
            os.close(handle)
        _HEAD.pack_into(mapped, 0, _MAGIC, rounded)
        arena = cls(path, mapped, rounded)
        arena.touch()
        draft.replace(path)
        return arena

    @staticmethod
    def size_of(slot_bytes: int) -> int:
        """Return the bytes of an arena whose slots hold so many bytes each."""
        return _PAGE + SLOTS * _rounded(slot_bytes)

    def touch(self) -> None:
        """Map all pages into this process: the first touch of one costs more than a copy to it. Other threads go on."""
        view = (ctypes.c_char * len(self._mapped)).from_buffer(self._mapped)
        _LIBC.madvise(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(view)), _POPULATE_WRITE)

    def move(self, path: Path) -> None:
        """Give the arena another name, in place of what has that name now."""
        self.path = self.path.replace(path)

    @classmethod
    def open(cls, path: Path) -> Arena | None:
        """Return the arena that somebody left, or None where there is none, or it is no whole one."""
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError:
            return None
        try:
            size = os.fstat(handle).st_size
            if size < _PAGE:
                return None
            mapped = mmap.mmap(handle, size, flags=mmap.MAP_SHARED)
        finally:
            os.close(handle)
        magic, slot_bytes = _HEAD.unpack_from(mapped, 0)
        if magic != _MAGIC or size != _PAGE + SLOTS * slot_bytes:
            mapped.close()
            return None
        return cls(path, mapped, slot_bytes)

    def offset(self, index: int) -> int:
        """Return where in the file a slot begins."""
        return _PAGE + index * self.slot_bytes

    def slot(self, index: int) -> memoryview:
        """Return the bytes of a slot."""
        start = self.offset(index)
        return memoryview(self._mapped)[start : start + self.slot_bytes]

    def record(self, index: int) -> Record | None:
        """Return what a slot is said to hold; its bytes are not looked at. None: nothing, or the record is torn."""
        raw = self._mapped[_RECORD_AT[index] : _RECORD_AT[index] + _RECORD.size]
        step, fence, length, data_sum, own = _RECORD.unpack(raw)
        if own != _record_sum(raw) or not 0 < length <= self.slot_bytes:
            return None
        return Record(step=step, fence=fence, length=length, sum=data_sum)

    def records(self) -> dict[int, Record]:
        """Return the slots that hold something, the newest first: by fence number, then by step."""
        found = {index: record for index in range(SLOTS) if (record := self.record(index)) is not None}
        return dict(sorted(found.items(), key=lambda item: (item[1].fence, item[1].step), reverse=True))

    def invalidate(self, index: int) -> None:
        """Say that a slot holds nothing; call it before the first byte is written."""
        _RECORD.pack_into(self._mapped, _RECORD_AT[index], 0, 0, 0, 0, 0)

    def commit(self, index: int, record: Record) -> None:
        """Say what a slot holds, once all of it is there."""
        draft = _RECORD.pack(record.step, record.fence, record.length, record.sum, 0)
        whole = _RECORD.pack(record.step, record.fence, record.length, record.sum, _record_sum(draft))
        self._mapped[_RECORD_AT[index] : _RECORD_AT[index] + _RECORD.size] = whole

    def sum(self, index: int, length: int) -> int:
        """Return the sum of a slot's first bytes; other threads go on meanwhile."""
        return xxhash.xxh3_64_intdigest(self.slot(index)[:length])

    def verify(self, index: int) -> Record:
        """Return the record of a slot whose every byte is as it was committed.

        Raises:
            CheckpointError: the slot holds nothing, or its bytes have changed.
        """
        record = self.record(index)
        if record is None:
            raise CheckpointError(f"slot {index} of {self.path.name} holds no snapshot")
        found = self.sum(index, record.length)
        if found != record.sum:
            raise CheckpointError(f"the snapshot of step {record.step} is corrupt: {found:016x}, not {record.sum:016x}")
        return record


def _rounded(slot_bytes: int) -> int:
    return -(-slot_bytes // _PAGE) * _PAGE


def _record_sum(raw: bytes) -> int:
    # A record of zeros must not have the sum zero, or an empty header would hold a snapshot.
    return zlib.crc32(raw[: _RECORD.size - 4], 0x4D46)


def _check_room(folder: Path, size: int) -> None:
    space = os.statvfs(folder)
    if size > space.f_bavail * space.f_frsize * (1.0 - _SPARE):
        raise _too_small(folder, size)


def _too_small(folder: Path, size: int) -> CheckpointError:
    space = os.statvfs(folder)
    return CheckpointError(
        f"snapshots in memory need {show_bytes(size)}, {folder} has {show_bytes(space.f_bavail * space.f_frsize)} free",
        hint=f"make {folder} larger (docker run --shm-size, a memory-backed emptyDir), or do without the memory tier",
    )
