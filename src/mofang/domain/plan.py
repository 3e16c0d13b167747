"""A plan: a scenario, a strategy, hardware and an estimate, runnable as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.estimate import Estimate, ServiceEstimate
from mofang.domain.hardware import Precision
from mofang.domain.reasons import Rejection
from mofang.domain.strategy import Offload, Parallelism, Sharding, Strategy
from mofang.errors import SpecError

__all__ = ["MatchResult", "Part", "Placement", "Plan", "Role", "Sensitivity", "Service", "layout_kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many devices of which kind, over how many nodes. ``cluster`` is empty for hardware only described."""

    cluster: str
    accelerator: str
    num_devices: int
    num_nodes: int
    node_memory_bytes: int = 0  # host memory the job needs on each node; 0: unknown

    @property
    def devices_per_node(self) -> int:
        """Devices on each node; nodes are used evenly."""
        return self.num_devices // self.num_nodes


class Role(StrEnum):
    """What one group of alike devices does in a plan that has several groups."""

    STAGES = "stages"  # consecutive pipeline stages
    REPLICAS = "replicas"  # data-parallel ranks
    PREFILL = "prefill"  # computes prompts
    DECODE = "decode"  # generates tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One group of alike devices of a plan that mixes several, or gives several different work.

    ``share`` is its part of the layers (stages), of the global batch (replicas) or of the requests (prefill, decode);
    ``framework`` is what it runs with, empty where that is the plan's own.
    """

    role: Role
    placement: Placement
    parallelism: Parallelism
    share: float
    replicas: int = 1
    framework: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How a service is deployed and what it is predicted to do."""

    replicas: int
    concurrency: int  # requests decoded together on one replica at most
    precision: Precision  # of the weights
    kv_precision: Precision
    estimate: ServiceEstimate
    attention_dp: bool = False  # attention is data parallel inside the replica, experts are spread over it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to run the scenario. ``estimate`` None: unknown (the user's own program), or a service's own.

    ``parts`` is empty where all devices are alike and do the same; otherwise it lists the groups, of which
    ``placement`` is the first.
    """

    strategy: Strategy
    placement: Placement
    steps: int | None  # optimiser steps; None for a command or a service
    estimate: Estimate | None = None
    service: Service | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.placement.num_devices % self.placement.num_nodes:
            raise SpecError(
                f"devices must divide evenly over nodes: {self.placement.num_devices} / {self.placement.num_nodes}"
            )
        if not self.parts and self.service is None:
            self.strategy.parallelism.check(self.workers)

    @property
    def workers(self) -> int:
        """Number of ranks: devices over threads for cores, one a device for accelerators."""
        return self.placement.num_devices // self.strategy.threads

    @property
    def is_mixture(self) -> bool:
        """Whether it is one training job on several kinds of chips, which nothing can start yet."""
        return bool(self.parts) and self.service is None

    @property
    def frameworks(self) -> tuple[str, ...]:
        """What it runs with, each once: one framework, or those of its parts."""
        return tuple(dict.fromkeys(part.framework or self.strategy.framework for part in self.parts)) or (
            self.strategy.framework,
        )

    @property
    def choice(self) -> tuple[object, ...]:
        """What plans of the same choice share: hardware, framework, method, and the kind of layout.

        Plans that differ only in how large a degree is, in micro-batch, interleaving, recomputation or the precision of
        a cache are near-twins.
        """
        strategy = self.strategy
        hardware = tuple((part.cluster, part.accelerator, part.num_devices) for part in self._placements)
        if self.service is not None:
            return (*hardware, self.frameworks, self.service.precision, bool(self.parts))
        return (*hardware, self.frameworks, strategy.method, strategy.precision, *layout_kind(strategy))

    @property
    def _placements(self) -> tuple[Placement, ...]:
        return tuple(part.placement for part in self.parts) or (self.placement,)


def layout_kind(strategy: Strategy) -> tuple[bool, ...]:
    """Return the kind of layout: cut by tp, pp, cp, ep or not, weights sharded or not, state offloaded or not."""
    degrees = strategy.parallelism
    cuts = tuple(size > 1 for size in (degrees.tp, degrees.pp, degrees.cp, degrees.ep))
    return (*cuts, strategy.sharding is Sharding.FSDP, strategy.offload is not Offload.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What the best plan would gain in speed if one thing were different: 0.09 is 9 % more, -1 that nothing fits."""

    what: str
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchResult:
    """Feasible plans, best first, and why the others are not among them.

    ``front`` is the Pareto front over time, cost and energy, fastest first (the plans of other goals are on it);
    ``estimated`` is how many of the candidates were estimated in full: the others do not fit, or cannot be among the
    best. ``sensitivities`` are of the first plan, and there only where they were asked for.
    """

    plans: tuple[Plan, ...]
    rejections: tuple[Rejection, ...] = ()
    candidates: int = 0  # how many were looked at
    front: tuple[Plan, ...] = ()
    estimated: int = 0
    sensitivities: tuple[Sensitivity, ...] = ()
