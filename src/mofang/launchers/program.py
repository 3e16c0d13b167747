"""What a launcher makes of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One worker's command line, what it adds to the environment, and files of the attempt directory.

    ``one_per_node``: the program starts the ranks of its node itself, so that one process a node is enough.
    ``copies`` is how often it is started on a node, each time with devices and a port of its own.
    ``prepare`` is what must have run once before, where the framework reads data in a format of its own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    one_per_node: bool = False
    copies: int = 1
    prepare: tuple[tuple[str, ...], ...] = ()
