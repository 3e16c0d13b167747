"""The step time of every candidate: micro-batches through the stages, ranks kept alike, and the update.

T = m t_slowest + (t_all - t_slowest) / v + communication that nothing hides + the update, with m micro-batches of v
chunks a stage; t_all is one micro-batch through all layers (arXiv:2104.04473, section 2.2, for stages that differ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.codes import Axes, blocks
from mofang.matching.coefficients import coefficients
from mofang.matching.microbatch import launch_seconds
from mofang.matching.profiles import Profile
from mofang.matching.stages import Stages
from mofang.matching.tables import tables_of
from mofang.matching.work import Work

__all__ = ["PARTS", "Schedule", "schedule_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Places = NDArray[np.intp]

# What the step time is made of. Computing and moving data, the average of the stages: `compute` is products, `memory`
# everything that only moves data. `pipeline` is waiting for other stages and sending to them; `data-parallel`,
# `tensor-parallel` ... are communication that nothing hides; `overhead` is launches and what jitter costs.
PARTS = (
    "compute",
    "attention",
    "memory",
    "recompute",
    "tensor-parallel",
    "context-parallel",
    "expert-parallel",
    "pipeline",
    "data-parallel",
    "optimizer",
    "overhead",
)

# What both a micro-batch and the states depend on, and each alone.
_BOTH = ("on_node", "precision", "method", "threads", "tp", "cp", "ep")
_CUT = ("spans", "compile", "micro_batch", "recompute")
_STATE = ("dp", "sharding", "offload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Candidates with their rows in the tables, and their seconds: of the step, busy ones, one forward pass."""

    candidates: Candidates
    profile: Profile
    layers: int
    micro: Mapping[str, Floats]
    cut: Places
    states: Mapping[str, Floats]
    group: Places
    stages: Stages
    hidden: float
    contention: float
    step_launches: float
    step_time: Floats
    busy: Floats
    validation: Floats

    def part(self, name: str) -> Floats:
        """Return every candidate's seconds of one of ``PARTS``."""
        found = np.empty(len(self.candidates))
        for rows in blocks(len(found)):
            found[rows] = self._part(name, rows)
        return found

    def _part(self, name: str, rows: slice) -> Floats:
        share, times = self._counts(rows)
        if name == "pipeline":
            return self._pipeline(rows, times, share)[1]
        if name == "data-parallel":
            return self._parallel(rows, times, share)
        if name == "optimizer":
            return self.states["update"][self.group[rows]] * share
        seconds = self.micro[name][self.cut[rows]] * (times * share)
        return seconds + self._overhead(rows) if name == "overhead" else seconds

    def _counts(self, rows: slice) -> tuple[Floats, Floats]:
        """Return one over the stages, and the micro-batches."""
        return 1.0 / self.candidates.pp[rows], self.candidates.accumulation[rows].astype(np.float64)

    def fill(self) -> Schedule:
        """Compute the step time of every candidate, a block of rows at a time."""
        for rows in blocks(len(self.candidates)):
            share, times = self._counts(rows)
            update = self.states["update"][self.group[rows]] * share
            through, _ = self._pipeline(rows, times, share)
            through += self._parallel(rows, times, share)
            through += update
            self.step_time[rows] = through * (1.0 + self._jitter(rows)) + self.step_launches
            cut = self.cut[rows]
            self.busy[rows] = self.micro["busy"][cut] * (times * share) + update
            self.validation[rows] = self.micro["forward"][cut] * share
        return self

    def _jitter(self, rows: slice) -> Floats:
        """Return the part of a step that is lost to jitter: it grows with every doubling of the nodes."""
        doublings = self.states["doublings"][self.group[rows]] + self.stages.doublings[self.candidates.pp[rows]]
        return self.profile.jitter * np.maximum(doublings, 0.0)

    def _overhead(self, rows: slice) -> Floats:
        jitter = self._jitter(rows)
        return (self.step_time[rows] - self.step_launches) * (jitter / (1.0 + jitter)) + self.step_launches

    def _pipeline(self, rows: slice, times: Floats, share: Floats) -> tuple[Floats, Floats]:
        """Return the seconds of all micro-batches through the stages, and those of waiting and sending among them."""
        table, cut = self.stages, self.cut[rows]
        pp, vpp = self.candidates.pp[rows], self.candidates.vpp[rows]
        total, layer = self.micro["total"][cut], self.micro["layer"][cut]
        head, embedding = self.micro["head"][cut], self.micro["table"][cut]
        slowest = table.last[pp] * layer
        slowest += head
        slowest += table.alone[pp] * embedding
        np.maximum(slowest, table.fullest[pp] * layer, out=slowest)
        embedding += table.first[pp] * layer
        np.maximum(slowest, embedding, out=slowest)
        shown = 1.0 + (1.0 - self.profile.pipeline_hidden) * (vpp - 1.0)
        through = (total - slowest) / vpp
        through += times * slowest
        through += self.micro["send"][cut] * table.sends[pp] * (times * shown + (pp - 1.0))
        return through, through - total * (times * share)

    def _parallel(self, rows: slice, times: Floats, share: Floats) -> Floats:
        """Return the exposed seconds of weights' and gradients' collectives.

        Each pass hides what fits behind it, all but the first (or last) layer's; what is hidden still slows the
        products beside it.
        """
        cut, group = self.cut[rows], self.group[rows]
        ahead, behind = self.states["ahead_each"][group], self.states["behind_each"][group]
        forward, backward = self.hidden * self.micro["forward"][cut], self.hidden * self.micro["backward"][cut]
        first, last = ahead + self.states["ahead_once"][group], behind + self.states["behind_once"][group]
        more = (times - 1.0) * self.stages.repeats[self.candidates.pp[rows]]
        total = more * (ahead + behind) + first + last
        exposed = more * (np.maximum(ahead - forward, 0.0) + np.maximum(behind - backward, 0.0))
        exposed += np.maximum(first - forward, 0.0)
        exposed += np.maximum(last - backward, 0.0)
        exposed *= share
        np.maximum(exposed, total * (1.0 / self.layers), out=exposed)
        total *= share
        seconds: Floats = exposed + self.contention * np.maximum(total - exposed, 0.0)
        return seconds


def schedule_of(work: Work, pool: Pool, candidates: Candidates, profile: Profile) -> Schedule:
    """Return the candidates' schedule with all its seconds."""
    tables, size = tables_of(work, pool, profile), len(candidates)
    placed = {"on_node": _on_node(candidates), "spans": (candidates.nodes > 1).astype(np.int64)}
    named = (name for name in (*_BOTH, *_CUT, *_STATE) if name not in placed)
    axes = Axes(placed | {name: getattr(candidates, name) for name in named})
    both = axes.code(_BOTH)
    cut = tables.micro.places(axes.combinations(axes.code(_CUT, both)))
    group = tables.states.places(axes.combinations(axes.code(_STATE, both)))
    return Schedule(
        candidates=candidates,
        profile=profile,
        layers=work.model.layers,
        micro=tables.micro.columns,
        cut=cut,
        states=tables.states.columns,
        group=group,
        stages=tables.staged(int(candidates.pp.max(initial=1))),
        # On processor cores communication takes the time of the cores that compute.
        hidden=0.0 if pool.is_cpu else profile.data_hidden,
        contention=0.0 if pool.is_cpu else profile.contention,
        step_launches=coefficients().small_operators["step"] * launch_seconds(pool) if pool.is_cpu else 0.0,
        step_time=np.empty(size),
        busy=np.empty(size),
        validation=np.empty(size),
    ).fill()


def _on_node(candidates: Candidates) -> Ints:
    """Return the workers on each node."""
    threads = int(candidates.threads.max(initial=1))
    nodes = candidates.nodes if threads == 1 else candidates.nodes * candidates.threads
    found: Ints = np.maximum(candidates.devices // nodes, 1)
    return found
