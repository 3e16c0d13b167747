"""The short-lead model: signs that are zero in peace and see trouble, odds at a site's own rate, traces kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import SystemClock
from mofang.domain.events import EventKind
from mofang.errors import DataError
from mofang.recovery.policy import Costs
from mofang.recovery.prediction.short_lead import FEATURES, chosen_short_lead, packaged_short_lead, signs
from mofang.recovery.prediction.short_lead import inject as injecting
from mofang.recovery.prediction.short_lead.evaluation import Site, evaluate, fit_rows, rows_of
from mofang.recovery.prediction.short_lead.model import fit_short_lead, load_short_lead, short_lead_text
from mofang.recovery.prediction.short_lead.recorded import attempts_below, recorded_traces
from mofang.recovery.prediction.short_lead.simulated import KINDS, simulate_trace
from mofang.recovery.prediction.short_lead.traces import NO_FAULT, read_traces, write_traces
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import SpoolWriter
from mofang.recovery.telemetry import SeriesWriter
from mofang.recovery.telemetry.series import Series


def steady(many: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)

    def near(value: float, spread: float) -> np.ndarray:
        return value + spread * chance.standard_normal(many)

    return {
        "rank.0.step_s": near(1.0, 0.02),
        "rank.1.step_s": near(1.0, 0.02),
        "rank.0.busy_s": near(0.8, 0.02),
        "rank.1.busy_s": near(0.8, 0.02),
        "rank.0.silent_s": near(0.5, 0.1),
        "memory.available": near(6e11, 1e8),
        "memory.total": np.full(many, 1e12),
        "pressure.cpu": near(0.05, 0.01),
        "disk.latency_s": near(0.001, 0.0001),
        "device.0.temperature": near(65.0, 0.5),
        "device.0.clock": near(1755.0, 2.0),
        "device.0.ecc_corrected": np.zeros(many),
        "xid": np.zeros(many),
        "silent.nvidia": np.zeros(many),
    }


def found(columns: dict[str, np.ndarray]) -> dict[str, tuple[float, str]]:
    many = len(next(iter(columns.values())))
    all_signs = signs(Series(time=np.arange(float(many)), columns=columns))
    return {name: (float(all_signs.values[at]), all_signs.columns[at]) for at, name in enumerate(FEATURES)}


def test_in_peace_there_are_no_signs():
    assert max(value for value, _ in found(steady()).values()) < 0.15


late = np.clip((np.arange(200) - 170) / 30.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "column", "change"),
    [
        ("steps take longer", "rank.1.step_s", lambda x: x * (1 + late)),
        ("steps are uneven", "rank.0.step_s", lambda x: x * np.where(np.arange(200) % 2, 1 + late, 1.0)),
        ("a rank is behind the others", "rank.1.busy_s", lambda x: x * (1 + late)),
        ("tasks wait for the machine", "pressure.cpu", lambda x: x + 0.6 * late),
        ("the disk is slower", "disk.latency_s", lambda x: x * (1 + 50 * late)),
        ("memory is running out", "memory.available", lambda x: x * (1 - 0.6 * late)),
        ("memory is scarce", "memory.available", lambda x: x * (1 - 0.9 * late)),
        ("corrected errors", "device.0.ecc_corrected", lambda x: x + np.cumsum(late)),
        ("corrected errors grow", "device.0.ecc_corrected", lambda x: x + np.cumsum(late**4) * 5),
        ("uncorrected errors", "xid", lambda x: x + (late > 0.5)),
        ("heat", "device.0.temperature", lambda x: x + 22 * late),
        ("clocks fell", "device.0.clock", lambda x: x * (1 - 0.4 * late)),
        ("something is silent", "silent.nvidia", lambda x: x + 20 * late),
    ],
)
def test_each_trouble_raises_its_own_sign_and_names_its_column(name, column, change):
    columns = steady()
    columns[column] = change(columns[column])
    value, where = found(columns)[name]
    assert value > 0.2
    assert where == column


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), many=st.integers(1, 120), missing=st.floats(0.0, 1.0))
def test_whatever_is_missing_signs_are_finite_and_bounded(seed, many, missing):
    chance = np.random.default_rng(seed)
    columns = {
        name: np.where(chance.random(many) < missing, np.nan, column * chance.choice([0.0, 1.0, -1.0, 1e6]))
        for name, column in steady(many, seed).items()
    }
    for value, _ in found(columns).values():
        assert 0.0 <= value <= 5.0


def test_no_sign_depends_on_what_comes_later():
    trace = simulate_trace("heat", 7)
    until = len(trace.series) - 40
    assert np.array_equal(
        signs(trace.series.part(0, until)).values,
        signs(
            replace(trace.series, columns={k: v.copy() for k, v in trace.series.columns.items()}).part(0, until)
        ).values,
    )
    rows, cut = rows_of(trace), rows_of(replace(trace, series=trace.series.part(0, until)))
    assert np.array_equal(rows.values[: len(cut.time)], cut.values)


@pytest.fixture(scope="module")
def rows():
    kinds = ["heat", "memory errors", "abrupt", NO_FAULT]
    traces = [simulate_trace(kind, 100 * run + place) for run in range(4) for place, kind in enumerate(kinds)]
    return [rows_of(replace(one, series=one.series.part(max(len(one.series) - 250, 0), 2000))) for one in traces]


def test_a_row_is_failing_where_the_fault_is_within_the_horizon(rows):
    for one in rows:
        assert one.failing.any() == one.trace.failed
        assert np.array_equal(one.failing, (one.trace.end - one.time <= 60.0) & one.trace.failed)


def test_a_site_with_rarer_faults_believes_an_alarm_less(rows):
    model = fit_rows(rows)
    values = np.concatenate([one.values for one in rows])
    same = -np.log1p(-model.base_rate) / model.horizon_s  # as often as in the traces: the odds are those of the fit
    often, rare = (model.probability(values, hazard) for hazard in (same, same / 1000))
    assert (rare <= often + 1e-12).all()
    failing = np.concatenate([one.failing for one in rows])
    assert often.mean() == pytest.approx(failing.mean(), abs=0.01)
    assert (rare / (1 - rare) / (often / (1 - often))).std() < 1e-9


def test_kinds_that_announce_themselves_are_seen_and_others_are_not(rows):
    site = Site(node_hazard_per_s=1e-5, nodes=10, costs=Costs(stall_s=0.05))
    score = evaluate(rows, [site])
    assert score["seeds_held_apart"]["auprc"] > 2 * score["seeds_held_apart"]["base_rate"]
    (point,) = score["points"]
    assert point["faults"] == 12
    assert point["by_kind"]["memory errors"]["recall"] > point["by_kind"]["abrupt"]["recall"]
    assert point["by_kind"]["abrupt"]["recall"] < 0.3


def test_a_model_is_the_same_after_it_was_written(rows):
    model = fit_rows(rows)
    again = load_short_lead(short_lead_text(model), "x")
    values = np.concatenate([one.values for one in rows])
    assert np.allclose(model.odds_ratio(values), again.odds_ratio(values), rtol=0.02)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"risk": {}}'])
def test_what_is_no_model_is_refused(tmp_path, text):
    (tmp_path / "short_lead.json").write_text(text)
    with pytest.raises(DataError):
        chosen_short_lead(tmp_path)


def test_a_fit_needs_both_kinds_of_rows():
    with pytest.raises(DataError):
        fit_short_lead(np.zeros((5, len(FEATURES))), np.zeros(5, dtype=bool))


def test_the_packaged_model_says_that_it_is_synthetic_and_how_good_it_is(tmp_path):
    model = chosen_short_lead(tmp_path)
    assert model == packaged_short_lead()
    assert "synthetic" in model.provenance
    assert {"rows", "auprc", "trivial_auprc", "ece"} <= set(model.score["seeds_held_apart"])
    assert model.score["seeds_held_apart"]["auprc"] > model.score["seeds_held_apart"]["trivial_auprc"]
    calm = signs(Series(time=np.arange(200.0), columns=steady()))
    assert model.probability(calm.values, 4.9e-8)[0] < 1e-5


def test_traces_are_read_as_they_were_written(tmp_path):
    traces = [simulate_trace(kind, 3) for kind in list(KINDS)[:2]]
    write_traces(tmp_path / "t.gz", traces)
    for one, again in zip(traces, read_traces(tmp_path / "t.gz"), strict=True):
        assert (one.fault, one.source, one.seed) == (again.fault, again.source, again.seed)
        assert again.end == pytest.approx(one.end)
        for name, column in one.series.columns.items():
            assert np.allclose(column, again.series.columns[name], rtol=1e-4, atol=1e-6, equal_nan=True)
    (tmp_path / "t.gz").write_bytes(b"no")
    with pytest.raises(DataError):
        read_traces(tmp_path / "t.gz")


def test_runs_become_traces_that_end_where_a_machine_failed(tmp_path):
    directory = AttemptDir(tmp_path / "runs" / "job" / "attempt-0001")
    directory.prepare()
    for node in (0, 1):
        writer = SeriesWriter(directory.telemetry(node))
        for second in range(300):
            writer.append(float(second), {"cpu.busy": 0.5})

    class At:
        def __init__(self) -> None:
            self.time = 0.0

        def now(self) -> float:
            return self.time

    clock = At()
    spools = [
        SpoolWriter(directory.agent_spool(node), job_id="j", attempt=1, source=f"agent-0{node}", clock=clock)
        for node in (0, 1)
    ]
    said = [
        (0.0, 0, EventKind.GENERATION_STARTED, 1, {}),
        (100.0, 1, EventKind.WORKER_EXITED, 1, {"rank": 1, "exit_code": None, "signal": 9}),
        (101.0, 0, EventKind.WORKER_EXITED, 1, {"rank": 0, "exit_code": 1, "signal": None}),
        (102.0, 0, EventKind.GENERATION_ENDED, 1, {"reason": "worker-killed"}),
        (110.0, 0, EventKind.GENERATION_STARTED, 2, {}),
        (250.0, 0, EventKind.GENERATION_ENDED, 2, {"reason": "worker-failed"}),
    ]
    for time, node, kind, generation, data in said:
        clock.time = time
        spools[node].append(kind, generation, data)
    (path,) = attempts_below(tmp_path / "runs")
    traces = recorded_traces([path])
    assert [(one.fault, one.end, one.series.time[0]) for one in traces] == [
        (NO_FAULT, 99.0, 0.0),  # node 0: its worker ended because the other did
        (NO_FAULT, 249.0, 110.0),
        ("worker-killed", 100.0, 0.0),
        (NO_FAULT, 249.0, 110.0),  # the program failed by itself
    ]


@pytest.mark.serial
def test_a_real_straggler_is_recorded_and_seen(monkeypatch):
    monkeypatch.setattr(injecting, "_QUIET_S", (90.0, 91.0))
    monkeypatch.setattr(injecting, "_LENGTH_S", (40.0, 41.0))
    trace = injecting.inject("straggler", 5, SystemClock())
    assert trace.failed
    assert trace.end == pytest.approx(131.0, abs=15.0)
    last = dict(zip(FEATURES, signs(trace.series).values, strict=True))
    assert last["steps take longer"] > 0.2
    assert last["a rank is behind the others"] > 0.2
