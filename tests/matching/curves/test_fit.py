"""The packaged numbers come out of the script, and rows that cannot be what they say stay out."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mofang.catalog.knowledge import Catalog
from mofang.errors import DataError
from mofang.matching.curves.families import form_of, limits_of
from mofang.matching.curves.fit import fit_all, fit_table, main
from mofang.matching.curves.packaged import fits, fits_from
from mofang.matching.curves.quality import quality_tables
from mofang.matching.curves.readings import Reading, columns, possible
from mofang.matching.curves.relatives import Kin, relatives
from mofang.matching.curves.sources import read_operators

HEADER = "accelerator,op,shape,dtype,n_gpus,time_us,rate,rate_unit,kernel,source\n"
CHIP = Catalog.load().accelerator("h100")


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the folder with op_measurements.csv")
    return Path(folder) / "op_measurements.csv"


def test_refitting_a_chip_gives_the_packaged_numbers(reference: Path) -> None:
    rows = [row for row in read_operators(reference, Catalog.load()) if row.accelerator.name == "NVIDIA A40"]
    for (name, family), table in columns(possible(rows)[0]).items():
        fit, packaged = fit_table(table), fits().fits[family][name]
        assert fit["points"] == packaged.points
        assert fit["sources"] == list(packaged.sources)
        assert fit["parameters"] == pytest.approx(dict(packaged.parameters), rel=0.02)
        assert fit["median_error"] == pytest.approx(packaged.median_error, abs=0.002)


def test_the_targets_are_met() -> None:
    """Median error of products at most 10 %, of attention at most 15 %, shapes held out at most a little more."""
    for family, limit in (("matmul/", 0.10), ("attention-", 0.15)):
        found = [fit for name, chips in fits().fits.items() if name.startswith(family) for fit in chips.values()]
        assert max(fit.median_error for fit in found) <= limit
        assert np.median([fit.held_out_median_error for fit in found]) <= limit


def test_farther_relatives_are_less_certain() -> None:
    for levels in fits().borrowing.values():
        assert 0 < levels["architecture"] <= levels["vendor"] <= levels["other"]


def reading(m: float, seconds: float, **changes: object) -> Reading:
    limits = limits_of(CHIP, "bf16")
    shape = {"m": m, "n": 4096.0, "k": 4096.0, "weight_bytes": 2.0, "activation_bytes": 2.0}
    made = Reading(
        accelerator=CHIP,
        family="matmul/bf16",
        limits=limits,
        shape=shape,
        group=f"{m}",
        seconds=seconds,
        source="made",
        floor=4096**2 * 2 / limits.bandwidth,
    )
    return replace(made, **changes)


def test_a_fit_finds_the_parameters_that_made_the_timings() -> None:
    form, limits = form_of("matmul/bf16"), limits_of(CHIP, "bf16")
    truth = np.array([6e-6, 0.7, 0.8, 60.0, 300.0, 200.0, 4.0, 1e12, 0.05, 0.03])
    shapes = [
        {"m": 2.0**power, "n": n, "k": k, "weight_bytes": 2.0, "activation_bytes": 2.0}
        for power in range(15)
        for n in (1024.0, 8192.0)
        for k in (1024.0, 8192.0)
    ]
    rows = [reading(1.0, float(form.seconds(truth, limits, shape)), shape=shape) for shape in shapes]
    fit = fit_table(columns(rows)[CHIP.name, "matmul/bf16"])
    assert fit["median_error"] < 0.01
    assert fit["parameters"]["memory"] == pytest.approx(0.8, rel=0.1)


def test_times_that_the_data_sheet_forbids_are_left_out_and_counted() -> None:
    rows = [reading(1.0, 2e-5), reading(2.0, 1e-6)]
    kept, dropped = possible(rows)
    assert kept == rows[:1]
    assert dropped == rows[1:]
    assert fit_all(rows)["left_out"] == {"NVIDIA H100-SXM-80GB: matmul/bf16": 1}


def test_attention_in_a_window_is_left_out_with_its_heads() -> None:
    heads = {"heads": 32.0, "kv_heads": 8.0}
    windowed = reading(1.0, 1e-6, family="attention-prefill/bf16", shape={**heads, "batch": 8.0}, floor=1e-3)
    short = reading(1.0, 1e-4, family="attention-prefill/bf16", shape={**heads, "batch": 1.0}, floor=1e-6)
    other = replace(short, shape={"heads": 64.0, "kv_heads": 8.0, "batch": 1.0})
    assert possible([windowed, short, other])[0] == [other]


def test_attention_tables_with_an_unstated_dimension_are_left_out() -> None:
    row = reading(1.0, 1e-4, family="attention-decode/bf16", shape={"heads": 8.0, "kv_heads": 1.0}, floor=1e-6)
    assert possible([row, replace(row, seconds=3e-4)])[0] == []


def test_the_preferred_source_is_used_alone() -> None:
    table = columns([reading(1.0, 2e-5), reading(2.0, 9e-5, rank=1)])[CHIP.name, "matmul/bf16"]
    assert list(table.seconds) == [2e-5]


def test_boards_and_data_centre_chips_of_one_name_are_not_near() -> None:
    board = Kin(name="A10", vendor="NVIDIA", architecture="Ampere", year=2021, memory_type="GDDR6")
    same = replace(board, name="A40")
    stacked = replace(board, name="A100", memory_type="HBM2e")
    assert relatives(board, [same, stacked]) == relatives(board, [same])
    assert relatives(board, [stacked])[0] == "other"


def test_the_script_writes_a_file_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        f"NVIDIA H100-SXM-80GB,gemm,m={2**power};n=4096;k=4096,bfloat16,1,{20 + 2**power / 20},,,k,made"
        for power in range(9)
    ]
    (tmp_path / "op_measurements.csv").write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    assert main([str(tmp_path), "-o", str(tmp_path / "curves.json")]) == 0
    made = fits_from(json.loads((tmp_path / "curves.json").read_text(encoding="utf-8")))
    assert made.fits["matmul/bf16"]["NVIDIA H100-SXM-80GB"].points == 9
    assert "9 timings of 1 chips" in capsys.readouterr().out
    assert "| NVIDIA H100-SXM-80GB | matmul/bf16 | 9 |" in quality_tables(made)


def test_a_broken_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "op_measurements.csv"
    path.write_text(HEADER + "NVIDIA H100-SXM-80GB,gemm,m=1;n=2,bfloat16,1,3.0,,,k,made\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        read_operators(path, Catalog.load())


def test_a_missing_file_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "op_measurements.csv" in capsys.readouterr().err
