"""``mofang validate``: tables and data, and one clear line for a file that is none."""

import csv
import json

import pytest

from mofang.cli.main import main

ROW = {
    "source_id": "site_runs",
    "source": "our own runs",
    "model": "llama-2-7b",
    "seq_len": "4096",
    "accelerator": "H100",
    "accel_count": "8",
    "accels_per_node": "8",
    "precision": "BF16",
    "task": "pretrain",
    "framework": "Megatron-LM",
    "tp": "1",
    "pp": "1",
    "micro_batch": "1",
    "global_batch": "128",
    "recompute": "none",
    "tokens_per_s_per_gpu": "10500",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def written(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(capsys, *words):
    code = main(["validate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def runs(tmp_path):
    slower = {**ROW, "tp": "8", "tokens_per_s_per_gpu": "8300"}
    unknown = {**ROW, "accelerator": "Abacus 9000"}
    broken = {**ROW, "accel_count": "eight"}
    return written(tmp_path / "runs.csv", ROW, slower, unknown, broken)


def test_data_has_the_promised_shape(capsys, runs):
    code, text, _ = run(capsys, "training", runs, "--leave-one-source-out", "-o", "json")
    data = json.loads(text)
    assert code == 0
    assert data["overall"]["n"] == 2
    assert data["overall"]["median_ape"] < 0.5
    assert data["sources"][0]["source_id"] == "site_runs"
    assert (data["layout"]["groups"], data["layout"]["rows"]) == (1, 2)
    assert data["memory"] == {"n": 0, "median_ape": None}
    assert data["unscored"] == {"accelerator not in the catalogue": 1}
    assert data["broken"][0]["line"] == 5


def test_tables_say_what_was_scored_and_what_was_not(capsys, runs):
    code, text, errors = run(capsys, "training", runs, "--groups")
    assert code == 0
    assert "all rows of this file" in text
    assert "site_runs" in text
    assert "scored by tokens/s 2" in text
    assert "not scored: accelerator not in the catalogue 1" in text
    assert "micro-batch 1" in text
    assert "line 5: accel_count: 'eight' is not a whole number" in errors


def test_a_folder_of_files(capsys, runs):
    code, text, _ = run(capsys, "training", runs.parent, "-o", "json")
    assert code == 0
    assert json.loads(text)["overall"]["n"] == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "empty"), ("a,b\n1,2\n", "neither training nor serving"), ("\x00\x01", "neither training nor serving")],
)
def test_a_file_that_is_none_is_one_line(capsys, tmp_path, content, told):
    path = tmp_path / "odd.csv"
    path.write_text(content)
    code, _, errors = run(capsys, "training", path)
    assert code != 0
    assert told in errors
    assert "Traceback" not in errors


def test_no_such_file(capsys, tmp_path):
    code, _, errors = run(capsys, "training", tmp_path / "none.csv")
    assert code == 2
    assert "no such file or folder" in errors


def test_nothing_to_score(capsys, tmp_path):
    path = written(tmp_path / "none.csv", {**ROW, "tokens_per_s_per_gpu": ""})
    code, _, errors = run(capsys, "training", path)
    assert code != 0
    assert "1 x no speed stated" in errors


def test_both_ways_of_leaving_out_exclude_each_other(capsys, runs):
    code, _, errors = run(capsys, "training", runs, "--leave-one-source-out", "--leave-one-publisher-out")
    assert code == 2
    assert "not allowed with" in errors
