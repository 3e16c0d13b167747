"""The packaged knowledge base and what its rows mean."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_serving, load_training
from mofang.catalog.measurements.compile import compile_folder
from mofang.catalog.measurements.load import PACKAGED
from mofang.domain.hardware import Precision
from mofang.domain.measurement import FlopConvention, TokenCount
from mofang.domain.strategy import Method, Recompute, Sharding

CATALOG = Catalog.load()
TRAINING = load_training(None, CATALOG)
SERVING = load_serving(None, CATALOG)


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the reference measurements are not at hand")
    return Path(folder)


def test_every_packaged_row_loads_and_names_its_source():
    assert TRAINING.problems == SERVING.problems == ()
    assert len(TRAINING.rows) == 927
    assert len(SERVING.rows) == 4989
    assert all(row.source_id and row.source for row in (*TRAINING.rows, *SERVING.rows))


def test_what_must_not_be_used_is_not_packaged():
    notes = [row.notes for row in (*TRAINING.rows, *SERVING.rows)]
    assert not any("SUSPECT" in note or "OPEN DIVISION" in note for note in notes)


def test_figures_that_a_source_does_not_publish_stay_unknown():
    silicon = [row for row in SERVING.rows if row.source_id.startswith("aic-silicon")]
    assert len(silicon) > 3000
    assert all(row.tokens_per_s is None for row in silicon)


def test_rows_that_name_no_chip_are_few():
    assert sum(not row.accelerator for row in TRAINING.rows) == 0
    unmatched = Counter(row.accelerator_text for row in SERVING.rows if not row.accelerator)
    assert sum(unmatched.values()) <= 0.006 * len(SERVING.rows), unmatched
    known = {chip.name for chip in CATALOG.accelerators}
    assert {row.accelerator for row in (*TRAINING.rows, *SERVING.rows)} <= {*known, ""}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("NVIDIA Blackwell GPU (GB200)", "NVIDIA GB200"),
        ("NVIDIA Blackwell GPU (B200-SXM-180GB)", "NVIDIA B200-SXM-180GB"),
        ("H100-96GB (HBM2e, 500W cap, Grand Teton)", "NVIDIA H100-SXM-96GB"),
        ("TPU-trillium", "Google TPU v6e"),
        ("Ascend 910B (Atlas 900 A2 PODc)", "Huawei Ascend 910B3 64GB"),
    ],
)
def test_spellings_that_look_like_another_chip(written, name):
    found = {row.accelerator for row in TRAINING.rows if row.accelerator_text == written}
    assert found == {name}


def test_frameworks_are_named_by_what_runs_not_by_the_container():
    frameworks = {(row.framework_text, row.framework) for row in TRAINING.rows}
    assert ("Megatron-DeepSpeed", "megatron-deepspeed") in frameworks
    assert ("Megatron-DeepSpeed/Megatron-LM (Habana)", "optimum-habana") in frameworks
    assert ("NGC Pytorch 24.09, NGC Hugectr 24.06", "megatron") in frameworks  # an MLPerf submission on NVIDIA chips
    assert ("LLMBoost 1.2.0", "llmboost") in frameworks
    assert ("maxtext", "maxtext") in frameworks
    assert {text for text, name in frameworks if not name} == {"Meta internal"}


@pytest.mark.parametrize(
    ("column", "written", "expected"),
    [
        ("precision", "FP16/BF16 amp", Precision.BF16),
        ("precision", "FP8-CS", Precision.FP8),
        ("precision", "MXFP8", Precision.FP8),
        ("precision", "NVFP4", Precision.FP4),
        ("precision", "FP16 O2", Precision.FP16),
        ("precision", "", None),
    ],
)
def test_precisions_of_training(column, written, expected):
    assert {getattr(row, column) for row in TRAINING.rows if row.precision_text == written} == {expected}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", None),
        ("mxfp4", Precision.FP4),
        ("int4", Precision.FP4),
        ("w8a8", Precision.INT8),
        ("bfloat16", Precision.BF16),
        ("fp4->bf16", Precision.FP4),
    ],
)
def test_precisions_of_serving(written, expected):
    assert {row.precision for row in SERVING.rows if row.precision_text == written} == {expected}


def test_words_of_layout_are_those_of_mofang():
    assert {row.sharding for row in TRAINING.rows if row.source_id.startswith("torchtitan")} == {Sharding.FSDP}
    partly = [row for row in TRAINING.rows if row.source_id == "mbridge_skill_memory" and row.recompute]
    assert {row.recompute for row in partly} == {Recompute.NONE, Recompute.SELECTIVE}
    assert {row.method for row in TRAINING.rows if "lora" in row.task} == {Method.LORA}
    counted = {row.token_count for row in SERVING.rows if row.tokens_per_s is not None}
    assert counted == {TokenCount.OUTPUT, TokenCount.UNSTATED}


def test_units_are_si():
    row = next(row for row in TRAINING.rows if row.source_id == "bigscience_tr11_topology" and row.memory_bytes)
    assert row.memory_bytes == 67e9  # the source prints GB
    row = next(row for row in TRAINING.rows if row.source_id == "torchtitan_h100_202412" and row.memory_bytes)
    assert row.memory_bytes % 2**20 < 2**30
    assert all(0 < row.ttft_s < 4000 for row in SERVING.rows if row.ttft_s)


def test_reduced_depth_counts():
    layers = {row.architecture.layers for row in TRAINING.rows if row.source_id == "dgxc_llama31_405b"}
    assert min(layers) == 7
    assert max(layers) == 126


def test_layers_that_a_source_leaves_out_follow_from_its_count_of_parameters():
    rows = [row for row in TRAINING.rows if row.source_id == "bigscience_tr11_topology"]
    assert all(row.architecture.layers % row.pp == 0 for row in rows)
    assert all(row.architecture.params / 1e9 == pytest.approx(200, abs=20) for row in rows if "200B" in row.model)
    reduced = next(row for row in TRAINING.rows if row.model == "DeepSeek-V2 60B")
    assert reduced.architecture.layers == 16
    assert reduced.architecture.latent is not None


def test_gpt_like_models_are_not_gated_and_llamas_are():
    sizes = {row.model: row.architecture for row in TRAINING.rows if row.architecture is not None}
    assert not sizes["GPT 175B"].gated_ffn
    assert not sizes["MPT-13b"].gated_ffn
    assert not sizes["Nemotron-340B"].gated_ffn
    assert sizes["LLaMA V2 70B"].gated_ffn
    assert sizes["Qwen3_30B_a3B"].moe.expert_ffn == 768
    assert sizes["Moonlight 16B (MLA+MoE)"].latent is not None


def test_every_deepseek_and_llama_variant_has_its_architecture():
    missing = Counter(row.model for row in SERVING.rows if row.architecture is None)
    assert sum(missing.values()) <= 0.01 * len(SERVING.rows), missing
    sizes = {row.model: row.architecture for row in SERVING.rows}
    assert sizes["deepseek-r1"] == CATALOG.model("deepseek-v3")
    assert sizes["Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"].moe.num_experts == 160
    assert sizes["minimax-m2.5"].moe.num_experts == 256


def test_launch_scripts_complete_the_rows_of_their_benchmarks():
    rows = [row for row in TRAINING.rows if row.source_id == "maxtext_v5e"]
    assert len(rows) == 24
    assert {row.sequence for row in rows} == {2048}
    assert all(row.global_batch and row.architecture for row in rows)


def test_computed_counts_of_parameters_are_the_stated_ones(reference):
    """A stated count that is off by more is a name's round number: then the catalogue's published count agrees."""
    file = reference / "training_measurements.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        stated = {line: row["params_b"] for line, row in enumerate(csv.DictReader(lines), 2)}
    published = {model.name: model.published_params for model in CATALOG.models}
    compared = [row for row in load_training(file, CATALOG).rows if stated[row.line] and row.architecture]
    close = [
        row for row in compared if row.architecture.params / 1e9 / float(stated[row.line]) == pytest.approx(1, abs=0.03)
    ]
    assert len(close) >= 0.93 * len(compared)
    for row in compared:
        built = row.architecture
        if row in close or built.name not in published:
            assert built.params / 1e9 / float(stated[row.line]) == pytest.approx(1, abs=0.18), row.model
        else:
            assert built.params == pytest.approx(published[built.name], rel=0.01), row.model


def test_flop_conventions_hold_where_a_source_states_tokens_too():
    ratios = defaultdict(list)
    for row in TRAINING.rows:
        counted = _flops_per_token(row)
        if counted is not None and row.tokens_per_s_per_device and row.flops_per_device:
            ratios[row.source_id].append(row.flops_per_device / row.tokens_per_s_per_device / counted)
    assert len(ratios) >= 10
    wrong = {source: median(values) for source, values in ratios.items() if abs(median(values) - 1) > 0.02}
    assert not wrong


def _flops_per_token(row) -> float | None:
    sizes = row.architecture
    if sizes is None or not row.sequence or row.method is not Method.FULL or "finetune" in row.source_id:
        return None
    causal = sizes.train_flops_per_token(row.sequence)
    if row.flop_convention is FlopConvention.MODEL:
        return causal
    if row.flop_convention is FlopConvention.FULL_ATTENTION:
        return causal + 6 * sizes.layers * sizes.heads * sizes.head_dim * row.sequence
    return None


def test_compiling_the_reference_gives_the_packaged_files(reference, tmp_path):
    counts = compile_folder(reference, tmp_path)
    assert counts == {"training": (927, 1), "serving": (4989, 306)}
    for file in PACKAGED.values():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_the_packaged_rows_are_those_of_the_reference(reference):
    measured = load_training(reference / "training_measurements.csv", CATALOG)
    assert [problem.message for problem in measured.problems] == ["marked SUSPECT by whoever collected it"]
    assert [_facts(row) for row in measured.rows] == [_facts(row) for row in TRAINING.rows]


def _facts(row) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__ if name != "line"}
