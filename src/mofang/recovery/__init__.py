"""Recovery: the node agent that keeps workers running, and the checkpoints they go on from.

Everything here starts fast: nothing heavy is imported until it is asked for. What programs use is here too:

>>> from mofang.recovery import Checkpointer, Directory, Memory
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofang.recovery.checkpointer import Checkpointer, Status
    from mofang.recovery.collect import PerRank
    from mofang.recovery.tiers import Directory, Memory

__all__ = ["Checkpointer", "Directory", "Memory", "PerRank", "Status"]

_PLACES = {
    "Checkpointer": "checkpointer",
    "Status": "checkpointer",
    "PerRank": "collect",
    "Directory": "tiers",
    "Memory": "tiers",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
