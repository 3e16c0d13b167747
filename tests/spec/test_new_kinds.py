# ruff: noqa: E501 - the table has one row a case
"""Job files of fine-tuning, classification and serving become scenarios; what is wrong in them is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.domain.hardware import Precision
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import Classify, Finetune, Scenario, Serve
from mofang.domain.strategy import Method, Offload, Strategy
from mofang.errors import MofangError, SpecError, UsageError
from mofang.spec.job_file import load_job_file, parse_job_file
from mofang.spec.lengths import read_lengths
from mofang.spec.material import check_material
from mofang.spec.plan_file import plan_to_yaml
from mofang.testing import a_model_folder

ROOT = Path(__file__).parent.parent.parent
CATALOG = Catalog.load()

LORA = """\
kind: lora
model: ./base
data:
  text: [pairs.jsonl]
train:
  sequence: 64
  steps: 10
"""
CLASSIFY = """\
kind: classify
model: vit-tiny
data:
  images: pictures
train:
  epochs: 3
"""
SERVE = """\
kind: serve
model: ./base
traffic:
  input: 100
  output: {p50: 20, p90: 60}
slo: {ttft: 500ms}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    a_model_folder(folder / "base")
    a_model_folder(folder / "small", vocab=200)
    a_model_folder(folder / "gemma", model_type="gemma")
    for name in ("torn", "empty", "bare", "untold", "speechless", "strange", "lacking"):
        a_model_folder(folder / name)
    (folder / "torn" / "model.safetensors").write_bytes((folder / "torn" / "model.safetensors").read_bytes()[:-10])
    (folder / "empty" / "model.safetensors").unlink()
    (folder / "bare" / "config.json").unlink()
    (folder / "speechless" / "tokenizer.json").unlink()
    (folder / "strange" / "model.safetensors").write_bytes(b"\0\0")
    config = json.loads((folder / "untold" / "config.json").read_text())
    del config["hidden_size"]
    (folder / "untold" / "config.json").write_text(json.dumps(config))
    (folder / "lacking" / "config.json").write_text(json.dumps(config | {"hidden_size": 64, "num_hidden_layers": 3}))
    return folder


@pytest.fixture
def folder(base: Path) -> Path:
    (base / "pairs.jsonl").write_text('{"prompt": "2+2=", "response": "4"}\n{"text": "some words"}\n' * 20)
    (base / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (base / "hollow.jsonl").write_text("\n\n")
    (base / "words.txt").write_text("words " * 100)
    for name in ("cats/a.png", "cats/b.JPG", "dogs/deep/c.jpeg", "dogs/notes.txt"):
        (base / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "pictures" / name).write_bytes(b"x")
    for name in ("lonely/cats/a.png", "half/cats/a.png"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(b"x")
    (base / "half" / "dogs").mkdir(exist_ok=True)
    images = np.zeros((12, 32, 32, 3), dtype=np.uint8)
    np.savez(base / "good.npz", images=images, labels=np.arange(12) % 3)
    np.savez(base / "flat.npz", images=images[:, 0, 0], labels=np.arange(12))
    np.savez(base / "short.npz", images=images, labels=np.arange(5))
    np.savez(base / "minus.npz", images=images, labels=np.arange(12) - 1)
    np.savez(base / "real.npz", images=images, labels=np.arange(12.0))
    np.savez(base / "other.npz", pictures=images)
    np.savez(base / "object.npz", images=np.array([{}] * 3), labels=np.arange(3))
    (base / "torn.npz").write_bytes((base / "good.npz").read_bytes()[:200])
    return base


def scenario(folder: Path, text: str, *sets: str) -> Scenario:
    return parse_job_file(text, "job.yaml", folder, sets, CATALOG, name="job").scenario


def test_a_lora_job_has_sensible_defaults(folder: Path) -> None:
    task = scenario(folder, LORA).task
    assert isinstance(task, Finetune)
    assert task.method is Method.LORA
    assert task.model_path == str(folder / "base")
    assert (task.model.layers, task.model.vocab, task.sequence, task.global_batch) == (2, 260, 64, 16)
    assert task.data.tokenizer == str(folder / "base" / "tokenizer.json")
    assert (task.adapter.rank, task.adapter.alpha, len(task.adapter.targets)) == (16, 32.0, 7)
    assert (task.optimisation.lr, task.optimisation.weight_decay, task.optimisation.beta2) == (2e-4, 0.0, 0.999)
    assert (task.packing, task.steps, task.epochs, task.sample_tokens) == (True, 10, None, 0)
    # "2+2=4" and "some words", each with the end of the text
    assert task.data.tokens == 20 * (6 + 11)
    assert task.lengths is not None
    assert (task.lengths.quantiles[0], task.lengths.quantiles[-1]) == (6.0, 11.0)
    assert task.lengths.mean == pytest.approx(8.5, abs=0.3)


FULL = """\
kind: finetune
method: full
model: base
data: {text: [words.txt, pairs.jsonl], tokenizer: bytes, validation: 0.1, lengths: [10, 20, 90]}
train: {sequence: 32, global_batch: 8, epochs: 2.5, lr: 1e-5, packing: false, checkpoint_every: 30s, sample_tokens: 9}
strategy: {workers: 2, framework: finetune, offload: none, ep: 1, vpp: 1, precision: bf16}
resources: {devices: cpu:2}
"""


def test_a_full_file_says_it_all(folder: Path) -> None:
    task = scenario(folder, FULL).task
    assert isinstance(task, Finetune)
    assert (task.method, task.packing, task.epochs, task.steps) == (Method.FULL, False, 2.5, None)
    assert (task.data.tokenizer, task.data.validation_fraction) == ("bytes", 0.1)
    assert task.data.paths == (str(folder / "words.txt"), str(folder / "pairs.jsonl"))
    assert task.lengths is not None
    assert task.lengths.quantiles == (10.0, 20.0, 90.0)
    assert (task.optimisation.lr, task.checkpoint_every_s, task.sample_tokens) == (1e-5, 30.0, 9)
    choice = task.strategy
    assert (choice.framework, choice.offload, choice.precision) == ("finetune", Offload.NONE, Precision.BF16)


@pytest.mark.parametrize(
    ("method", "expected", "rate"),
    [("any", None, 2e-4), ("full", Method.FULL, 2e-5), ("lora", Method.LORA, 2e-4), ("qlora", Method.QLORA, 2e-4)],
)
def test_the_method_is_fixed_or_left_to_the_plan(folder: Path, method: str, expected: Method, rate: float) -> None:
    task = scenario(folder, LORA.replace("kind: lora", f"kind: finetune\nmethod: {method}")).task
    assert isinstance(task, Finetune)
    assert task.method is expected
    assert task.optimisation.lr == rate


def test_the_scale_of_an_adapter_grows_with_its_rank(folder: Path) -> None:
    task = scenario(folder, LORA + "adapter: {rank: 4, targets: [v_proj, q_proj, v_proj]}\n").task
    assert isinstance(task, Finetune)
    assert (task.adapter.rank, task.adapter.alpha, task.adapter.targets) == (4, 8.0, ("v_proj", "q_proj"))


def test_a_name_of_the_catalogue_is_to_plan_with_only(folder: Path) -> None:
    text = "kind: lora\nmodel: llama-3.1-8b\ntrain: {sequence: 2048, steps: 5}\n"
    made = scenario(folder, text)
    assert isinstance(made.task, Finetune)
    assert (made.task.model_path, made.task.data.paths, made.task.lengths) == (None, (), None)
    with pytest.raises(SpecError, match="only known by its sizes"):
        check_material(made)
    with pytest.raises(SpecError, match=r"data\.text is missing"):
        check_material(scenario(folder, LORA.replace("  text: [pairs.jsonl]", "  validation: 0.1")))
    check_material(scenario(folder, LORA))


def test_a_folder_comes_before_a_name_of_the_catalogue(tmp_path: Path) -> None:
    a_model_folder(tmp_path / "llama-3.1-8b")
    task = scenario(tmp_path, "kind: lora\nmodel: llama-3.1-8b\ntrain: {sequence: 64, steps: 5}\n").task
    assert isinstance(task, Finetune)
    assert task.model_path == str(tmp_path / "llama-3.1-8b")


def test_pictures_in_folders_are_counted(folder: Path) -> None:
    task = scenario(folder, CLASSIFY).task
    assert isinstance(task, Classify)
    assert (task.data.num_images, task.data.num_classes, task.data.channels) == (3, 2, 3)
    model = task.model
    assert (model.name, model.layers, model.hidden, model.heads, model.ffn) == ("vit-tiny", 12, 192, 3, 768)
    assert (model.image_size, model.patch_size, task.epochs, task.global_batch) == (224, 16, 3.0, 128)


def test_arrays_say_their_sizes(folder: Path) -> None:
    task = scenario(folder, CLASSIFY.replace("pictures", "good.npz")).task
    assert isinstance(task, Classify)
    assert (task.data.num_images, task.data.num_classes, task.data.channels) == (12, 3, 3)
    assert (task.model.image_size, task.model.patch_size) == (32, 4)


def test_a_vision_model_is_written_out_or_changed(folder: Path) -> None:
    small = "{layers: 2, hidden: 64, heads: 4, image_size: 28, patch_size: 7}"
    task = scenario(folder, CLASSIFY.replace("vit-tiny", small)).task
    assert isinstance(task, Classify)
    assert (task.model.name, task.model.ffn, task.model.sequence) == ("job", 256, 17)
    task = scenario(folder, CLASSIFY.replace("vit-tiny", "{preset: vit-base, layers: 3, image_size: 96}")).task
    assert isinstance(task, Classify)
    assert (task.model.layers, task.model.hidden, task.model.ffn, task.model.patch_size) == (3, 768, 3072, 8)


def test_a_service_and_its_traffic(folder: Path) -> None:
    text = SERVE + "precision: bf16\nkv_precision: fp8\nport: 8000\nmax_sequence: 200\ndisaggregated: false\n"
    task = scenario(folder, text.replace("input: 100", "input: 100\n  rate: 2.5\n  prefix_hit: 0.3")).task
    assert isinstance(task, Serve)
    assert task.traffic.input.quantiles == (100.0, 100.0)
    assert task.traffic.output.quantiles[0] == 1.0
    assert task.traffic.output.quantiles[-1] == 60.0
    assert (task.traffic.rate, task.traffic.concurrency, task.traffic.prefix_hit) == (2.5, None, 0.3)
    assert (task.level.ttft_s, task.level.tpot_s, task.level.percentile) == (0.5, None, 0.95)
    assert (task.precision, task.kv_precision, task.port) == (Precision.BF16, Precision.FP8, 8000)
    assert task.model_path == str(folder / "base")


def at(quantiles: tuple[float, ...], percentile: int) -> float:
    return float(np.interp(percentile, np.linspace(0, 100, len(quantiles)), quantiles))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(1, 100), st.integers(1, 10**6), min_size=1, max_size=6), st.integers(90, 100))
def test_percentiles_are_met_exactly(points: dict[int, int], high: int) -> None:
    lengths = sorted([*points.values(), max(points.values())])
    percentiles = sorted({*points, high})
    written = dict(zip(percentiles, lengths, strict=False))
    if max(written) < 90:
        return
    found = read_lengths({f"p{percentile}": length for percentile, length in written.items()})
    for percentile, length in written.items():
        assert at(found.quantiles, percentile) == pytest.approx(length)
    assert found.quantiles[0] == 1.0
    assert found.quantiles[-1] == max(written.values())


# what is wrong with a file: (its text, the place that is named, words of the message, words of the hint)
BAD = {
    "no folder": (LORA.replace("base", "gone"), "job.yaml:2: model", "does not exist", "looked for"),
    "no config": (LORA.replace("base", "bare"), "job.yaml:2: model", "config.json: cannot be read: No such file", "folder"),
    "no weights": (LORA.replace("base", "empty"), "model", "has no *.safetensors", "safetensors format"),
    "torn weights": (LORA.replace("base", "torn"), "model", "model.safetensors is torn", "copy the folder"),
    "no weights file": (LORA.replace("base", "strange"), "model", "its header cannot be read", "copy the folder"),
    "sizes missing": (LORA.replace("base", "untold"), "model", "key 'hidden_size' is missing", "size of the model"),
    "tensors missing": (LORA.replace("base", "lacking"), "model", "lacks 9 tensors of its model", "belong together"),
    "no tokenizer": (LORA.replace("base", "speechless"), "model", "has no tokenizer.json", "data.tokenizer"),
    "another family": (LORA.replace("base", "gemma"), "model", "'gemma', whose weights the recipe cannot read", "llama"),
    "small vocabulary": (LORA.replace("base", "small"), "model", "200 is smaller than the tokenizer's of 257", "257"),
    "small for bytes": (
        LORA.replace("base", "small").replace("data:", "data:\n  tokenizer: bytes"), "job.yaml:4: data.tokenizer", "of 256", "256"
    ),
    "unknown name": (LORA.replace("./base", "lama-3.1-8b"), "job.yaml:2: model", "no model 'lama-3.1-8b'", "llama"),
    "broken line": (LORA.replace("pairs", "broken"), "job.yaml:4: data.text", "broken.jsonl, line 2: the line is not JSON", "one object a line"),
    "empty lines": (LORA.replace("pairs", "hollow"), "data.text", "has no documents", "one object a line"),
    "no data": (LORA.replace("pairs", "gone"), "data.text", "does not exist", "path"),
    "rank zero": (LORA + "adapter: {rank: 0}\n", "job.yaml:8: adapter.rank", "at least 1, not 0", "from 1 up"),
    "rank too large": (LORA + "adapter: {rank: 65}\n", "adapter.rank", "more than the model's width of 64", "8 to 64"),
    "no such target": (LORA + "adapter: {targets: [q_porj]}\n", "job.yaml:8: adapter.targets", "not one of q_proj", "did you mean 'q_proj'"),
    "no target": (LORA + "adapter: {targets: []}\n", "adapter.targets", "at least 1 item", "schema"),
    "dropout of one": (LORA + "adapter: {dropout: 1.0}\n", "adapter.dropout", "must be < 1.0", "< 1.0"),
    "adapter for all weights": (
        LORA.replace("kind: lora", "kind: finetune\nmethod: full") + "adapter: {rank: 4}\n", "adapter", "trains no adapter", "leave it out"
    ),
    "method in lora": (LORA + "method: full\n", "job.yaml:8: method", "no key 'method'", "keys here"),
    "unknown method": (LORA.replace("kind: lora", "kind: finetune\nmethod: lroa"), "method", "not one of any, full, lora", "did you mean 'lora'"),
    "unknown framework": (LORA + "strategy: {framework: megatorn}\n", "strategy.framework", "no framework 'megatorn'", "did you mean 'megatron'"),
    "no length": (LORA.replace("  steps: 10\n", ""), "job.yaml:5: train", "how long to train is missing", "epochs: 3"),
    "two lengths": (LORA.replace("steps: 10", "steps: 10\n  epochs: 1"), "train.epochs", "exclude each other", "one of"),
    "long sequence": (LORA.replace("64", "512"), "job.yaml:6: train.sequence", "longer than the model allows: 256", "256"),
    "falling lengths": (LORA.replace("data:", "data:\n  lengths: [9, 5]"), "job.yaml:4: data.lengths", "must not fall", "write"),
    "falling percentiles": (LORA.replace("data:", "data:\n  lengths: {p50: 90, p99: 5}"), "data.lengths", "must not fall", "write"),
    "no long ones": (LORA.replace("data:", "data:\n  lengths: {p50: 90}"), "data.lengths", "no percentile of 90 or more", "p90"),
    "odd percentile": (LORA.replace("data:", "data:\n  lengths: {p101: 9}"), "data.lengths", "'p101' is not a percentile", "p50"),
    "length of nothing": (LORA.replace("data:", "data:\n  lengths: 0"), "data.lengths", "at least 1 token", "number"),
    "length of words": (LORA.replace("data:", "data:\n  lengths: many"), "data.lengths", "'many' is not a count", "600"),
    "no images": (CLASSIFY.replace("pictures", "gone"), "job.yaml:4: data.images", "does not exist", "path"),
    "a file of text": (CLASSIFY.replace("pictures", "words.txt"), "data.images", "not an .npz file", "folder"),
    "a torn array": (CLASSIFY.replace("pictures", "torn.npz"), "data.images", "not an .npz file, or is torn", "folder"),
    "no classes": (CLASSIFY.replace("pictures", "pictures/cats"), "data.images", "no folders in it", "a class"),
    "one class": (CLASSIFY.replace("pictures", "lonely"), "data.images", "1 class only", "two classes"),
    "an empty class": (CLASSIFY.replace("pictures", "half"), "data.images", "class 'dogs'", ".png"),
    "flat images": (CLASSIFY.replace("pictures", "flat.npz"), "data.images", "shape (12, 3)", "height x width"),
    "too few labels": (CLASSIFY.replace("pictures", "short.npz"), "data.images", "12 images and 5 labels", "one label"),
    "labels below zero": (CLASSIFY.replace("pictures", "minus.npz"), "data.images", "label -1", "from 0"),
    "labels that are no numbers": (CLASSIFY.replace("pictures", "real.npz"), "data.images", "float64[12]", "whole numbers"),
    "other arrays": (CLASSIFY.replace("pictures", "other.npz"), "data.images", "no array 'images'", "labels"),
    "objects": (CLASSIFY.replace("pictures", "object.npz"), "data.images", "type object", "uint8"),
    "images and count": (CLASSIFY.replace("pictures", "pictures\n  count: 5"), "job.yaml:5: data.count", "exclude each other", "one of them"),
    "neither": (CLASSIFY.replace("  images: pictures", "  classes: 5"), "data", "'images' is missing", "count and classes"),
    "no such preset": (CLASSIFY.replace("vit-tiny", "vit-tyni"), "job.yaml:2: model", "no preset 'vit-tyni'", "did you mean 'vit-tiny'"),
    "missing sizes": (CLASSIFY.replace("vit-tiny", "{layers: 2, hidden: 64}"), "job.yaml:2: model", "'heads' is missing", "add heads"),
    "patches": (CLASSIFY.replace("vit-tiny", "{preset: vit-tiny, image_size: 30, patch_size: 4}"), "model", "30 = 7 x 4 + 2", "patch_size"),
    "vision heads": (CLASSIFY.replace("vit-tiny", "{layers: 1, hidden: 10, heads: 3}"), "model", "10 = 3 x 3 + 1", "heads"),
    "rate and concurrency": (
        SERVE.replace("input: 100", "input: 100\n  rate: 1\n  concurrency: 2"), "job.yaml:6: traffic.concurrency", "exclude each other", "one of them"
    ),
    "no rate": (SERVE.replace("input: 100", "input: 100\n  rate: 0"), "traffic.rate", "must be > 0", "> 0"),
    "all cached": (SERVE.replace("input: 100", "input: 100\n  prefix_hit: 1.0"), "traffic.prefix_hit", "must be < 1.0", "< 1.0"),
    "a level in per cent": (SERVE.replace("ttft: 500ms", "percentile: 95"), "slo.percentile", "must be < 1.0", "< 1.0"),
    "a level of nothing": (SERVE.replace("500ms", "0s"), "slo.ttft", "longer than nothing", "90s"),
    "too long for the model": (SERVE.replace("100", "250"), "traffic", "310 tokens together, and the model allows 256", "shorten"),
    "too long a sequence": (SERVE + "max_sequence: 300\n", "job.yaml:7: max_sequence", "longer than the model allows", "256"),
    "too short a sequence": (SERVE + "max_sequence: 150\n", "max_sequence", "shorter than the longest", "160 or more"),
    "no such port": (SERVE + "port: 70000\n", "port", "must be <= 65535", "65535"),
    "no traffic": ("kind: serve\nmodel: ./base\n", "job.yaml", "'traffic' is missing", "add traffic"),
    "torn service": (SERVE.replace("base", "torn"), "model", "is torn", "copy the folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_file_is_one_line_with_its_place_and_a_hint(case: str, folder: Path) -> None:
    text, place, message, hint = BAD[case]
    with pytest.raises(UsageError) as caught:
        scenario(folder, text)
    error: MofangError = caught.value
    assert "\n" not in error.message + error.hint
    assert error.message.startswith("job.yaml")
    assert place in error.message
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize("text", [LORA, FULL, CLASSIFY, CLASSIFY.replace("pictures", "good.npz"), SERVE])
def test_a_saved_plan_of_each_kind_is_read_back_unchanged(folder: Path, text: str) -> None:
    made = scenario(folder, text)
    steps = None if isinstance(made.task, Serve) else 7
    placement = Placement(cluster="local", accelerator="cpu", num_devices=1, num_nodes=1)
    plan = Plan(strategy=Strategy(framework="finetune", method=Method.LORA), placement=placement, steps=steps)
    read = parse_job_file(plan_to_yaml(made, plan), "plan.yaml", Path("/"), (), CATALOG)
    assert read.scenario == made
    assert read.plans == (plan,)


def test_a_saved_plan_needs_its_data_and_its_weights(folder: Path, tmp_path: Path) -> None:
    made = scenario(folder, LORA)
    placement = Placement(cluster="local", accelerator="cpu", num_devices=1, num_nodes=1)
    plan = Plan(strategy=Strategy(), placement=placement, steps=7)
    assert isinstance(made.task, Finetune)
    for gone, place in (
        (replace(made.task, data=replace(made.task.data, paths=(str(tmp_path / "x.jsonl"),))), "data.paths"),
        (replace(made.task, model_path=str(tmp_path)), "model_path"),
    ):
        text = plan_to_yaml(replace(made, task=gone), plan)
        with pytest.raises(UsageError, match=rf"plan.yaml:\d+: scenario.task.{place}: "):
            parse_job_file(text, "plan.yaml", Path("/"), (), CATALOG)


def test_examples_run_with_weights_and_data_of_ones_own(folder: Path) -> None:
    own = (f"model={folder / 'base'}", f"data.text=[{folder / 'pairs.jsonl'}]", "train.sequence=128")
    for name in ("lora", "finetune"):
        check_material(load_job_file(ROOT / f"examples/{name}.yaml", own, catalog=CATALOG).scenario)
    pictures = (f"data={{images: {folder / 'pictures'}}}",)
    check_material(load_job_file(ROOT / "examples/classify.yaml", pictures, catalog=CATALOG).scenario)
