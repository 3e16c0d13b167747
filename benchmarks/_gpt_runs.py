"""What the benchmarks of the GPT recipe share: small models drawn at random, their text, and the recipe's processes."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mofang.clock import seeded
from mofang.domain.codec import encode
from mofang.domain.hardware import CPU, Accelerator, Link, Pool
from mofang.domain.model import ModelArchitecture
from mofang.domain.rates import HostRates
from mofang.domain.recipe import GptConfig
from mofang.domain.scenario import Pretrain, StrategyChoice, TextData
from mofang.units import Range

HEAD_DIMS = (32, 64)
FFN_RATIOS = (2.0, 8 / 3, 4.0)
BF16_SHARE = 0.25


def divisors(number: int) -> list[int]:
    """Return what divides a number, the smallest first."""
    return [size for size in range(1, number + 1) if number % size == 0]


def draw_model(
    chance: random.Random,
    *,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int,
    sequence: int,
    layers: tuple[int, int],
    vocabularies: tuple[int, ...],
) -> ModelArchitecture:
    """Return a model of this width; the rest is drawn, key and value heads too where they are not given."""
    hidden = heads * head_dim
    return ModelArchitecture(
        name="drawn",
        layers=chance.randint(*layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads or chance.choice(divisors(heads)),
        ffn=int(hidden * chance.choice(FFN_RATIOS)) // 32 * 32,
        vocab=chance.choice(vocabularies),
        head_dim=head_dim,
        max_sequence=sequence,
    )


def bare_task(
    model: ModelArchitecture, data: Path, *, global_batch: int, steps: int, strategy: StrategyChoice | None = None
) -> Pretrain:
    """Return the task of training a drawn model and nothing else: no checkpoint, no validation, no sample."""
    return Pretrain(
        model=model,
        data=TextData(paths=(str(data),)),
        sequence=model.max_sequence,
        global_batch=global_batch,
        steps=steps,
        strategy=strategy or StrategyChoice(),
        checkpoint_every_steps=0,
        validate_every=0,
        sample_tokens=0,
    )


def step_flops(task: Pretrain) -> float:
    """Return the FLOP of one optimiser step."""
    return task.model.train_flops_per_token(task.sequence) * task.global_batch * task.sequence


def write_text(folder: Path, seed: int) -> Path:
    """Write letters to train on."""
    text = folder / "text.txt"
    text.write_bytes(bytes(seeded(seed).choices(range(97, 123), k=400_000)))
    return text


def cores_pool(rates: HostRates, *, cores: int, memory_bytes: int) -> Pool:
    """Return this machine's cores as matching sees them."""
    link = Link(latency_s=0.0, bandwidth=1e9)
    return Pool(
        cluster="local",
        accelerator=Accelerator(name=CPU, vendor="", memory_bytes=0, memory_bandwidth=0.0, peak_flops={}),
        devices_per_node=cores,
        counts=Range(1, cores),
        intra=link,
        inter=link,
        node_memory_bytes=memory_bytes,
        rates=rates,
    )


def describe_model(model: ModelArchitecture) -> str:
    """Return a drawn model in a few words."""
    tied = "t" if model.tied_embeddings else ""
    return (
        f"L{model.layers} h{model.hidden} {model.heads}/{model.kv_heads} f{model.ffn} v{model.vocab}{tied} "
        f"s{model.max_sequence}"
    )


def start_workers(
    config: GptConfig, folder: Path, *, before: Callable[[], None] | None = None
) -> list[subprocess.Popen[str]]:
    """Start the recipe as an agent would, one process a rank; ``before`` is called between fork and exec."""
    for name in ("spool", "heartbeat"):
        (folder / name).mkdir()
    path = folder / "recipe.json"
    path.write_text(encode(config))
    world_size = config.strategy.parallelism.world_size
    common = os.environ | {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(config.strategy.threads),
        "MOFANG_JOB": "benchmark",
        "MOFANG_ATTEMPT": "1",
        "MOFANG_GENERATION": "1",
        "MOFANG_ATTEMPT_DIR": str(folder),
        "MOFANG_DATA_DIR": str(folder),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "mofang.recipes.gpt", "--config", str(path)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,  # noqa: PLW1509 - threads are started later
        )
        for rank in range(world_size)
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
