"""``mofang simulate recovery``: a table, data, a picture, and one clear line for what cannot be."""

import json

import pytest

from mofang.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("NO_COLOR", "1")


def run(capsys, *words):
    code = main(["simulate", "recovery", "--runs", "4", "--days", "5", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_names_every_practice_for_each_size(capsys):
    code, text, _ = run(capsys, "--gpus", "1k", "--gpus", "10000")
    assert code == 0
    assert text.count("simulated: ") == 2
    for name in ("today", "automatic", "memory", "predicting"):
        assert text.count(f"\n{name} ") == 2
    assert "does not hold" in text  # today's practice at 10,000 devices is beyond the first order


def test_data_says_that_it_is_simulated_and_what_is_lost_to_what(capsys):
    code, text, _ = run(capsys, "--practice", "memory", "--spares", "3", "-o", "json")
    data = json.loads(text)
    assert code == 0
    assert data["simulated"] is True
    (one,) = data["studies"]
    assert one["practice"] == "memory"
    assert one["spares"] == 3
    assert 1.0 - sum(one["losses"].values()) == pytest.approx(one["ettr"])
    assert one["ettr_95"][0] < one["ettr"] < one["ettr_95"][1]


def test_a_sweep_takes_each_delay_in_turn_and_longer_ones_cost_more(capsys):
    _, text, _ = run(capsys, "--practice", "memory", "--sweep", "restart_s=1s,5m,1h", "--runs", "30", "-o", "json")
    ratios = [one["ettr"] for one in json.loads(text)["studies"]]
    assert len(ratios) == 3
    assert ratios == sorted(ratios, reverse=True)


def test_a_delay_that_is_set_holds_for_all_practices(capsys):
    _, text, _ = run(capsys, "--set", "interval_s=10m", "-o", "json")
    assert {one["interval_s"] for one in json.loads(text)["studies"]} == {600.0}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written(capsys, tmp_path, suffix):
    code, _, _ = run(capsys, "--gpus", "1000", "--gpus", "4000", "--plot", tmp_path / f"waste.{suffix}")
    assert code == 0
    assert (tmp_path / f"waste.{suffix}").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--practice", "memry"], "did you mean 'memory'?"),
        (["--sweep", "detct_s=3s"], "did you mean 'detect_s'?"),
        (["--set", "detect_s="], "gives detect_s no time"),
        (["--set", "interval_s=0s"], "gives interval_s no time"),
        (["--gpus", "many"], "'many' is not a count"),
        (["--gpus", "0"], "between 1 and"),
        (["--runs", "1"], "between 2 and"),
        (["--plot", "waste.txt"], "a picture ends with"),
        (["--plot", "nowhere/waste.png"], "no such folder"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(capsys, words, said):
    code, text, error = run(capsys, *words)
    assert code == 2
    assert text == ""
    assert said in error
    assert "Traceback" not in error
