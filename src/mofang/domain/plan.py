"""A plan: a scenario, a strategy, hardware and an estimate, runnable as it stands."""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.estimate import Estimate
from mofang.domain.reasons import Rejection
from mofang.domain.strategy import Strategy
from mofang.errors import SpecError

__all__ = ["MatchResult", "Placement", "Plan"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to run the scenario. ``estimate`` None: unknown (the user's own program)."""

    strategy: Strategy
    placement: Placement
    steps: int | None  # optimiser steps; None for a command
    estimate: Estimate | None = None

    def __post_init__(self) -> None:
        if self.placement.num_devices % self.placement.num_nodes:
            raise SpecError(
                f"devices must divide evenly over nodes: {self.placement.num_devices} / {self.placement.num_nodes}"
            )
        self.strategy.parallelism.check(self.workers)

    @property
    def workers(self) -> int:
        """Number of ranks: devices over threads for cores, one a device for accelerators."""
        return self.placement.num_devices // self.strategy.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchResult:
    """Feasible plans, best first, and why the others are not among them."""

    plans: tuple[Plan, ...]
    rejections: tuple[Rejection, ...] = ()
    candidates: int = 0  # how many were looked at
