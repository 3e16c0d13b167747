"""What a launcher makes of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mofang.domain.plan import Plan
from mofang.errors import InfeasibleError

__all__ = ["OWN", "Program", "check_alike", "copy_words", "dealt"]

OWN = frozenset({"gpt", "finetune", "classify", "serving", "command"})  # Mofang's own programs: always there

_PORT = "--port"  # what all servers call it


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


def check_alike(plan: Plan) -> None:
    """Refuse to run a plan that has several parts.

    Raises:
        InfeasibleError: a job is started on devices that are all alike and do the same.
    """
    if plan.parts:
        kinds = " + ".join(f"{part.placement.num_devices} {part.placement.accelerator}" for part in plan.parts)
        raise InfeasibleError(
            f"a plan of several parts ({kinds}) cannot be run as one job",
            hint="save another plan of the table (`mofang plan --pick N -o yaml`), or start the parts of a service by "
            "hand (`mofang plan -o command`)",
        )


def copy_words(argv: Sequence[str], index: int) -> tuple[str, ...]:
    """Return the command line of one copy: its port is the first one's and its index."""
    places = [place + 1 for place, word in enumerate(argv[:-1]) if word == _PORT]
    return tuple(str(int(word) + index) if place in places else word for place, word in enumerate(argv))


def dealt(devices: Sequence[str], index: int, copies: int) -> tuple[str, ...]:
    """Return the devices of one of ``copies`` copies: consecutive ones, dealt out evenly."""
    start, end = (len(devices) * place // copies for place in (index, index + 1))
    return tuple(devices[start:end])
