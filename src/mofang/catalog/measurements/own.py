"""What Mofang's own jobs measured, as measurements like any other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from mofang.domain.codec import decode
from mofang.domain.measurement import Run, TrainingMeasurement
from mofang.domain.plan import Placement
from mofang.domain.scenario import Finetune, Pretrain, Scenario
from mofang.domain.strategy import Method, Strategy
from mofang.errors import StoreError

__all__ = ["from_jobs"]

_log = logging.getLogger(__name__)


def from_jobs(rows: Iterable[Mapping[str, Any]]) -> tuple[TrainingMeasurement, ...]:
    """Return the training measurements among the rows that the store keeps of finished jobs.

    Args:
        rows: ``job_id``, ``scenario``, ``strategy``, ``placement`` and ``nodes`` as JSON text, ``measured_step_s``
            (seconds), ``predicted_step_s`` (or None) and ``steps``. Jobs that train no language model are left out,
            and so, with a line in the log, are rows of a version that wrote other fields.
    """
    found = []
    for row in rows:
        try:
            one = _measurement(row)
        except StoreError as error:
            _log.warning("the measurement of job %s cannot be read: %s", row["job_id"], error.message)
            continue
        if one is not None:
            found.append(one)
    return tuple(found)


def _measurement(row: Mapping[str, Any]) -> TrainingMeasurement | None:
    task = decode(Scenario, row["scenario"]).task
    if not isinstance(task, Pretrain | Finetune):
        return None
    strategy, placement = decode(Strategy, row["strategy"]), decode(Placement, row["placement"])
    layout, step = strategy.parallelism, row["measured_step_s"]
    return TrainingMeasurement(
        source_id=f"own_{row['job_id']}",
        source=f"job {row['job_id']} on {', '.join(json.loads(row['nodes']))}, {row['steps']} steps",
        line=0,
        model=task.model.name,
        architecture=task.model,
        accelerator=placement.accelerator,
        accelerator_text=placement.accelerator,
        num_devices=placement.num_devices,
        devices_per_node=placement.devices_per_node,
        framework=strategy.framework,
        framework_text=strategy.framework,
        task=_task(task, strategy),
        method=strategy.method,
        precision=strategy.precision,
        precision_text=strategy.precision.value,
        sequence=task.sequence,
        tp=layout.tp,
        pp=layout.pp,
        cp=layout.cp,
        ep=layout.ep,
        dp=layout.dp,
        vpp=layout.vpp,
        sharding=strategy.sharding,
        micro_batch=strategy.micro_batch,
        global_batch=strategy.global_batch,
        recompute=strategy.recompute,
        tokens_per_s_per_device=strategy.global_batch * task.sequence / step / placement.num_devices,
        step_time_s=step,
        notes=_notes(strategy, row["predicted_step_s"]),
        run=Run(task=task, strategy=strategy, cluster=placement.cluster),
    )


def _task(task: Pretrain | Finetune, strategy: Strategy) -> str:
    if isinstance(task, Pretrain):
        return "pretrain"
    return "sft" if strategy.method is Method.FULL else strategy.method.value


def _notes(strategy: Strategy, predicted: float | None) -> str:
    parts = [f"{strategy.threads} threads a worker" if strategy.threads > 1 else "", "compiled" * strategy.compile]
    parts.append("" if predicted is None else f"predicted {predicted:.4g} s a step")
    return "; ".join(part for part in parts if part)
