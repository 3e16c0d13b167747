"""Which chips a chip without timings borrows from, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mofang.domain.hardware import Accelerator

__all__ = ["LEVELS", "Kin", "Relative", "relatives"]

LEVELS = ("architecture", "vendor", "other")  # from near to far
_OTHER_MEMORY = 0.25  # weight of a chip with the other kind of memory
_NO_YEAR = 2022


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """What likeness is judged by."""

    name: str
    vendor: str
    architecture: str
    year: int | None
    memory_type: str

    @classmethod
    def of(cls, accelerator: Accelerator) -> Kin:
        """Return the traits of a chip."""
        return cls(
            name=accelerator.name,
            vendor=accelerator.vendor,
            architecture=accelerator.architecture,
            year=accelerator.year,
            memory_type=accelerator.memory_type,
        )

    @property
    def stacked(self) -> bool:
        """Whether the memory is HBM."""
        return "HBM" in self.memory_type.upper()

    def level(self, other: Kin) -> str:
        """Return how near ``other`` is.

        A vendor's chips with HBM and its boards without are different lines of products, whatever their architecture
        is called. An architecture's refresh (Blackwell Ultra) counts as the same.
        """
        if self.vendor != other.vendor or self.stacked != other.stacked:
            return "other"
        mine, its = self.architecture, other.architecture
        same = mine and its and (mine.startswith(its) or its.startswith(mine))
        return "architecture" if same else "vendor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A chip to borrow from; weights of all relatives add up to one."""

    kin: Kin
    weight: float


def relatives(
    target: Kin, candidates: Iterable[Kin], nearest: str = "architecture"
) -> tuple[str, tuple[Relative, ...]]:
    """Return the nearest level at which there is any candidate, and the candidates of that level.

    Years halve a candidate's weight each, the other kind of memory quarters it.

    Args:
        target: who borrows; a candidate of the same name is passed over.
        candidates: chips with a fit.
        nearest: the nearest level to look at: farther ones serve to measure what borrowing from afar costs.
    """
    found = [kin for kin in candidates if kin.name != target.name]
    for level in LEVELS[LEVELS.index(nearest) :]:
        chosen = [kin for kin in found if target.level(kin) == level]
        if chosen:
            weights = [_likeness(target, kin) for kin in chosen]
            total = sum(weights)
            return level, tuple(
                Relative(kin=kin, weight=weight / total) for kin, weight in zip(chosen, weights, strict=True)
            )
    return LEVELS[-1], ()


def _likeness(target: Kin, other: Kin) -> float:
    years = abs((target.year or _NO_YEAR) - (other.year or _NO_YEAR))
    return 0.5**years * (1.0 if target.stacked == other.stacked else _OTHER_MEMORY)
