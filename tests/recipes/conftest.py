import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mofang.catalog.huggingface import read_config
from mofang.domain.codec import encode
from mofang.domain.model import ModelArchitecture
from mofang.domain.recipe import ClassifyConfig, DeviceKind, FinetuneConfig, GptConfig
from mofang.domain.scenario import Adapter, Classify, Finetune, ImageData, Optimisation, Pretrain, TextData, VisionModel
from mofang.domain.strategy import Method, Parallelism, Sharding, Strategy
from mofang.recovery.snapshot.place import SHARED_MEMORY
from mofang.testing import a_digit_set, a_model_folder

RECIPES = {GptConfig: "gpt", FinetuneConfig: "finetune", ClassifyConfig: "classify"}
TINY = ModelArchitecture(
    name="tiny", layers=2, hidden=32, heads=4, kv_heads=2, ffn=40, vocab=256, head_dim=8, max_sequence=64
)


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def text(tmp_path):
    """A file with a bit of structure to learn."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {number} of {number * number}\n" for number in range(2000)))
    return path


@pytest.fixture
def make_config(text):
    def make(*, workers=1, steps=4, sharding=None, strategy=None, **task):
        sharding = sharding or (Sharding.NONE if workers == 1 else Sharding.DDP)
        cut = Strategy(parallelism=Parallelism(dp=workers), sharding=sharding, micro_batch=2, accumulation=2, threads=1)
        cut = replace(cut, **(strategy or {}))
        defaults = {
            "model": TINY,
            "data": TextData(paths=(str(text),), validation_fraction=0.1),
            "sequence": 32,
            "global_batch": cut.global_batch,
            "steps": steps,
            "checkpoint_every_steps": 0,
            "validate_every": 0,
            "validation_batches": 2,
            "sample_tokens": 0,
        }
        return GptConfig(
            task=Pretrain(**(defaults | task)), strategy=cut, steps=steps, peak_flops=1e11, device=DeviceKind.CPU
        )

    return make


@pytest.fixture
def pairs(tmp_path):
    """Pairs of prompt and response with a rule to learn."""
    path = tmp_path / "pairs.jsonl"
    names = ["red", "green", "blue", "black", "white"]
    rows = [{"prompt": f"{number} {names[number % 5]}:", "response": names[number % 5]} for number in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make_finetune(pairs, tmp_path):
    folder = a_model_folder(tmp_path / "base")

    def make(*, method=Method.LORA, workers=1, steps=4, name="job", **task):
        sharding = Sharding.NONE if workers == 1 else Sharding.DDP
        cut = Strategy(
            framework="finetune",
            method=method,
            parallelism=Parallelism(dp=workers),
            sharding=sharding,
            micro_batch=2,
            accumulation=4 // workers,
        )
        defaults = {
            "model": read_config(folder),
            "model_path": str(folder),
            "data": TextData(paths=(str(pairs),), tokenizer=str(folder / "tokenizer.json"), validation_fraction=0.1),
            "sequence": 64,
            "global_batch": 8,
            "adapter": Adapter(rank=8, alpha=16.0),
            "optimisation": Optimisation(lr=1e-2, warmup_steps=2, weight_decay=0.0),
            "checkpoint_every_steps": 0,
            "validate_every": 0,
            "validation_batches": 2,
        }
        return FinetuneConfig(
            task=Finetune(**(defaults | task)),
            strategy=cut,
            steps=steps,
            output=str(tmp_path / name / "output"),
            step_flops=1e9,
            peak_flops=1e11,
            device=DeviceKind.CPU,
        )

    return make


@pytest.fixture
def digits(tmp_path):
    return ImageData(
        path=str(a_digit_set(tmp_path / "digits.npz")),
        num_classes=10,
        num_images=2000,
        channels=1,
        validation_fraction=0.1,
    )


@pytest.fixture
def make_classify(digits, tmp_path):
    model = VisionModel(name="tiny-vit", image_size=12, patch_size=3, layers=2, hidden=48, heads=4, ffn=96)

    def make(*, workers=1, steps=4, name="job", data=digits, strategy=None, **task):
        cut = Strategy(
            framework="classify",
            parallelism=Parallelism(dp=workers),
            sharding=Sharding.NONE if workers == 1 else Sharding.DDP,
            micro_batch=16,
            accumulation=4 // workers,
        )
        defaults = {
            "model": model,
            "data": data,
            "global_batch": 64,
            "optimisation": Optimisation(lr=3e-3, weight_decay=0.05),
            "checkpoint_every_steps": 0,
            "validate_every": 0,
        }
        return ClassifyConfig(
            task=Classify(**(defaults | task)),
            strategy=replace(cut, **(strategy or {})),
            steps=steps,
            output=str(tmp_path / name / "output"),
            step_flops=1e9,
            peak_flops=1e11,
            device=DeviceKind.CPU,
        )

    return make


@dataclass
class Outcome:
    codes: list[int]
    errors: list[str]
    events: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))

    @property
    def losses(self):
        return {event["step"]: event["loss"] for event in self.events["step"]}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Runs:
    """Starts the recipe as an agent would, one process a rank."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.memory = ""  # what the names of snapshots start with; none are taken without it

    def environment(self, rank, world_size, port, generation, name):
        attempt = self.folder / name / "attempt-0001"
        for part in ("spool", "heartbeat"):
            (attempt / part).mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MOFANG_SHM_PREFIX": self.memory,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "MOFANG_JOB": name,
            "MOFANG_ATTEMPT": "1",
            "MOFANG_GENERATION": str(generation),
            "MOFANG_ATTEMPT_DIR": str(attempt),
            "MOFANG_CHECKPOINT_DIR": str(self.folder / name / "checkpoints"),
            "MOFANG_DATA_DIR": str(self.folder / "data"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, config, name="job", generation=1, workers=None):
        recipe = self.folder / f"{name}.json"
        recipe.write_text(encode(config))
        argv = ["-m", f"mofang.recipes.{RECIPES[type(config)]}", "--config", str(recipe)]
        return self._start(argv, workers or config.strategy.parallelism.world_size, name, generation)

    def start_script(self, script, *arguments, world_size):
        return self._start([str(script), *arguments], world_size, "job", 1)

    def _start(self, argv, world_size, name, generation):
        port = free_port()
        return [
            subprocess.Popen(
                [sys.executable, *argv],
                env=self.environment(rank, world_size, port, generation, name),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]

    def finish(self, processes, name="job", generation=1):
        errors = []
        for process in processes:
            try:
                errors.append(process.communicate(timeout=60)[1])
            except subprocess.TimeoutExpired:
                process.kill()
                errors.append(process.communicate()[1])
        outcome = Outcome(codes=[process.returncode for process in processes], errors=errors)
        for spool in sorted((self.folder / name / "attempt-0001" / "spool").glob(f"*-g{generation:04d}.jsonl")):
            for line in spool.read_text().splitlines():
                event = json.loads(line)
                outcome.events[event["kind"]].append(event["data"])
        return outcome

    def run(self, config, name="job", generation=1):
        return self.finish(self.start(config, name, generation), name, generation)


@pytest.fixture
def runs(tmp_path):
    made = Runs(tmp_path)
    yield made
    for path in SHARED_MEMORY.glob(f"{made.memory or '-'}*"):
        path.unlink()
