"""The errors of Mofang: one tree, printed here in full.

    MofangError
    ├── UsageError            exit 2   what was asked cannot be understood
    │   ├── SpecError                  a job file, or a value given with --set, is wrong
    │   ├── UnitError                  a quantity cannot be parsed
    │   ├── CatalogError               a catalogue row or file is wrong, or a name is unknown
    │   ├── DataError                  training data is missing, empty, unreadable or not text
    │   └── NotFoundError              no job, host or thing of that name
    ├── InfeasibleError       exit 3   understood, but no plan can satisfy it
    ├── BackendError          exit 4   a backend, a host or the controller cannot be reached
    ├── JobFailedError        exit 1   the job ran and failed
    │   ├── NotFiniteError             the loss is not a number any more, and going back did not help
    │   └── SilentCorruptionError      ranks that must hold the same values do not
    ├── ConflictError         exit 1   the state of the world does not allow it now
    │   └── NotLeaderError             another controller leads; this one must not write
    ├── StoreError            exit 1   the store cannot be read or written
    └── CheckpointError       exit 1   a checkpoint is torn, corrupt or does not fit

Exit codes: 0 done, 1 failed, 2 usage, 3 no feasible plan, 4 unreachable, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BackendError",
    "CatalogError",
    "CheckpointError",
    "ConflictError",
    "DataError",
    "InfeasibleError",
    "JobFailedError",
    "MofangError",
    "NotFiniteError",
    "NotFoundError",
    "NotLeaderError",
    "SilentCorruptionError",
    "SpecError",
    "StoreError",
    "UnitError",
    "UsageError",
    "error_from_wire",
]


class MofangError(Exception):
    """What happened, what to do about it, and the facts behind both.

    Args:
        message: one line: what is wrong and why.
        hint: one line: what to do.
        data: the facts, JSON-serialisable, for ``-o json`` and for the wire.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = dict(data or {})

    def to_wire(self) -> dict[str, Any]:
        """Return the error as JSON-serialisable values."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": self.data}


class UsageError(MofangError):
    """What was asked cannot be understood."""

    code = "usage"
    exit_code = 2


class SpecError(UsageError):
    """A job file, or a value given with ``--set``, is wrong."""

    code = "spec"


class UnitError(UsageError):
    """A quantity cannot be parsed."""

    code = "unit"


class CatalogError(UsageError):
    """A catalogue row or file is wrong, or a name is unknown."""

    code = "catalog"


class DataError(UsageError):
    """Training data is missing, empty, unreadable or not text."""

    code = "data"


class NotFoundError(UsageError):
    """There is no job, host or thing of that name."""

    code = "not-found"


class InfeasibleError(MofangError):
    """The request is understood, but no plan can satisfy it."""

    code = "infeasible"
    exit_code = 3


class BackendError(MofangError):
    """A backend, a host or the controller cannot be reached."""

    code = "backend"
    exit_code = 4


class JobFailedError(MofangError):
    """The job ran and failed."""

    code = "job-failed"


class NotFiniteError(JobFailedError):
    """The loss is not a number any more, and going back did not help."""

    code = "not-finite"


class SilentCorruptionError(JobFailedError):
    """Ranks that must hold the same values do not."""

    code = "silent-corruption"


class ConflictError(MofangError):
    """The state of the world does not allow it now."""

    code = "conflict"


class NotLeaderError(ConflictError):
    """Another controller leads; this one must not write."""

    code = "not-leader"


class StoreError(MofangError):
    """The store cannot be read or written."""

    code = "store"


class CheckpointError(MofangError):
    """A checkpoint is torn, corrupt or does not fit."""

    code = "checkpoint"


def _tree(root: type[MofangError]) -> dict[str, type[MofangError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_from_wire(wire: Mapping[str, Any]) -> MofangError:
    """Rebuild the error that ``to_wire`` wrote; an unknown code becomes a plain ``MofangError``."""
    kind = _tree(MofangError).get(str(wire.get("code")), MofangError)
    return kind(str(wire.get("message", "unknown error")), hint=str(wire.get("hint", "")), data=wire.get("data") or {})
