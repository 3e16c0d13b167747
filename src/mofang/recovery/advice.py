"""What the agent of a node asks its workers for: a file that is replaced whole, and looked at after every step."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mofang.recovery.rundir import AttemptDir

__all__ = ["Advice", "AdviceReader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One piece of advice.

    Attributes:
        serial: a later piece has a higher number.
        snapshot: whether a snapshot is wished for now.
        hazard_per_s: faults a second that the job is expected to see; None: nothing is said about it.
        recall: part of the faults that is announced in time.
        cause: what led to it, in words.
    """

    serial: int
    snapshot: bool = False
    hazard_per_s: float | None = None
    recall: float = 0.0
    cause: str = ""


class AdviceReader:
    """Reads each piece of advice once; a look at an unchanged file costs a microsecond.

    Args:
        path: of the file; None: nobody advises.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int] = (0, 0)
        self._serial = -1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AdviceReader:
        """Return the reader of this worker's node; outside Mofang it never finds anything."""
        attempt = environ.get("MOFANG_ATTEMPT_DIR")
        node = int(environ.get("MOFANG_NODE", environ.get("NODE_RANK", "0")))
        return cls(AttemptDir(Path(attempt)).advice(node) if attempt else None)

    def look(self) -> Advice | None:
        """Return advice that has not been returned before, or None."""
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)  # noqa: PTH116 - once a step
            mark = (found.st_mtime_ns, found.st_ino)
            if mark == self._seen:
                return None
            self._seen = mark
            advice = _parse(self._path.read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if advice.serial <= self._serial:
            return None
        self._serial = advice.serial
        return advice


def _parse(text: str) -> Advice:
    fields = json.loads(text)
    hazard = fields.get("hazard_per_s")
    return Advice(
        serial=int(fields["serial"]),
        snapshot=bool(fields.get("snapshot", False)),
        hazard_per_s=None if hazard is None else float(hazard),
        recall=float(fields.get("recall", 0.0)),
        cause=str(fields.get("cause", "")),
    )
