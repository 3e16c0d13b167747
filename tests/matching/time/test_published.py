"""Physics alone beside published runs: absolute times in wide bands, and above all which layout is faster.

Nothing here is calibrated. The rows are those that the package carries.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.domain.measurement import TrainingMeasurement
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.translate import translate
from mofang.matching.estimate import estimate

# Sources with rows that differ only in the layout, which they state.
LAYOUTS = (
    "flagperf_aquila2_7b",
    "flagperf_aquila2_7b_ft",
    "flagperf_llama2_70b",
    "flagperf_paddle",
    "bigscience_tr11_topology",
    "korthikanti_table5",
    "megatron_sc21_table2_zero3_vs_ptd",
    "mbridge_skill_memory",
)


@dataclass(frozen=True)
class Pair:
    """Tokens/s a device: predicted and measured."""

    row: TrainingMeasurement
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


@cache
def _rows() -> tuple[TrainingMeasurement, ...]:
    return tuple(load_training(None, Catalog.load()).rows)


def _pair(row: TrainingMeasurement) -> Pair | None:
    found = translate(row, Catalog.load())
    if not isinstance(found, Setting) or found.speed is None:
        return None
    work = replace(found.work, fused_attention=row.flash_attention is not False)
    step = float(estimate(work, found.pool, found.candidates, found.framework).step_time[0])
    return Pair(row, found.tokens_per_s(step), found.speed.tokens_per_s_per_device)


@cache
def _source(*names: str) -> tuple[Pair, ...]:
    pairs = (_pair(row) for row in _rows() if row.source_id in names)
    return tuple(pair for pair in pairs if pair is not None)


def _groups() -> list[list[Pair]]:
    groups = defaultdict(list)
    for pair in _source(*LAYOUTS):
        row = pair.row
        key = (row.source_id, row.model, row.accelerator_text, row.num_devices, row.sequence, row.global_batch)
        groups[(*key, row.precision_text, row.task)].append(pair)
    merged = [_merged(group) for group in groups.values()]
    return [group for group in merged if len(group) > 1]


def _merged(group: Sequence[Pair]) -> list[Pair]:
    """Rows of one layout differ in something that no column holds: they are one alternative, at its mean speed."""
    alike = defaultdict(list)
    for pair in group:
        alike[_layout(pair.row)].append(pair)
    return [replace(pairs[0], measured=statistics.mean(pair.measured for pair in pairs)) for pairs in alike.values()]


def _layout(row: TrainingMeasurement) -> tuple[object, ...]:
    return row.tp, row.pp, row.cp, row.ep, row.vpp, row.micro_batch, row.recompute, row.sharding


def _concordant(group: Sequence[Pair]) -> list[bool]:
    return [
        (one.predicted - other.predicted) * (one.measured - other.measured) > 0
        for one, other in itertools.combinations(group, 2)
        if one.measured != other.measured
    ]


def test_the_faster_layout_is_known(record_property: Callable[[str, object], None]):
    groups = _groups()
    assert len(groups) >= 20
    regrets = [1 - max(group, key=lambda p: p.predicted).measured / max(p.measured for p in group) for group in groups]
    agreed = [same for group in groups for same in _concordant(group)]
    record_property("concordance", statistics.mean(agreed))
    assert statistics.mean(regrets) <= 0.05
    assert statistics.mean(agreed) >= 0.8


def test_calculons_points_within_a_tenth():
    """The runs that Calculon was validated on (arXiv:2205.05198, table 5), fully and selectively recomputed."""
    pairs = _source("korthikanti_table5")
    assert len(pairs) == 9
    assert all(0.9 < pair.ratio < 1.1 for pair in pairs), [round(pair.ratio, 3) for pair in pairs]


def test_eight_a800_by_layout():
    """FlagPerf, Aquila2-7B: 3937 by data, 3468 by all three, 2866 by tensor, 2094 by pipeline parallelism."""
    pairs = _source("flagperf_aquila2_7b")
    best = max(pairs, key=lambda pair: pair.measured)
    assert max(pairs, key=lambda pair: pair.predicted) is best
    for pair in pairs:
        assert pair.predicted / best.predicted == pytest.approx(pair.measured / best.measured, rel=0.45)


def test_sharding_everything_falls_behind_where_the_batch_stays():
    """arXiv:2104.04473, table 2: from 384 to 1536 devices ZeRO-3 falls from 144 to 44 TFLOP/s, PTD from 153 to 141."""
    rows = [pair for pair in _source("megatron_sc21_table2_zero3_vs_ptd") if "175" in pair.row.model]
    sharded = sorted((p for p in rows if p.row.tp == 1), key=lambda p: p.row.num_devices or 0)
    cut = sorted((p for p in rows if p.row.tp == 8), key=lambda p: p.row.num_devices or 0)
    assert 0.2 < sharded[-1].predicted / sharded[0].predicted < 0.45
    assert 0.85 < cut[-1].predicted / cut[0].predicted < 0.97


def test_seventy_billion_on_32_h100():
    """Megatron-Bridge: tensor parallelism of 8 instead of 4 costs 28 %, twice the stages 6 %."""
    rows = {(p.row.tp, p.row.pp): p for p in _source("mbridge_skill_memory") if p.row.recompute is None}
    base = rows[4, 4].predicted
    assert 0.65 < rows[8, 4].predicted / base < 0.93
    assert 0.85 < rows[4, 8].predicted / base < 1.0


@pytest.mark.parametrize("source", ["dgxc_llama31_70b", "dgxc_gpt3_175b", "dgxc_nemotron4_15b"])
def test_weak_scaling_loses_little(source: str):
    for precision in ("BF16", "FP8"):
        pairs = [pair for pair in _source(source) if pair.row.precision_text == precision]
        ends = sorted(pairs, key=lambda pair: pair.row.num_devices or 0)
        assert ends[-1].predicted / ends[0].predicted == pytest.approx(ends[-1].measured / ends[0].measured, abs=0.06)


def test_nvidia_rows_lie_near(catalog: Catalog, record_property: Callable[[str, object], None]):
    rows = [row for row in _rows() if row.accelerator and catalog.accelerator(row.accelerator).vendor == "NVIDIA"]
    pairs = [pair for row in rows[::12] if (pair := _pair(row)) is not None]
    errors = [abs(pair.ratio - 1) for pair in pairs]
    record_property("median", statistics.median(errors))
    assert len(errors) > 40
    assert statistics.median(errors) < 0.25
    assert 0.8 < statistics.median(pair.ratio for pair in pairs) < 1.25
