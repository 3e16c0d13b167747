"""``mofang catalog measurements``, ``import`` and ``prices``."""

from __future__ import annotations

import json

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.cli import measurements
from mofang.cli.main import main
from mofang.domain.codec import encode
from mofang.domain.plan import Placement
from mofang.domain.scenario import Pretrain, Scenario, TextData
from mofang.domain.strategy import Strategy
from mofang.testing import a_scenario

HEADER = "source_id,source,model,accelerator,accel_count,tokens_per_s_per_gpu,global_batch\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOFANG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


def run(capsys, *words):
    code = main(["catalog", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("task", ["training", "serving"])
def test_the_table_fits_and_says_how_many_there_are(capsys, task):
    code, text, _ = run(capsys, "measurements", "--task", task)
    assert code == 0
    first, *_, last = text.splitlines()
    assert f"{task} measurements of" in first
    assert "name no chip of the catalogue" in first
    assert "more: `--limit 0` shows all" in last
    assert max(map(len, text.splitlines())) <= 100


def test_filters_choose(capsys):
    _, text, _ = run(capsys, "measurements", "--model", "Llama-3.1-70B", "--accelerator", "h100", "-o", "json")
    rows = json.loads(text)
    assert len(rows) >= 12
    assert {row["accelerator"] for row in rows} == {"NVIDIA H100-SXM-80GB"}
    assert {row["architecture"]["name"] for row in rows} == {"llama-3.1-70b"}
    _, text, _ = run(capsys, "measurements", "--framework", "maxtext", "--limit", "0")
    assert "TPU v5e" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("measurements", "--model", "no-such-model"), "no measurement has --model 'no-such-model'"),
        (("accelerators", "--model", "x"), "--model goes with `mofang catalog measurements`"),
        (("measurements", "--limit", "-1"), "--limit cannot be negative"),
        (("measurements", "--task", "cooking"), "invalid choice"),
        (("import",), "import what?"),
        (("import", "/no/such/file.csv"), "cannot be read: No such file"),
        (("prices", "H100"), "one word too many"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(capsys, words, says):
    code, text, errors = run(capsys, *words)
    assert code == 2
    assert text == ""
    assert says in errors.splitlines()[0]
    assert errors.count("\n") <= 2


def test_an_import_takes_the_good_rows_and_names_the_others(capsys, home, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(f"{HEADER}lab_1,run 1,llama-3.1-8b,H100,8,9000,16\nlab_1,run 2,llama-3.1-8b,H100,8,9000,abc\n")
    code, text, errors = run(capsys, "import", str(file))
    assert code == 0
    assert "1 new training measurements" in text
    assert "line 3: global_batch: 'abc' is not a whole number" in errors
    assert (home / "catalog" / "measurements" / "training.csv").exists()
    _, text, _ = run(capsys, "import", str(file), "-o", "json")
    assert json.loads(text)["new"] == 0
    _, text, _ = run(capsys, "measurements", "--limit", "1")
    assert "lab_1" in text


def test_what_mofang_measured_itself_comes_first(capsys, home, monkeypatch):
    home.mkdir(parents=True)
    (home / "mofang.db").touch()
    monkeypatch.setattr(
        measurements, "connect", lambda: _Client([_own_row(), _own_row() | {"scenario": encode(a_scenario())}])
    )
    _, text, _ = run(capsys, "measurements", "--limit", "1", "--framework", "gpt", "-o", "json")
    (row,) = [row for row in json.loads(text) if row["source_id"].startswith("own_")]
    assert row["tokens_per_s_per_device"] == 8 * 128 / 0.5 / 4


class _Client:
    def __init__(self, rows):
        self._rows = rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def measurements(self):
        return self._rows


def _own_row():
    task = Pretrain(
        model=Catalog.load().model("gpt2"), data=TextData(paths=("/data",)), sequence=128, global_batch=8, steps=10
    )
    return {
        "job_id": "00ff",
        "scenario": encode(Scenario(name="mine", task=task)),
        "strategy": encode(Strategy(micro_batch=8, threads=4)),
        "placement": encode(Placement(cluster="local", accelerator="cpu", num_devices=4, num_nodes=1)),
        "nodes": '["here"]',
        "predicted_step_s": None,
        "measured_step_s": 0.5,
        "steps": 10,
    }


def test_prices_are_listed_with_their_providers(capsys):
    code, text, _ = run(capsys, "prices")
    assert code == 0
    assert "USD a device and hour" in text
    assert "CoreWeave" in text
    assert max(map(len, text.splitlines())) <= 100
    _, text, _ = run(capsys, "prices", "-o", "json")
    assert all(price["per_hour"] > 0 and price["offers"] for price in json.loads(text))
