"""The step time of every candidate: micro-batches through the stages, ranks kept alike, and the update.

T = m t_slowest + (t_all - t_slowest) / v + communication that nothing hides + the update, with m micro-batches of v
chunks a stage; t_all is one micro-batch through all layers (arXiv:2104.04473, section 2.2, for stages that differ).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.candidates import Candidates
from mofang.matching.codes import Axes
from mofang.matching.coefficients import coefficients
from mofang.matching.microbatch import launch_seconds
from mofang.matching.profiles import Profile
from mofang.matching.stages import Stages
from mofang.matching.tables import MOST_ROWS, Places, tables_of
from mofang.matching.work import Work

__all__ = ["PARTS", "Schedule", "schedule_of", "tabulate"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Candidates with their rows in the tables; what is computed of them has their shape."""

    candidates: Candidates
    profile: Profile
    layers: int
    micro: Mapping[str, Floats]
    cuts: Places
    states: Mapping[str, Floats]
    groups: Places
    stages: Stages
    hidden: float
    contention: float
    step_launches: float

    def part(self, name: str) -> Floats:
        """Return every candidate's seconds of one of ``PARTS``."""
        if name == "pipeline":
            return self._through() - self.micro["total"].take(self._cut) * (self._times * self._share)
        if name == "data-parallel":
            return self._parallel()
        if name == "optimizer":
            return self._update()
        seconds = self.micro[name].take(self._cut) * (self._times * self._share)
        return seconds + self._overhead() if name == "overhead" else seconds

    def where(self, rows: Ints | slice, candidates: Candidates) -> Schedule:
        """Return some of the candidates (of a grid, some layouts): those of ``rows``."""
        return replace(self, candidates=candidates, cuts=self.cuts.where(rows), groups=self.groups.where(rows))

    @cached_property
    def _cut(self) -> NDArray[np.intp]:
        """Every candidate's row of ``micro``."""
        return self.cuts.index()

    @cached_property
    def _group(self) -> NDArray[np.intp]:
        """Every candidate's row of ``states``."""
        return self.groups.index()

    @property
    def _share(self) -> Floats:
        """One over the stages."""
        return 1.0 / self.candidates.pp

    @property
    def _times(self) -> Floats:
        """The micro-batches."""
        return self.candidates.accumulation.astype(np.float64)

    def step_time(self) -> Floats:
        """Return the seconds of a step."""
        through = self._through()
        through += self._parallel()
        through += self._update()
        through *= 1.0 + self._jitter()
        through += self.step_launches
        return through

    def busy(self) -> Floats:
        """Return the seconds of a step in which a chip computes or moves its own data."""
        seconds = self.micro["busy"].take(self._cut)
        seconds *= self._times * self._share
        seconds += self._update()
        return seconds

    def validation(self) -> Floats:
        """Return the seconds of one forward pass of one micro-batch."""
        return self.micro["forward"].take(self._cut) * self._share

    def _update(self) -> Floats:
        seconds = self.states["update"].take(self._group)
        seconds *= self._share
        return seconds

    def _jitter(self) -> Floats:
        """Return the part of a step that is lost to jitter: it grows with every doubling of the nodes."""
        doublings = self.states["doublings"].take(self._group)
        doublings += self.stages.doublings[self.candidates.pp]
        np.maximum(doublings, 0.0, out=doublings)
        doublings *= self.profile.jitter
        return doublings

    def _overhead(self) -> Floats:
        jitter = self._jitter()
        return (self.step_time() - self.step_launches) * (jitter / (1.0 + jitter)) + self.step_launches

    def _through(self) -> Floats:
        """Return the seconds of all micro-batches through the stages."""
        table, cut, pp, times = self.stages, self._cut, self.candidates.pp, self._times
        vpp = self.candidates.vpp.astype(np.float64)
        layer, first = self.micro["layer"].take(cut), self.micro["table"].take(cut)
        slowest = table.last[pp] * layer
        slowest += self.micro["head"].take(cut)
        slowest += table.alone[pp] * first
        np.maximum(slowest, table.fullest[pp] * layer, out=slowest)
        layer *= table.first[pp]
        first += layer
        np.maximum(slowest, first, out=slowest)
        through = self.micro["total"].take(cut)
        through -= slowest
        through /= vpp
        slowest *= times
        through += slowest
        shown = 1.0 + (1.0 - self.profile.pipeline_hidden) * (vpp - 1.0)
        send = self.micro["send"].take(cut)
        send *= table.sends[pp] * (times * shown + (pp - 1.0))
        through += send
        return through

    def _parallel(self) -> Floats:
        """Return the exposed seconds of weights' and gradients' collectives.

        Each pass hides what fits behind it, all but the first (or last) layer's; what is hidden still slows the
        products beside it.
        """
        cut, group = self._cut, self._group
        ahead, behind = self.states["ahead_each"].take(group), self.states["behind_each"].take(group)
        forward, backward = (
            self.hidden * self.micro["forward"].take(cut),
            self.hidden * self.micro["backward"].take(cut),
        )
        first, last = self.states["ahead_once"].take(group), self.states["behind_once"].take(group)
        first += ahead
        last += behind
        more = (self._times - 1.0) * self.stages.repeats[self.candidates.pp]
        total = more * (ahead + behind)
        total += first
        total += last
        exposed = _beyond(ahead, forward)
        exposed += _beyond(behind, backward)
        exposed *= more
        exposed += _beyond(first, forward)
        exposed += _beyond(last, backward)
        exposed *= self._share
        np.maximum(exposed, total * (1.0 / self.layers), out=exposed)
        total *= self._share
        total = _beyond(total, exposed)
        total *= self.contention
        exposed += total
        return exposed


def _beyond(seconds: Floats, hidden: Floats) -> Floats:
    """Return by how much the first exceed the others; the first are used up."""
    seconds -= hidden
    return np.maximum(seconds, 0.0, out=seconds)


def schedule_of(work: Work, pool: Pool, candidates: Candidates, profile: Profile) -> Schedule:
    """Return the candidates' schedule."""
    tables = tables_of(work, pool, profile)
    axes = _axes(candidates)
    cuts = tables.micro.places(axes.combinations((*_BOTH, *_CUT)))
    groups = tables.states.places(axes.combinations((*_BOTH, *_STATE)))
    return Schedule(
        candidates=candidates,
        profile=profile,
        layers=work.model.layers,
        micro=tables.micro.columns,
        cuts=cuts,
        states=tables.states.columns,
        groups=groups,
        stages=tables.staged(int(candidates.pp.max(initial=1))),
        # On processor cores communication takes the time of the cores that compute.
        hidden=0.0 if pool.is_cpu else profile.data_hidden,
        contention=0.0 if pool.is_cpu else profile.contention,
        step_launches=coefficients().small_operators["step"] * launch_seconds(pool) if pool.is_cpu else 0.0,
    )


def tabulate(work: Work, pool: Pool, candidates: Candidates, profile: Profile) -> None:
    """Put in the tables what candidates that will be asked for a few at a time need; all at once takes far less."""
    tables, axes = tables_of(work, pool, profile), _axes(candidates)
    for table, names in ((tables.micro, (*_BOTH, *_CUT)), (tables.states, (*_BOTH, *_STATE))):
        found = axes.combinations(names)
        if len(found) <= MOST_ROWS:
            table.places(found)


def _axes(candidates: Candidates) -> Axes:
    placed = {"on_node": _on_node(candidates), "spans": (candidates.nodes > 1).astype(np.int64)}
    named = (name for name in (*_BOTH, *_CUT, *_STATE) if name not in placed)
    return Axes(placed | {name: getattr(candidates, name) for name in named})


def _on_node(candidates: Candidates) -> Ints:
    """Return the workers on each node."""
    threads = int(candidates.threads.max(initial=1))
    nodes = candidates.nodes if threads == 1 else candidates.nodes * candidates.threads
    found: Ints = np.maximum(candidates.devices // nodes, 1)
    return found
