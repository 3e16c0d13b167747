"""Job files become scenarios: everything looked up, every path absolute, every quantity in SI."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml

from mofang.catalog.knowledge import Catalog
from mofang.cli import schema as schema_command
from mofang.domain.hardware import Accelerator, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Command, Goal, Mount, Pretrain, Scenario, Secret, WorkdirMode
from mofang.domain.strategy import Recompute, Sharding
from mofang.errors import CatalogError
from mofang.spec.fleet_file import load_fleet_file
from mofang.spec.job_file import load_job_file, load_scenario, parse_scenario
from mofang.spec.names import name_of_file
from mofang.spec.schema import json_schema
from mofang.units import DeviceRequest, Range

ROOT = Path(__file__).parent.parent.parent


class TinyCatalog:
    """One model, one accelerator with an alias, and a note of what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def model(self, name_or_path: str) -> ModelArchitecture:
        self.asked.append(name_or_path)
        return ModelArchitecture(
            name="tiny", layers=2, hidden=64, heads=4, kv_heads=4, ffn=128, vocab=256, head_dim=16, max_sequence=4096
        )

    def accelerator(self, name: str) -> Accelerator:
        if name.lower() not in {"h100", "h100-80gb-sxm"}:
            raise CatalogError(f"there is no accelerator {name!r}", hint="did you mean 'H100'?")
        return Accelerator(name="H100-80GB-SXM", vendor="x", memory_bytes=1, memory_bandwidth=1.0, peak_flops={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("some words to learn from\n" * 2000)
    return tmp_path


def scenario_of(folder: Path, text: str, *sets: str) -> Scenario:
    return parse_scenario(text, "job.yaml", folder, sets, TinyCatalog())


def pretrain_of(folder: Path, text: str, *sets: str) -> Pretrain:
    task = scenario_of(folder, text, *sets).task
    assert isinstance(task, Pretrain)
    return task


SHORT = "kind: pretrain\nmodel: {layers: 2, hidden: 64, heads: 4}\ndata: {text: words.txt}\ntrain: {steps: 10}\n"


def test_a_short_file_gets_sensible_defaults(folder: Path) -> None:
    task = pretrain_of(folder, SHORT)
    model = task.model
    assert (model.vocab, model.head_dim, model.kv_heads, model.ffn, model.max_sequence) == (256, 16, 4, 176, 256)
    assert (task.sequence, task.global_batch, task.steps, task.duration_s) == (256, 16, 10, None)
    assert task.data.paths == (str(folder / "words.txt"),)
    assert task.data.size_bytes == 50_000
    assert task.checkpoint_every_s == 15.0
    assert task.strategy == type(task.strategy)()


FULL = """\
kind: pretrain
version: 1
name: full
model: tiny
data: {text: [words.txt, "*.txt", .], tokenizer: bytes, validation: 0.1}
train:
  {sequence: 128, global_batch: 32, tokens: 1M, lr: 3e-3, min_lr_ratio: 0, warmup: 5, weight_decay: 0, beta1: 0.8,
   beta2: 0.99, clip: 0.5, checkpoint_every: 50, keep_checkpoints: 2, validate_every: 7, validation_batches: 3,
   log_every: 2, seed: 7, sample_tokens: 0, fault_at: 0.5}
strategy:
  {workers: 4, threads: 2, dp: 2, tp: 2, pp: 1, cp: 1, sharding: fsdp, precision: bf16, recompute: full,
   micro_batch: 4, compile: true}
resources: {any_of: ["h100:4..8", "CPU:8.."], ordered: true, nodes: 2, memory: 24GiB}
goal: cost
limits: {deadline: 2h, budget: 100}
environment:
  venv: venv
  modules: [cuda/12]
  image: nvcr.io/nvidia/pytorch
  workdir: {path: ., mode: upload}
  env: {OMP_NUM_THREADS: 4, WORD: "1.10"}
  secrets: {KEY: {env: MY_KEY}, TOKEN: {file: token.txt}}
  mounts: {data/words: words.txt}
restart: {max: 3, same_failure: 2, hang_timeout: 1m, spare_nodes: 1, min_nodes: 1, node_timeout: 5s}
grace: 30s
priority: 5
"""


def test_a_full_file_says_it_all(folder: Path) -> None:
    scenario = scenario_of(folder, FULL)
    task = scenario.task
    assert isinstance(task, Pretrain)
    assert task.steps == 245  # 1,000,000 / (128 x 32) = 244.14, rounded up
    assert (task.checkpoint_every_steps, task.keep_checkpoints, task.sample_tokens) == (50, 2, 0)
    assert (task.optimisation.lr, task.optimisation.warmup_steps, task.optimisation.clip_norm) == (0.003, 5, 0.5)
    choice = task.strategy
    assert (choice.workers, choice.threads, choice.dp, choice.tp) == (4, 2, 2, 2)
    assert (choice.sharding, choice.precision, choice.recompute) == (Sharding.FSDP, Precision.BF16, Recompute.FULL)
    assert scenario.resources.any_of == (
        DeviceRequest("H100-80GB-SXM", Range(4, 8)),
        DeviceRequest("cpu", Range(8, None)),
    )
    assert (scenario.resources.nodes, scenario.resources.memory_bytes) == (2, 24 * 2**30)
    assert (scenario.goal, scenario.limits.deadline_s, scenario.limits.budget) == (Goal.COST, 7200.0, 100.0)
    environment = scenario.environment
    assert (environment.workdir, environment.workdir_mode) == (str(folder), WorkdirMode.UPLOAD)
    assert environment.venv == str(folder / "venv")
    assert environment.variables == {"OMP_NUM_THREADS": "4", "WORD": "1.10"}
    assert environment.secrets == (
        Secret(name="KEY", source="env", reference="MY_KEY"),
        Secret(name="TOKEN", source="file", reference=str(folder / "token.txt")),
    )
    assert environment.mounts == (Mount(target="data/words", source=str(folder / "words.txt")),)
    assert (scenario.restart.max_restarts, scenario.restart.hang_timeout_s) == (3, 60.0)
    restart = scenario.restart
    assert (restart.spare_nodes, restart.min_nodes, restart.node_timeout_s) == (1, 1, 5.0)
    assert (scenario.grace_s, scenario.priority) == (30.0, 5)


def test_a_file_given_twice_is_counted_once(folder: Path) -> None:
    assert pretrain_of(folder, FULL).data.size_bytes == 50_000


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("[python, train.py, --lr, 0.001, --epochs, 3]", ("python", "train.py", "--lr", "0.001", "--epochs", "3")),
        ("python train.py --name 'two words'", ("python", "train.py", "--name", "two words")),
        ('[bash, -c, "a | b > c"]', ("bash", "-c", "a | b > c")),
    ],
)
def test_a_command_is_a_list_of_words(text: str, argv: tuple[str, ...], folder: Path) -> None:
    scenario = scenario_of(folder, f"kind: command\ncommand: {text}\nworkers: 2\ncores_per_worker: 3\n")
    assert scenario.task == Command(argv=argv, workers=2, cores_per_worker=3)


def test_set_overrides_the_file_and_reads_its_value_as_yaml(folder: Path) -> None:
    sets = (
        "train.steps=1k",
        "name=other",
        "resources.devices=cpu:2",
        "data.text=[words.txt, words.txt]",
        "goal=energy",
    )
    scenario = scenario_of(folder, SHORT, *sets)
    assert isinstance(scenario.task, Pretrain)
    assert scenario.task.steps == 1000
    assert (scenario.name, scenario.goal) == ("other", Goal.ENERGY)
    assert scenario.resources.any_of == (DeviceRequest("cpu", Range(2, 2)),)


def test_set_without_a_value_takes_the_key_back(folder: Path) -> None:
    task = pretrain_of(folder, SHORT, "train.steps=", "train.duration=90s")
    assert (task.steps, task.duration_s) == (None, 90.0)


def test_scalars_follow_yaml_1_2(folder: Path) -> None:
    env = "{A: no, B: 010, C: 1:30, D: 2026-01-01, E: 0x10}"
    scenario = scenario_of(folder, f"kind: command\ncommand: ls\nenvironment: {{env: {env}}}\n")
    assert scenario.environment.variables == {"A": "no", "B": "010", "C": "1:30", "D": "2026-01-01", "E": "0x10"}


def test_a_model_is_a_name_or_a_path(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    for model, asked in (("tiny", "tiny"), ("config.json", str(folder / "config.json"))):
        catalog = TinyCatalog()
        text = SHORT.replace("{layers: 2, hidden: 64, heads: 4}", model)
        parse_scenario(text, "x", folder, ("train.sequence=64",), catalog)
        assert catalog.asked == [asked]


def test_a_tokenizer_file_gives_the_vocabulary(folder: Path) -> None:
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 7}]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert pretrain_of(folder, SHORT, "data.tokenizer=tokenizer.json").model.vocab == 8


def test_jobs_without_a_name_are_called_after_their_file_or_get_a_new_one(folder: Path) -> None:
    path = folder / "my job.yaml"
    path.write_text(SHORT)
    assert load_scenario(path, catalog=TinyCatalog()).name == "my-job"
    assert name_of_file(Path("/x/code-gpt/job.yaml")) == "code-gpt"
    first, second = scenario_of(folder, SHORT).name, scenario_of(folder, SHORT).name
    assert first != second
    assert first.count("-") == 2


EXAMPLES = sorted(ROOT.glob("examples/**/*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_valid(path: Path) -> None:
    catalog = Catalog.load()
    if yaml.safe_load(path.read_text())["kind"] == "fleet":
        assert load_fleet_file(path, catalog)
    else:
        assert load_job_file(path, catalog=catalog).scenario.name


def test_the_demo_trains_the_model_it_promises() -> None:
    scenario = load_scenario(ROOT / "examples/code-gpt/job.yaml", catalog=TinyCatalog())
    task = scenario.task
    assert isinstance(task, Pretrain)
    assert task.model.params == 791_680
    assert (task.duration_s, task.fault_at_fraction, task.strategy.workers) == (90.0, 0.5, 2)
    assert (task.data.size_bytes or 0) > 1_000_000


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    assert [choice["$ref"] for choice in schema["oneOf"]] == [
        "#/$defs/PretrainFile",
        "#/$defs/FinetuneFile",
        "#/$defs/LoraFile",
        "#/$defs/ClassifyFile",
        "#/$defs/ServeFile",
        "#/$defs/CommandFile",
        "#/$defs/PlanFile",
    ]
    for name, part in schema["$defs"].items():
        for key, value in part.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key} has no description"
        if "properties" in part:
            assert part["additionalProperties"] is False


def test_the_schema_knows_the_keys_of_every_example() -> None:
    parts = json_schema()["$defs"]
    for path in EXAMPLES:
        content = yaml.safe_load(path.read_text())
        if content["kind"] == "fleet":
            continue
        part = parts[f"{content['kind'].capitalize()}File"]
        assert set(content) <= set(part["properties"])
        assert set(part["required"]) <= set(content)


def test_the_schema_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    schema_command.configure(parser)
    assert schema_command.execute(parser.parse_args([])) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
