"""What is coming for a node: telemetry every second, its risk every few, and advice to the workers where it pays.

Nothing here may disturb the workers: what cannot be measured, read or written is left out, and a prediction that cannot
be made leaves the periodic snapshots as they are.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.launch import LaunchSpec
from mofang.errors import MofangError
from mofang.recovery.policy import Action, Costs, hazard_of_risk, judge, pays, work_at_risk
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import SpoolWriter, read_spool
from mofang.recovery.telemetry.collector import Collector

if TYPE_CHECKING:
    from mofang.recovery.prediction.short_lead import ShortLeadModel

__all__ = ["Outlook"]

_EVERY_S = 5.0  # between two predictions
_CHANGED = 2.0  # a hazard that is so many times another is told to the workers
_NODE_DEVICES = 8  # of the nodes whose faults were published; a node without devices is taken to fail as often


class Outlook:
    """The collector of a node and the model that reads it.

    Args:
        spec: the attempt.
        node: the index of this node.
        spool: where risks are reported.
        clock: the time.
        collector: of this node's telemetry.
    """

    def __init__(self, spec: LaunchSpec, node: int, spool: SpoolWriter, clock: Clock, collector: Collector) -> None:
        self._spec, self._node, self._spool, self._clock = spec, node, spool, clock
        self._directory = AttemptDir(Path(spec.attempt_dir))
        self._collector = collector
        self._samples: deque[tuple[float, Mapping[str, float]]] = deque()
        self._model: ShortLeadModel | None = None
        self._costs, self._read, self._read_of = Costs(), 0, (0, 0)
        self._due = clock.monotonic() + _EVERY_S
        self._wished_at = self._told = 0.0
        self._serial = int(clock.now())  # higher than that of any earlier agent of this attempt
        self._generation = 0

    def tick(self, generation: int, processes: Mapping[int, int]) -> None:
        """Measure if a second has passed, and predict if a few have."""
        if generation != self._generation:
            self._generation = generation
            self._samples.clear()  # a start is not like what was before it
        self._collector.workers.follow(generation, processes)
        sample = self._collector.tick()
        if sample is not None:
            self._samples.append(sample)
        if not processes or self._clock.monotonic() < self._due:
            return
        self._due = self._clock.monotonic() + _EVERY_S
        with suppress(MofangError, OSError, ValueError, LookupError, TypeError, ArithmeticError):
            self._measure_costs(min(processes))
            self._predict()

    def close(self) -> None:
        """Close the files."""
        self._collector.close()

    def _predict(self) -> None:
        from mofang.recovery.prediction.short_lead import signs  # noqa: PLC0415 - numpy, once there is something to say
        from mofang.recovery.prediction.short_lead.features import PAST_S, WARM_S  # noqa: PLC0415 - as above
        from mofang.recovery.telemetry.series import series_of  # noqa: PLC0415 - as above

        while self._samples and self._samples[-1][0] - self._samples[0][0] > PAST_S:
            self._samples.popleft()
        before = self._node_hazard(self._node)
        job = sum(self._node_hazard(node) for node in range(len(self._spec.nodes)) if not self._spec.nodes[node].spare)
        if not self._samples or self._samples[-1][0] - self._samples[0][0] < WARM_S:
            self._advise(job, "", 0.0, snapshot=False)
            return
        model, found = self._load(), signs(series_of(self._samples))
        risk = float(model.probability(found.values, before)[0])
        at_risk = work_at_risk(self._costs, job, 0.0, self._clock.now() - self._wished_at)
        wanted = judge(risk, self._costs, at_risk).action is not Action.NOTHING and self._trusted(model, before, job)
        cause = model.cause(found) if wanted else ""
        self._advise(job - before + max(before, hazard_of_risk(risk, model.horizon_s)), cause, 0.0, snapshot=wanted)
        if wanted:
            self._wished_at = self._clock.now()
            data = {"node": self._node, "probability": risk, "horizon_s": model.horizon_s, "cause": cause}
            self._spool.append(EventKind.RISK, self._generation, {**data, "snapshot": True})

    def _trusted(self, model: ShortLeadModel, node_hazard: float, job_hazard: float) -> bool:
        """Whether the model pays here, by its measured operating point for about this stall; unmeasured, it may try."""
        points = model.score.get("points", ())
        if not points:
            return True
        stall = self._costs.stall_s
        point = min(points, key=lambda one: abs(math.log(one["stall_s"] / stall)))
        at_risk = work_at_risk(self._costs, job_hazard, 0.0, math.inf)
        return pays(point["recall"] or 0.0, point["false_a_node_day"], node_hazard, stall, at_risk)

    def _load(self) -> ShortLeadModel:
        from mofang.recovery.prediction.short_lead import (  # noqa: PLC0415 - only where it predicts
            chosen_short_lead,
            packaged_short_lead,
        )

        if self._model is None:
            try:
                self._model = chosen_short_lead(Path(self._spec.run_dir).parent.parent / "catalog")
            except MofangError:
                self._model = packaged_short_lead()
        return self._model

    def _node_hazard(self, node: int) -> float:
        from mofang.recovery.simulation.faults import packaged_faults  # noqa: PLC0415 - only where it predicts

        here = self._spec.nodes[node]
        if here.hazard_per_s is not None:
            return here.hazard_per_s
        devices = _NODE_DEVICES if here.accelerator == "cpu" else max(len(here.device_indices), 1)
        return devices / packaged_faults().mean_interval_s(1)

    def _advise(self, hazard_per_s: float, cause: str, recall: float, *, snapshot: bool) -> None:
        """Tell the workers, where there is a wish or the hazard is another."""
        changed = not self._told or not 1.0 / _CHANGED < hazard_per_s / self._told < _CHANGED
        if not snapshot and not changed:
            return
        self._serial += 1
        text = {"serial": self._serial, "snapshot": snapshot, "hazard_per_s": hazard_per_s, "recall": recall}
        path = self._directory.advice(self._node)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**text, "cause": cause}), encoding="utf-8")
        temporary.replace(path)  # not synced: after a crash of the machine nobody follows it
        self._told = hazard_per_s

    def _measure_costs(self, rank: int) -> None:
        """Take what snapshots cost from the events of one of the workers."""
        if self._read_of != (rank, self._generation):
            self._read, self._read_of = 0, (rank, self._generation)
        page = read_spool(self._directory.spool(rank, self._generation), self._read)
        self._read = page.offset
        for event in page.events:
            if event.kind is EventKind.SNAPSHOT and event.data.get("count"):
                stall = float(event.data["stall_s"]) / float(event.data["count"])
                self._costs = replace(self._costs, stall_s=max(stall, 1e-3))
