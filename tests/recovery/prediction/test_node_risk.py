"""Node risk: no feature sees the future, scores are as published, planted risks are found, and none where none is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.cli.main import main
from mofang.errors import DataError
from mofang.recovery.prediction import fit_risk, joined, read_fault_logs, sampled, validate_faults
from mofang.recovery.prediction.scores import auprc, auroc, calibration_error, gain_interval


def log(folder, *, lemons=20, days=400, seed=0, begin=0, nodes=400):
    """Write a log in which a few nodes fail ten times as often as the rest."""
    chance = np.random.default_rng(seed)
    rate = np.full(nodes, 0.002)
    rate[:lemons] = 0.03
    rows = [(day, node) for day in range(begin, begin + days) for node in np.flatnonzero(chance.random(nodes) < rate)]
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{day + 0.5},{day + 1},{node},Hardware Failure,GPU,xid\n" for day, node in rows)
    (folder / "faults.csv").write_text("start_day,end_day,node,level,cls,desc\n" + text)
    return folder


@pytest.fixture
def history(tmp_path):
    (found,) = read_fault_logs(log(tmp_path / "log"))
    return found


def test_average_precision_and_auroc_as_by_hand():
    failed = np.array([True, False, True, False, False])
    risk = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    assert auprc(failed, risk) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert auroc(failed, risk) == pytest.approx(5 / 6)
    same = np.zeros(5)
    assert auprc(failed, same) == pytest.approx(0.4)  # a score that tells nothing has the base rate
    assert auroc(failed, same) == pytest.approx(0.5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), many=st.integers(5, 200))
def test_scores_do_not_depend_on_the_order_of_rows_nor_on_the_scale_of_risks(seed, many):
    chance = np.random.default_rng(seed)
    failed = chance.random(many) < 0.3
    failed[:2] = True, False
    risk = chance.integers(0, 6, many).astype(float)
    order = chance.permutation(many)
    for score in (auprc, auroc):
        assert score(failed[order], risk[order]) == pytest.approx(score(failed, risk))
        assert score(failed, 3.0 * risk + 1.0) == pytest.approx(score(failed, risk))
    assert 0.0 <= auprc(failed, risk) <= 1.0


def test_calibration_error_of_known_risks():
    chance = np.random.default_rng(0)
    risk = chance.random(200_000)
    failed = chance.random(200_000) < risk
    assert calibration_error(failed, risk) < 0.005
    assert calibration_error(failed, np.clip(risk + 0.2, 0, 1)) == pytest.approx(0.18, abs=0.02)


def test_a_gain_is_sure_only_where_the_risk_ranks_better_than_the_rule():
    chance = np.random.default_rng(1)
    risk = chance.random(4000)
    failed, unit = chance.random(4000) < 0.1 * risk, np.arange(4000) // 10
    assert gain_interval(failed, risk, chance.random(4000), unit)[0] > 0
    low, high = gain_interval(failed, risk, risk, unit)
    assert low == high == 0.0


def test_what_happens_later_changes_no_feature(history):
    day = 200.0
    later = np.flatnonzero(history.event_day > day)
    moved = replace(history, event_unit=np.where(history.event_day > day, 399 - history.event_unit, history.event_unit))
    assert len(later) > 100
    before, after = (sampled(one) for one in (history, moved))
    known = before.day <= day
    assert np.array_equal(before.features[known], after.features[known])
    assert np.array_equal(before.rules[known], after.rules[known])
    assert not np.array_equal(before.features[~known], after.features[~known])


def test_a_sample_fails_where_a_fault_lies_within_the_horizon(history):
    rows = sampled(history)
    for place in np.random.default_rng(0).integers(0, len(rows), 300):
        unit, day = rows.unit[place], rows.day[place]
        own = history.event_day[history.event_unit == unit]
        assert rows.failed[place] == bool(((own > day) & (own <= day + 7)).any())
        assert rows.rules[place, 1] == (own <= day).sum()


def test_two_parts_of_a_log_tell_what_the_whole_one_does(tmp_path):
    folder = log(tmp_path / "whole", days=400)
    lines = (folder / "faults.csv").read_text().splitlines()
    for name, early in (("first", True), ("second", False)):
        kept = [text for text in lines[1:] if (float(text.split(",")[0]) < 280) == early]
        (tmp_path / name).mkdir()
        (tmp_path / name / "faults.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    (whole,), (first,), (second,) = (read_fault_logs(tmp_path / name) for name in ("whole", "first", "second"))
    one, other = sampled(whole, after=287.0), sampled(joined(first, second), after=287.0)
    assert np.array_equal(one.unit, other.unit)
    assert np.allclose(one.features, other.features, atol=1e-4)
    assert np.array_equal(one.failed, other.failed)
    again = sampled(joined(first, whole), after=287.0)
    assert np.allclose(again.features, other.features, atol=1e-6), "what both parts tell counts once"


def test_devices_may_come_with_the_stays_of_the_whole_time(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    micro, day = pyarrow.timestamp("us"), 86_400_000_000
    places = [f"c{index % 5}-0c0s0n0" for index in range(30)]
    for name, days in (("first", range(60, 200, 4)), ("second", range(200, 300, 4))):
        (tmp_path / name).mkdir()
        events = {
            "ts": pyarrow.array([one * day for one in days], micro),
            "SN": [f"s{one % 30}" for one in days],
            "location": [places[one % 30] for one in days],
            "event": ["DBE"] * len(days),
        }
        stays = {
            "SN": [f"s{index}" for index in range(30)],
            "location": places,
            "insert": pyarrow.array([0] * 30, micro),
            "remove": pyarrow.array([400 * day] * 30, micro),
        }
        parquet.write_table(pyarrow.table(events), tmp_path / name / "events.parquet")
        parquet.write_table(pyarrow.table(stays), tmp_path / name / "stays.parquet")
    (score,) = validate_faults(read_fault_logs(tmp_path / "second"), read_fault_logs(tmp_path / "first"))
    assert (score.name, score.fitted_on) == ("titan", "the earlier logs")
    assert score.n > 0


def test_planted_lemons_are_found_and_beat_recency(tmp_path):
    trained, tested = log(tmp_path / "a", days=300), log(tmp_path / "b", days=200, begin=300, seed=1)
    (score,) = validate_faults(read_fault_logs(tested), read_fault_logs(trained))
    assert score.fitted_on == "the earlier logs"
    assert score.auprc > 3 * score.base_rate
    assert score.auprc >= 0.95 * score.trivial_auprc
    assert score.ece < 0.01


def test_where_all_nodes_are_alike_no_gain_is_claimed(tmp_path):
    trained = log(tmp_path / "a", days=300, lemons=0)
    tested = log(tmp_path / "b", days=300, begin=300, seed=1, lemons=0)
    (score,) = validate_faults(read_fault_logs(tested), read_fault_logs(trained))
    assert not score.pays
    assert score.auroc == pytest.approx(0.5, abs=0.05)


def test_the_fit_finds_the_odds_that_rows_were_drawn_from():
    chance = np.random.default_rng(0)
    features = chance.random((50_000, 1)).astype(np.float32)
    odds = -2.0 + 3.0 * features[:, 0]
    failed = chance.random(50_000) < 1 / (1 + np.exp(-odds))
    model = fit_risk(("x",), features, failed, penalty=1.0)
    found = model.risk(features)
    assert np.abs(found - 1 / (1 + np.exp(-odds))).max() < 0.03


def test_the_command_prints_the_promised_data(tmp_path, capsys):
    trained, tested = log(tmp_path / "a", days=200), log(tmp_path / "b", days=150, begin=200, seed=1)
    assert main(["validate", "faults", str(tested), "--train", str(trained), "-o", "json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["sets"]
    assert {"name", "task", "n", "base_rate", "auprc", "trivial_auprc", "auroc", "ece"} <= set(one)
    assert main(["validate", "faults", str(tested), "--train", str(trained)]) == 0
    assert "stepfun: fault of a node within 7 days: " in capsys.readouterr().out


def test_a_log_without_earlier_ones_is_split_by_time(tmp_path):
    folder = log(tmp_path / "a", days=150)
    (score,) = validate_faults(read_fault_logs(folder), [])
    assert score.fitted_on == "the earlier part of the same log"
    assert score.n < 400 * 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no fault log of a known format"),
        ("a,b\n1,2\n", "no fault log of a known format"),
        ("start_day,end_day,node\nsoon,2,3\n", "is broken"),
        ("start_day,end_day,node\n1,2,three\n", "is broken"),
        ("start_day,end_day,node\n1,2,-3\n", "is broken"),
    ],
)
def test_a_folder_without_logs_is_refused_in_a_line(tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "x.csv").write_text(text)
    assert main(["validate", "faults", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_logs_to_score_must_be_later_than_those_to_train_on(tmp_path):
    one = read_fault_logs(log(tmp_path / "a"))
    with pytest.raises(DataError, match="end on the day"):
        validate_faults(one, one)


@pytest.fixture(scope="module")
def published():
    root = os.environ.get("MOFANG_REFERENCE_DATA")
    if not root:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the published logs are not at hand")
    return read_fault_logs(Path(root, "faults"))


def test_the_published_logs_are_read_as_described(published):
    sets = {one.name: one for one in published}
    assert set(sets) == {"bgl", "lanl", "stepfun", "titan"}
    assert len(sets["bgl"].event_day) == 625
    assert len(sets["stepfun"].event_day) == 349
    assert len(sets["titan"].event_day) == 3853
    assert len(sets["lanl"].event_day) == 16450 - 126  # system 17 names no nodes
    assert len(sets["titan"].stay_unit) == 30246


def test_risk_ranks_devices_and_nodes_better_than_the_trivial_rule(published):
    for one in published:
        if one.name in {"lanl", "titan"}:
            (score,) = validate_faults([one], [])
            assert score.pays, score
            assert score.auprc > 1.2 * score.trivial_auprc
