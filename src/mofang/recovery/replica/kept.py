"""How far the copies on other nodes have come: one small text file a rank, beside its arena.

A rank that is ahead of its copies by two snapshots has nothing in common with them any more: should its node be lost,
no step is whole. So whoever takes snapshots asks ``replicated`` first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mofang.recovery.replica.shelf import Stamp

__all__ = ["forget_kept", "note_kept", "replicated"]


def note_kept(folder: Path, prefix: str, rank: int, keeper: int, what: Stamp) -> None:
    """Note that a node keeps a snapshot of the rank, whole and verified. Full memory delays it until the next one."""
    path = _path(folder, prefix, rank)
    kept = _read(path) | {keeper: what}
    draft = path.with_name(f"{path.name}.draft")
    with suppress(OSError):
        draft.write_text("".join(f"{node} {fence} {step}\n" for node, (fence, step) in sorted(kept.items())))
        draft.replace(path)


def replicated(folder: Path, prefix: str, rank: int, copies: int = 1) -> Stamp | None:
    """Return the fence number and the step of the rank's newest snapshot that so many other nodes keep, or None."""
    kept = sorted(_read(_path(folder, prefix, rank)).values(), reverse=True)
    return kept[copies - 1] if len(kept) >= copies else None


def forget_kept(folder: Path, prefix: str, rank: int) -> None:
    """Forget how far the copies of a rank have come: it goes on from an earlier step."""
    _path(folder, prefix, rank).unlink(missing_ok=True)


def _path(folder: Path, prefix: str, rank: int) -> Path:
    return folder / f"{prefix}replica.kept.r{rank:04d}"


def _read(path: Path) -> dict[int, Stamp]:
    try:
        lines = [line.split() for line in os.fsdecode(path.read_bytes()).splitlines()]
        return {int(node): (int(fence), int(step)) for node, fence, step in lines}
    except (OSError, ValueError):
        return {}
