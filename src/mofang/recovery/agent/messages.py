"""What the agents of one attempt say to each other: reports to the coordinator, orders from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mofang.domain.reasons import Reason

__all__ = [
    "Cleared",
    "Exited",
    "Finish",
    "Hello",
    "Message",
    "Pace",
    "Ping",
    "Problem",
    "StartGeneration",
    "Started",
    "StopAsked",
    "StopGeneration",
    "from_wire",
    "to_wire",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """A node is there. ``intact``: every worker of that generation runs, or has left an exit file.

    ``idle``: nothing of any generation is left there. ``port`` is free there, should the workers meet there.
    """

    node: int
    generation: int
    intact: bool
    idle: bool = False
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """A node is still there."""

    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The node's workers run; ``pids`` by rank, 0 where it is not known."""

    node: int
    generation: int
    pids: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A worker ended well."""

    node: int
    generation: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The generation cannot go on. Failures with one ``signature`` are alike, whichever rank had them.

    ``exclude``: the node is at fault; others are to take its place, where there are others.
    """

    node: int
    generation: int
    reason: str
    message: str
    signature: str
    step: int | None = None
    time: float = 0.0  # since the epoch; of several failures the first is the cause
    exclude: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the node's ranks compute a step: rows of rank, step and the quartiles of the seconds, low to high."""

    node: int
    generation: int
    rows: list[list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """Nothing of the generation is left on the node, and ``port`` is free there."""

    node: int
    generation: int
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Somebody asked this node's agent to end the attempt."""

    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartGeneration:
    """Order: start the workers of this generation; they meet at this address.

    ``nodes`` are those that take part, in the order of their ranks.
    """

    generation: int
    address: str
    port: int
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopGeneration:
    """Order: end what runs, with SIGTERM and ``grace_s`` seconds first where that is not 0.

    ``last``: no other generation follows, so nothing of the attempt is to be left on the node.
    """

    generation: int
    grace_s: float
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Order: nothing more will happen."""

    reason: str


Message = (
    Hello | Ping | Started | Exited | Problem | Pace | Cleared | StopAsked | StartGeneration | StopGeneration | Finish
)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Message.__args__}


def to_wire(message: Message) -> dict[str, Any]:
    """Return the message as JSON-serialisable values."""
    return {"type": type(message).__name__, **asdict(message)}


def from_wire(wire: dict[str, Any]) -> Message:
    """Return the message that ``to_wire`` wrote.

    Raises:
        ValueError: it is none.
    """
    fields = dict(wire)
    try:
        message: Message = _KINDS[fields.pop("type")](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a message: {error}") from error
    if isinstance(message, Problem):
        Reason(message.reason)
    if isinstance(message, StartGeneration):
        return replace(message, nodes=tuple(message.nodes))  # JSON knows lists only
    return message
