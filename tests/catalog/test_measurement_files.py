"""Files of measurements: broken rows cost themselves, and imports are safe to repeat."""

from __future__ import annotations

import csv
import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import from_jobs, import_measurements, load_serving, load_training
from mofang.catalog.measurements.load import columns
from mofang.catalog.measurements.names import Names
from mofang.catalog.measurements.words import precision_of
from mofang.domain.codec import encode
from mofang.domain.hardware import CPU, Precision
from mofang.domain.plan import Placement
from mofang.domain.scenario import Finetune, Pretrain, Scenario, TextData
from mofang.domain.strategy import Method, Parallelism, Sharding, Strategy
from mofang.errors import CatalogError
from mofang.testing import a_scenario

CATALOG = Catalog.load()
GOOD = {
    "source_id": "mine_1",
    "source": "run 1",
    "model": "llama-3.1-8b",
    "accelerator": "H100",
    "accel_count": "8",
    "seq_len": "8192",
    "global_batch": "16",
    "tokens_per_s_per_gpu": "10000",
}


def training_text(*rows: dict[str, str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns("training"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mine.csv"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"global_batch": "abc"}, "global_batch: 'abc' is not a whole number"),
        ({"global_batch": "0"}, "global_batch: '0' is not at least 1"),
        ({"tp": "2.5"}, "tp: '2.5' is not a whole number"),
        ({"mfu": "38"}, "mfu: '38' is not above 0 and at most 2"),
        ({"tokens_per_s_per_gpu": "-5"}, "tokens_per_s_per_gpu: '-5' is not above 0"),
        ({"tokens_per_s_per_gpu": "nan"}, "tokens_per_s_per_gpu: 'nan' is not a number"),
        ({"step_time_s": "inf"}, "step_time_s: 'inf' is not above 0 and at most 1e+18"),
        ({"model": ""}, "model is empty"),
        ({"accelerator": ""}, "accelerator is empty"),
        ({"notes": "SUSPECT: too fast"}, "marked SUSPECT by whoever collected it"),
        ({"ffn_hidden": "wide"}, "ffn_hidden: 'wide' is not a whole number, or one 'per expert'"),
        ({"heads": "12", "kv_heads": "5"}, "heads must be a multiple of kv_heads"),
    ],
)
def test_a_broken_row_is_named_by_its_line_and_the_others_load(file, change, says):
    file.write_text(training_text(GOOD, GOOD | change, GOOD))
    found = load_training(file, CATALOG)
    assert [row.line for row in found.rows] == [2, 4]
    (problem,) = found.problems
    assert problem.line == 3
    assert says in problem.message
    assert str(problem).startswith(f"{file}, line 3: ")


@settings(max_examples=60, deadline=None)
@given(
    garbage=st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40),
    place=st.integers(0, 3),
)
def test_a_stray_line_costs_no_other(tmp_path_factory, garbage, place):
    file = tmp_path_factory.mktemp("stray") / "mine.csv"
    header, *rows = training_text(*[GOOD | {"source": f"run {number}"} for number in range(3)]).splitlines()
    rows.insert(place, garbage)
    file.write_text("\n".join([header, *rows]), encoding="utf-8", newline="")
    found = load_training(file, CATALOG)
    assert [row.source for row in found.rows] == ["run 0", "run 1", "run 2"]
    assert len(found.problems) == bool(garbage.strip())


def test_a_quoted_cell_may_span_lines(file):
    file.write_text(training_text(GOOD | {"notes": 'first\nsecond, "third"'}, GOOD))
    found = load_training(file, CATALOG)
    assert [row.line for row in found.rows] == [2, 4]
    assert found.rows[0].notes == 'first\nsecond, "third"'


def test_byte_order_mark_compression_and_folders(tmp_path):
    text = training_text(GOOD)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "other.csv").write_text("name,value\n1,2\n")
    (tmp_path / "README.md").write_text("not a table")
    assert len(load_training(tmp_path, CATALOG).rows) == 2
    assert len(load_training([tmp_path / "a.csv", tmp_path / "b.csv.gz"], CATALOG).rows) == 2


def test_files_that_hold_something_else_say_so(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("name,value\n1,2\n")
    with pytest.raises(CatalogError, match="neither training nor serving measurements"):
        load_training(other, CATALOG)
    with pytest.raises(CatalogError, match="no file here holds serving measurements"):
        load_serving(tmp_path, CATALOG)
    training = tmp_path / "training.csv"
    training.write_text(training_text(GOOD))
    with pytest.raises(CatalogError, match="these are training measurements, not serving ones"):
        load_serving(training, CATALOG)
    (tmp_path / "empty.csv").write_text("\n\n")
    with pytest.raises(CatalogError, match="empty"):
        load_training(tmp_path / "empty.csv", CATALOG)
    with pytest.raises(CatalogError, match=r"cannot be read: No such file"):
        load_training(tmp_path / "missing.csv", CATALOG)
    (tmp_path / "latin.csv").write_bytes(b"source_id\nna\xefve\n")
    with pytest.raises(CatalogError, match="line 2: not UTF-8 text"):
        load_training(tmp_path / "latin.csv", CATALOG)
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"source_id\n" * 50)[:-9])
    with pytest.raises(CatalogError, match="cannot be read"):
        load_training(tmp_path / "torn.csv.gz", CATALOG)


def test_serving_rows_marked_as_not_comparable_are_problems(file):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns("serving"), lineterminator="\n")
    writer.writeheader()
    good = {"source_id": "a", "model": "gpt-oss-120b", "accelerator": "MI300X", "ttft_ms": "50", "ep": "on", "tp": "8"}
    writer.writerows([good, good | {"notes": "OPEN DIVISION"}, good | {"notes": "SUSPECT: agg with tp>8"}])
    file.write_text(text.getvalue())
    found = load_serving(file, CATALOG)
    (row,) = found.rows
    assert (row.ep, row.ttft_s) == (8, 0.05)
    assert [problem.line for problem in found.problems] == [3, 4]


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(
        [name for chip in CATALOG.accelerators if chip.name != CPU for name in (chip.name, *chip.aliases)]
    ),
    before=st.sampled_from(["", "NVIDIA ", "AMD Instinct ", "2 x "]),
    after=st.sampled_from(["", " GPU", " HBM3e", " DLC", " (8 in a node)", " 700W"]),
)
def test_chips_are_found_behind_words_that_say_nothing(name, before, after):
    meant = CATALOG.accelerator(name)
    found = Names(CATALOG).chip(f"{before}{name}{after}")
    assert found is not None
    assert found.name == meant.name


@pytest.mark.parametrize("written", ["UNSET", "", "auto", "mixed"])
def test_a_precision_that_nobody_states_is_none(written):
    assert precision_of(written) is None


def test_a_mixture_of_chips_is_none_of_them():
    assert Names(CATALOG).chip("AMD Instinct MI300X (x32), AMD Instinct MI325X (x16)") is None
    assert Names(CATALOG).chip("CPU 2S Intel Xeon EMR") is None


def test_an_import_keeps_each_row_once_and_says_what_it_took(file, tmp_path):
    user = tmp_path / "home" / "catalog"
    file.write_text(training_text(GOOD, GOOD | {"global_batch": "x"}, GOOD | {"accelerator": "Unheard-Of 9000"}))
    first = import_measurements(file, user, CATALOG)
    assert (first.task, first.new, first.known, first.unmatched) == ("training", 2, 0, 1)
    assert [problem.line for problem in first.problems] == [3]
    again = import_measurements(file, user, CATALOG)
    assert (again.new, again.known) == (0, 2)
    file.write_text(training_text(GOOD, GOOD | {"global_batch": "32"}))
    assert import_measurements(file, user, CATALOG).new == 1
    assert len(load_training((), CATALOG, user_dir=user).rows) == 3
    everything = load_training(None, CATALOG, user_dir=user)
    assert len(everything.rows) == len(load_training(None, CATALOG).rows) + 3
    assert load_serving((), CATALOG, user_dir=user).rows == ()
    assert not list(first.kept_in.parent.glob(".*"))


def test_a_folder_that_cannot_be_written_is_one_clear_line(file, tmp_path):
    file.write_text(training_text(GOOD))
    (tmp_path / "catalog").write_text("a file where the folder should be")
    with pytest.raises(CatalogError, match="cannot be written"):
        import_measurements(file, tmp_path / "catalog", CATALOG)


def _row(task: Pretrain | Finetune, strategy: Strategy, step_s: float) -> dict[str, object]:
    placement = Placement(cluster="lab", accelerator="NVIDIA H100-SXM-80GB", num_devices=16, num_nodes=2)
    return {
        "job_id": "0123456789ab",
        "scenario": encode(Scenario(name="mine", task=task)),
        "strategy": encode(strategy),
        "placement": encode(placement),
        "nodes": '["a", "b"]',
        "predicted_step_s": 1.5,
        "measured_step_s": step_s,
        "steps": 200,
    }


def _tasks() -> tuple[Pretrain, Finetune]:
    common = {"model": CATALOG.model("llama-3.1-8b"), "data": TextData(paths=("/data",)), "sequence": 4096}
    return Pretrain(**common, global_batch=32), Finetune(**common, global_batch=32, model_path="/model")


def test_a_finished_job_becomes_a_measurement():
    pretrain, finetune = _tasks()
    full = Strategy(
        parallelism=Parallelism(dp=8, tp=2),
        sharding=Sharding.FSDP,
        precision=Precision.BF16,
        micro_batch=2,
        accumulation=2,
    )
    lora = Strategy(method=Method.LORA, parallelism=Parallelism(dp=16), sharding=Sharding.DDP, micro_batch=2)
    other = _row(pretrain, full, 2.0) | {"scenario": encode(a_scenario())}
    torn = _row(pretrain, full, 2.0) | {"strategy": "{}x"}
    found = from_jobs([_row(pretrain, full, 2.0), other, torn, _row(finetune, lora, 1.0)])
    assert [row.task for row in found] == ["pretrain", "lora"]
    row = found[0]
    assert row.source_id == "own_0123456789ab"
    assert row.accelerator == "NVIDIA H100-SXM-80GB"
    assert (row.num_devices, row.devices_per_node) == (16, 8)
    assert (row.tp, row.dp, row.global_batch, row.micro_batch) == (2, 8, 32, 2)
    assert row.tokens_per_s_per_device == 32 * 4096 / 2.0 / 16
    assert row.architecture == pretrain.model
    assert "predicted 1.5 s" in row.notes
