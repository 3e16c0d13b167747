"""One simulated run: a job on some nodes, faults, spares and repairs, event by event.

Between faults the job works and snapshots; a fault takes a node into repair and costs the work since the last safe
snapshot, detection, replacement and restart. A spare takes the node's place; without one the job waits for a repair, or
goes on with fewer nodes at the same global batch, so slower in proportion, and grows back.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from mofang.clock import Chance
from mofang.recovery.simulation.faults import FaultModel
from mofang.recovery.simulation.formula import snapshot_interval
from mofang.recovery.simulation.practices import Practice

__all__ = ["LOSSES", "Outcome", "simulate"]

LOSSES = ("snapshots", "detection", "replacement", "restart", "redone work", "waiting for nodes", "fewer nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to: ``useful_s`` is work at full speed never done again, ``losses`` are seconds by cause."""

    elapsed_s: float
    useful_s: float
    faults: int
    losses: dict[str, float]

    @property
    def ettr(self) -> float:
        """Effective training time ratio: useful over elapsed time."""
        return self.useful_s / self.elapsed_s


@dataclass(slots=True, kw_only=True)
class _Cluster:
    """The nodes of a job: at work, spare, and in repair (a heap of the times at which they are back)."""

    wanted: int
    working: int
    spares: int
    repairs: list[float] = field(default_factory=list)

    def fail(self, back_at: float) -> bool:
        """Send a node at work into repair; return whether a spare takes its place."""
        heapq.heappush(self.repairs, back_at)
        spared = self.spares > 0
        if spared:
            self.spares -= 1
        else:
            self.working = max(self.working - 1, 0)
        return spared

    def receive(self, now: float) -> int:
        """Take back the nodes that are repaired; return how many the job can grow by."""
        room = 0
        while self.repairs and self.repairs[0] <= now:
            heapq.heappop(self.repairs)
            if self.working + room < self.wanted:
                room += 1
            else:
                self.spares += 1
        return room


def simulate(
    practice: Practice,
    faults: FaultModel,
    *,
    nodes: int,
    node_devices: int,
    spares: int,
    days: float,
    chance: Chance,
) -> Outcome:
    """Simulate a job of ``nodes`` that never ends, for so many days.

    Args:
        practice: what is done about faults.
        faults: how they arrive, on the nodes at work; spares are taken not to fail.
        nodes: that the job wants.
        node_devices: in each node.
        spares: nodes kept ready beside them, idle.
        days: of simulated time.
        chance: where faults, repairs and alarms are drawn from.
    """
    cluster = _Cluster(wanted=nodes, working=nodes, spares=spares)
    return _Run(practice, faults, nodes * node_devices, cluster, chance).until(days * 86400.0)


class _Run:
    """The clock and the accounts of one run: elapsed time is always useful work and losses together."""

    def __init__(self, practice: Practice, faults: FaultModel, devices: int, cluster: _Cluster, chance: Chance) -> None:
        self.practice, self.faults, self.cluster, self.chance = practice, faults, cluster, chance
        self.between = snapshot_interval(practice, faults, devices)
        self.arrivals = faults.arrivals(devices, chance)
        self.now, self.useful, self.struck = 0.0, 0.0, 0
        self.fresh = 0.0  # seconds of work since the last snapshot
        self.losses = dict.fromkeys(LOSSES, 0.0)

    def until(self, end: float) -> Outcome:
        strike = next(self.arrivals)
        while strike < end:
            self._work(strike)
            strike = self._recover()
        self._work(end)
        return Outcome(elapsed_s=self.now, useful_s=self.useful, faults=self.struck, losses=self.losses)

    def _work(self, until: float) -> None:
        """Work and snapshot until a time; repaired nodes come back on the way."""
        while self.now < until:
            room = self.cluster.receive(self.now)
            if room:
                self._pass("restart", min(self.practice.restart_s, until - self.now))
                self.cluster.working += room
                continue
            missing = self.cluster.working < self.cluster.wanted
            span = min([until, *self.cluster.repairs[:1]] if missing else [until]) - self.now
            if missing and (not self.practice.shrink or self.cluster.working == 0):
                self._pass("waiting for nodes", span)
            else:
                self._advance(span)

    def _advance(self, span: float) -> None:
        """Let a time without events pass: work, with a snapshot after every interval."""
        first = self.between - self.fresh + self.practice.stall_s  # until the end of the next snapshot
        if span < first:
            work = min(span, self.between - self.fresh)
            self.fresh += work
        else:
            snapshots, rest = divmod(span - first, self.between + self.practice.stall_s)
            tail = min(rest, self.between)
            work = self.between - self.fresh + snapshots * self.between + tail
            self.fresh = tail
        self.useful += work * self._speed
        self.losses["fewer nodes"] += work * (1.0 - self._speed)
        self._pass("snapshots", span - work)
        self.now += work

    def _recover(self) -> float:
        """Take a fault, and those that strike before the job is back; return when the next one strikes."""
        again = False
        while True:
            self.struck += 1
            self._lose(again)
            spared = self.cluster.fail(self.now + self.faults.repair_s(self.chance))
            strike = next(self.arrivals)
            if self._come_back(strike, self.practice.replace_s if spared else 0.0):
                return strike
            again = True

    def _come_back(self, strike: float, replace_s: float) -> bool:
        """Pass through the stages of a recovery; False where the next fault cuts it short."""
        stages = {"detection": self.practice.detect_s, "replacement": replace_s, "restart": self.practice.restart_s}
        for cause, seconds in stages.items():
            if self.now + seconds >= strike:
                self._pass(cause, max(strike - self.now, 0.0))
                return False
            self._pass(cause, seconds)
        return True

    def _lose(self, again: bool) -> None:
        """Throw away the work that no safe snapshot holds; ``again``: a second node fails before the job is back."""
        lost = self.fresh if self.fresh >= self.practice.settle_s else self.fresh + self.between
        known = self.practice.predictor
        if known is not None:
            seen = self.chance.random() < known.recall
            lost = min(lost, known.lead_s) if seen else lost
            self._pass("snapshots", self.practice.stall_s * (seen + known.false_alarms))
        if again and self.chance.random() < 1.0 / self.cluster.wanted:  # it is the peer of the first one
            lost += self.practice.durable_s * self.chance.random()
        redone = min(lost * self._speed, self.useful)
        self.useful -= redone
        self.losses["redone work"] += redone
        self.fresh = 0.0

    @property
    def _speed(self) -> float:
        return self.cluster.working / self.cluster.wanted

    def _pass(self, cause: str, seconds: float) -> None:
        self.now += seconds
        self.losses[cause] += seconds
