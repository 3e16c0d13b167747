"""A published training measurement as the estimate sees it: work, pool, one candidate and a framework.

What a source does not state is filled by the field's defaults, always the same way:

=================  ================================================================================================
not stated         taken
=================  ================================================================================================
precision          bf16, else fp16; in benchmark submissions (MLPerf) fp8 where the chip has it; fp32 means tf32 there
tp, pp, ep         the fastest predicted layout that fits the devices' memory, of those that the framework can do
recompute          the least that fits the devices' memory, of what the framework can do
cp, vpp            1
dp                 devices / (tp x pp x cp)
micro-batch        1
sharding           optimiser state sharded where the framework can, else everything where it can, else replicas
global batch       4 million tokens in pre-training, 32 sequences in fine-tuning, rounded to whole micro-batches
sequence           2,048 tokens or the model's longest, whichever is shorter
nodes, links       the catalogue's typical node of the chip
compiled           yes, but for torchtitan and plain PyTorch only where the notes say so
=================  ================================================================================================
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from mofang.catalog.frameworks import frameworks
from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Accelerator, Link, Pool, Precision
from mofang.domain.measurement import TrainingMeasurement
from mofang.domain.model import ModelArchitecture
from mofang.matching.calibration.layout import choose, options
from mofang.matching.calibration.quantity import Speed, speed_of
from mofang.matching.calibration.runs import run_setting
from mofang.matching.calibration.setting import Setting
from mofang.matching.work import Work
from mofang.units import DeviceRequest, Range

__all__ = ["Unscorable", "is_benchmark", "translate"]

_SEQUENCE = 2048


class Unscorable(StrEnum):
    """Why a row cannot be compared with a prediction."""

    PART = "times a part of a model, not a training step"
    MODEL = "no sizes of its model"
    CHIP = "accelerator not in the catalogue"
    COUNT = "number of devices not stated"
    PRECISION = "the catalogue has no peak of the chip in this precision"
    LAYOUT = "stated layout does not multiply to its devices"
    SPEED = "no speed stated"
    TIME = "only the time to a target is stated: ranked, not scored"


def is_benchmark(row: TrainingMeasurement) -> bool:
    """Whether the row is a benchmark submission that times a fixed segment (MLPerf)."""
    return "mlperf" in row.task.casefold()


def translate(row: TrainingMeasurement, catalog: Catalog) -> Setting | Unscorable:
    """Return the row as the estimate sees it, or why it cannot be scored."""
    model, count = row.architecture, row.num_devices
    chip = catalog.accelerator_table.find(row.accelerator)
    if "microbenchmark" in row.task.casefold():
        return Unscorable.PART
    if model is None or chip is None or count is None:
        return Unscorable.MODEL if model is None else Unscorable.CHIP if chip is None else Unscorable.COUNT
    precision = _precision(row, chip)
    if precision is None:
        return Unscorable.PRECISION
    if row.run is not None:
        return run_setting(row, row.run, _pool(row, chip, count, catalog)) or Unscorable.SPEED
    row = replace(row, precision=precision)
    sequence = row.sequence or min(_SEQUENCE, model.max_sequence)
    speed = speed_of(row, model, sequence, catalog)
    return _laid_out(row, model, sequence, speed, _pool(row, chip, count, catalog)) or Unscorable.LAYOUT


def _laid_out(
    row: TrainingMeasurement, model: ModelArchitecture, sequence: int, speed: Speed | None, pool: Pool
) -> Setting | None:
    framework = frameworks().get(row.framework)
    found = options(row, model, pool, framework, sequence)
    if not len(found.candidates):
        return None
    work = Work(model=model, sequence=sequence, global_batch=found.global_batch, steps=1, methods=(row.method,))
    chosen = choose(work, pool, found.candidates, framework)
    return Setting(
        row=row,
        work=work,
        pool=pool,
        candidates=chosen.candidates,
        framework=framework,
        speed=speed,
        step_time=chosen.step_time,
        memory_bytes=chosen.memory_bytes,
        assumed=_assumed(row),
    )


def _precision(row: TrainingMeasurement, chip: Accelerator) -> Precision | None:
    """Return the precision of the products; None where the catalogue knows no peak for it."""
    known = chip.peak_flops
    if row.precision is None:
        wanted = [Precision.FP8] if is_benchmark(row) else []
        return next((one for one in (*wanted, Precision.BF16, Precision.FP16) if one in known), None)
    # fp32 in a published training run means that products of fp32 matrices run on the tensor cores.
    near = {Precision.FP32: (Precision.TF32, Precision.FP32), Precision.BF16: (Precision.BF16, Precision.FP16)}
    return next((one for one in near.get(row.precision, (row.precision,)) if one in known), None)


def _pool(row: TrainingMeasurement, chip: Accelerator, count: int, catalog: Catalog) -> Pool:
    pool = described_pool(DeviceRequest(chip.name, Range(count, count)), catalog)
    stated = row.devices_per_node
    # Where the scale-up link joins several hosts (a rack, a pod), what joins the chips is more than a host.
    if stated is not None and chip.scaleup_domain <= max(stated, 8):
        pool = replace(pool, devices_per_node=stated)
    if row.inter_bandwidth is not None:
        pool = replace(pool, inter=Link(latency_s=pool.inter.latency_s, bandwidth=row.inter_bandwidth))
    return pool


_FILLED = ("precision", "sequence", "tp", "pp", "ep", "sharding", "micro_batch", "global_batch", "recompute")


def _assumed(row: TrainingMeasurement) -> tuple[str, ...]:
    dense = row.architecture is None or row.architecture.moe is None
    return tuple(name for name in _FILLED if getattr(row, name) is None and not (name == "ep" and dense))
