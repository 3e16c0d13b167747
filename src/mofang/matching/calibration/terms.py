"""Which effects jobs may share. Their variances are learned; an effect that the data does not show falls away."""

from __future__ import annotations

from collections.abc import Mapping

from mofang.matching.calibration.features import LAYOUT, SIZES
from mofang.matching.calibration.process import Term

__all__ = ["FLOORS", "SHARED", "SITE_TERMS", "TERMS"]

SHARED = 0.3**2  # variance of what all jobs share: physics may be off by a third everywhere

_GROUPS = (
    "framework",
    "vendor",
    "generation",
    "chip",
    "precision",
    "kind",
    "model",
    "method",
    "recompute",
    "sharding",
    "source",
    "framework precision",
    "framework generation",
    "framework kind",
    "framework model",
    "framework method",
    "framework recompute",
    "framework sharding",
    "framework compile",
    "generation precision",
    "generation kind",
    "generation method",
    "chip precision",
    "chip model",
    "kind precision",
    "chip precision model framework",
)
_FADING = ("framework", "kind", "generation")  # what layout and length do differs between these

TERMS: tuple[Term, ...] = (
    *(Term(labels=tuple(group.split())) for group in _GROUPS),
    *(Term(sizes=(size,)) for size in (*LAYOUT, *SIZES)),
    *(Term(labels=(label,), sizes=(size,)) for label in _FADING for size in (*LAYOUT, "sequence", "active")),
)

# A group that a new job may bring a new member of keeps at least this much doubt, however alike the known ones are:
# there are too few vendors and frameworks to learn it from.
FLOORS: Mapping[Term, float] = {
    Term(labels=("vendor",)): 0.12**2,
    Term(labels=("generation",)): 0.08**2,
    Term(labels=("chip",)): 0.05**2,
    Term(labels=("framework",)): 0.08**2,
    Term(labels=("kind",)): 0.08**2,
    Term(labels=("model",)): 0.03**2,
}

# What sets one site apart: its network, cooling, clocks, versions. Published rows say who measured, not where, so these
# are set and not learned: about as large as what sets one source apart from others of its kind.
SITE_TERMS: Mapping[Term, float] = {
    Term(labels=("site",)): 0.08**2,
    Term(labels=("site", "chip")): 0.15**2,
    Term(labels=("site", "chip", "framework")): 0.10**2,
}
