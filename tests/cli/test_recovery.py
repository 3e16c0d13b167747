"""``mofang recovery``: models of one's own are kept where they beat the trivial rule, and used from then on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mofang.cli.main import main


def log(folder, *, spread: float, nodes: int = 300, days: int = 500, seed: int = 0):
    """Write faults of nodes whose rates differ by a factor."""
    chance = np.random.default_rng(seed)
    rate = 0.004 * np.exp(spread * chance.standard_normal(nodes))
    rows = [(day, node) for day in range(days) for node in np.flatnonzero(chance.random(nodes) < rate)]
    folder.mkdir(parents=True)
    text = "".join(f"{day + 0.5},{day + 1},{node}\n" for day, node in rows)
    (folder / "faults.csv").write_text("start_day,end_day,node\n" + text)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))


def test_a_model_that_is_no_better_than_the_rule_is_not_kept(tmp_path, capsys):
    folder = log(tmp_path / "logs", spread=0.0)
    assert main(["recovery", "train", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "not recommended" in said
    assert not (tmp_path / "home" / "catalog").exists()


def test_a_model_that_is_kept_is_used_to_rank(tmp_path, capsys):
    folder = log(tmp_path / "logs", spread=1.5)
    assert main(["recovery", "train", str(folder), "--force", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] == [str(tmp_path / "home" / "catalog" / "node_risk.json")]
    assert {"auprc", "trivial_auprc", "base_rate", "gain_95", "ece", "pays"} <= set(told["sets"][0])
    assert main(["recovery", "risk", str(folder), "--top", "5", "-o", "json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["sets"]["stepfun"]
    assert len(ranked) == 5
    risks = [one["probability"] for one in ranked]
    assert risks == sorted(risks, reverse=True)
    assert risks[0] > 0.05


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "nowhere"], "is no folder"),
        (["risk", "."], "no fault log of a known format"),
        (["forget", "."], "invalid choice"),
    ],
)
def test_what_cannot_be_learned_from_is_told_in_a_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["recovery", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_runs_with_few_faults_leave_the_packaged_model_in_use(tmp_path, capsys):
    attempt = tmp_path / "runs" / "j" / "attempt-0001"
    (attempt / "spool").mkdir(parents=True)
    (attempt / "telemetry-00.csv").write_text("\ntime,cpu.busy\n1.0,0.5\n2.0,0.5\n")
    assert main(["recovery", "train", str(tmp_path / "runs")]) == 2
    assert "0 faults" in capsys.readouterr().err
