"""Which pools the user's request points at, and how many devices of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mofang.domain.hardware import Pool
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Scenario
from mofang.units import DeviceRequest, Range

if TYPE_CHECKING:
    from mofang.matching.experience import Experience

__all__ = ["Option", "find_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A pool and how many of its devices may be used; ``preference`` is the request's place in the user's list.

    ``known`` is what the user's own measurements add to the packaged ones; None: nothing.
    """

    pool: Pool
    counts: Range
    preference: int = 0
    known: Experience | None = None

    @property
    def most_nodes(self) -> int | None:
        """How many nodes the pool has at most; None where it has no end."""
        most = self.pool.counts.maximum
        return None if most is None else -(-most // self.pool.devices_per_node)

    @property
    def name(self) -> str:
        """The devices in short: ``H100 on cluster a``."""
        place = f" on {self.pool.cluster}" if self.pool.cluster else ""
        return f"{self.pool.accelerator.name}{place}"


def find_options(
    scenario: Scenario, pools: Sequence[Pool], known: Experience | None = None
) -> tuple[list[Option], list[Rejection]]:
    """Return the options of a scenario, and a rejection for each request that no pool can meet."""
    options = [Option(pool=pool, counts=pool.counts, known=known) for pool in pools if not pool.cluster]
    present = [pool for pool in pools if pool.cluster]
    requests = scenario.resources.any_of
    if not requests:
        options += [Option(pool=pool, counts=pool.counts, known=known) for pool in present]
    rejections = []
    for place, request in enumerate(requests if present or not pools else ()):
        found, rejection = _meet(request, place, present, known)
        options += found
        rejections += [rejection] if rejection is not None else []
    if not pools and not requests:
        rejections.append(
            Rejection(
                code=Reason.NO_SUCH_DEVICE,
                what="any device",
                need=1,
                have=0,
                hint="describe hardware with --hardware, or start a node",
            )
        )
    return options, rejections


def _is_named(pool: Pool, name: str) -> bool:
    return name.casefold() in {known.casefold() for known in (pool.accelerator.name, *pool.accelerator.aliases)}


def _meet(
    request: DeviceRequest, place: int, pools: Sequence[Pool], known: Experience | None
) -> tuple[list[Option], Rejection | None]:
    named = [pool for pool in pools if _is_named(pool, request.name)]
    if not named:
        kinds = ", ".join(sorted({pool.accelerator.name for pool in pools})) or "none"
        return [], Rejection(
            code=Reason.NO_SUCH_DEVICE,
            what=str(request),
            need=request.count.minimum,
            have=0,
            hint=f"the fleet has: {kinds}; describe other hardware with --hardware {request}",
        )
    options = [
        Option(pool=pool, counts=counts, preference=place, known=known)
        for pool in named
        if (counts := pool.counts.intersect(request.count)) is not None
    ]
    if options:
        return options, None
    most = max(pool.counts.maximum or 0 for pool in named)
    return [], Rejection(
        code=Reason.TOO_FEW_DEVICES,
        what=str(request),
        need=request.count.minimum,
        have=most,
        hint=f"ask for at most {most}",
    )
