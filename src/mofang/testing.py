"""Builders and twins for tests, of Mofang and of programs that use it.

Example:
    >>> from mofang.testing import a_node, a_scenario, a_plan
    >>> a_plan(devices=2).workers
    2
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mofang.backends.memory import MemoryBackend, Run, Script
from mofang.clock import ManualClock, SystemClock
from mofang.domain.hardware import CPU, Cluster, Device, Fleet, Node
from mofang.domain.job import Allocation, Attempt, Job, NodeDevices
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import Command, Scenario
from mofang.domain.strategy import Parallelism, Sharding, Strategy

__all__ = [
    "ManualClock",
    "MemoryBackend",
    "Run",
    "Script",
    "a_digit_set",
    "a_fleet",
    "a_job",
    "a_model_folder",
    "a_node",
    "a_plan",
    "a_scenario",
    "an_attempt",
    "simple_launch",
    "until",
]

T = TypeVar("T")

_LOOK_AGAIN_S = 0.02


def a_node(name: str = "node-0", *, cluster: str = "memory", cores: int = 4, memory_bytes: int = 16 * 10**9) -> Node:
    """Return a host without chips."""
    devices = tuple(Device(index=index, accelerator=CPU) for index in range(cores))
    return Node(name=name, cluster=cluster, devices=devices, cores=cores, memory_bytes=memory_bytes)


def a_fleet(*nodes: Node, backend: str = "memory") -> Fleet:
    """Return a fleet of these nodes, or of one."""
    members = nodes or (a_node(),)
    names = dict.fromkeys(node.cluster for node in members)
    clusters = (tuple(node for node in members if node.cluster == name) for name in names)
    return Fleet(clusters=tuple(Cluster(name=part[0].cluster, backend=backend, nodes=part) for part in clusters))


def a_scenario(
    name: str = "job", *, argv: tuple[str, ...] = ("true",), workers: int = 1, priority: int = 0
) -> Scenario:
    """Return a scenario that runs a program."""
    return Scenario(name=name, task=Command(argv=argv, workers=workers), priority=priority)


def a_plan(*, cluster: str = "memory", devices: int = 1, nodes: int = 1, steps: int | None = None) -> Plan:
    """Return a plan for cores, one worker on each."""
    sharding = Sharding.DDP if devices > 1 else Sharding.NONE
    return Plan(
        strategy=Strategy(framework="command", parallelism=Parallelism(dp=devices), sharding=sharding),
        placement=Placement(cluster=cluster, accelerator=CPU, num_devices=devices, num_nodes=nodes),
        steps=steps,
    )


def an_attempt(job_id: str = "0" * 12, *, number: int = 1, fence: int = 1, node: str = "node-0") -> Attempt:
    """Return an attempt on the first core of one node."""
    held = NodeDevices(node=node, accelerator=CPU, indices=(0,))
    allocation = Allocation(cluster="memory", nodes=(held,))
    return Attempt(job_id=job_id, number=number, fence=fence, plan_index=0, allocation=allocation)


def a_job(job_id: str = "0" * 12, *, scenario: Scenario | None = None, plans: tuple[Plan, ...] = ()) -> Job:
    """Return a waiting job."""
    chosen = scenario or a_scenario()
    return Job(id=job_id, name=chosen.name, scenario=chosen, plans=plans or (a_plan(),), user="tester", key=job_id)


def a_model_folder(folder: Path, *, vocab: int = 260, seed: int = 0, **config: Any) -> Path:
    """Write a tiny causal language model in Hugging Face format, with random weights, and return its folder.

    Args:
        folder: where to write; made if need be.
        vocab: tokens of the model; its tokenizer has one a byte, and <eos> as number 256.
        seed: of the weights.
        config: keys of ``config.json`` to set differently: ``num_hidden_layers=3``, ``model_type="qwen3"`` ...
    """
    import numpy as np  # noqa: PLC0415 - only where a folder is wanted
    from safetensors.numpy import save_file  # noqa: PLC0415

    from mofang.catalog.huggingface import read_config  # noqa: PLC0415
    from mofang.spec.weights import expected_shapes  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    values = _TINY_CONFIG | {"vocab_size": vocab} | config
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    chance = np.random.default_rng(seed)
    tensors = {
        name: (chance.normal(0.0, 0.05, shape) + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in expected_shapes(read_config(folder)).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _byte_tokenizer(folder / "tokenizer.json")
    return folder


_TINY_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 256,
    "bos_token_id": None,
    "torch_dtype": "float32",
}


def _byte_tokenizer(path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    tokenizer.save(str(path))


def a_digit_set(path: Path, *, count: int = 2000, seed: int = 0) -> Path:
    """Write an ``.npz`` of noisy digits, 12 x 12 pixels, at random places, and return its path.

    Args:
        path: where to write.
        count: of images.
        seed: of everything random in them.
    """
    import numpy as np  # noqa: PLC0415 - only where images are wanted

    chance = np.random.default_rng(seed)
    shapes = np.array([[int(bit) for bit in digit] for digit in _DIGITS], dtype=float).reshape(10, 7, 5)
    labels = np.concatenate([np.arange(10), chance.integers(0, 10, count - 10)])
    images = chance.normal(30.0, 15.0, (count, 12, 12))
    for image, label in zip(images, labels, strict=True):
        down, right = chance.integers(1, 4), chance.integers(2, 5)
        image[down : down + 7, right : right + 5] += shapes[label] * chance.uniform(120.0, 200.0)
    np.savez(path, images=images.clip(0, 255).astype(np.uint8), labels=labels)
    return path


_DIGITS = (
    "01110100011001110101110011000101110",
    "00100011000010000100001000010001110",
    "01110100010000100010001000100011111",
    "11111000100010000010000011000101110",
    "00010001100101010010111110001000010",
    "11111100001111000001000011000101110",
    "00110010001000011110100011000101110",
    "11111000010001000100010000100001000",
    "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)


def simple_launch(
    *,
    job: Job,
    plan: Plan,
    attempt: Attempt,
    nodes: Mapping[str, Node],
    home: Path,
    wake: tuple[str, ...],
    wake_socket: str,
) -> LaunchSpec:
    """Return a launch that the memory twin understands, for any plan."""
    del plan
    parts = tuple(
        NodeLaunch(
            node=held.node,
            address=nodes[held.node].address,
            prefix=nodes[held.node].prefix,
            accelerator=held.accelerator,
            device_indices=held.indices,
            workers=len(held.indices),
        )
        for held in attempt.allocation.nodes
    )
    argv = job.scenario.task.argv if isinstance(job.scenario.task, Command) else ("train",)
    return LaunchSpec(
        job_id=job.id,
        attempt=attempt.number,
        fence=attempt.fence,
        run_dir=str(home / "runs" / job.id),
        nodes=parts,
        argv=argv,
        wake=wake,
        wake_socket=wake_socket,
    )


def until(condition: Callable[[], T], *, patience_s: float = 180.0) -> T:
    """Return what a condition returns, once that is true.

    Raises:
        AssertionError: it is not in time.
    """
    clock = SystemClock()
    give_up = clock.monotonic() + patience_s
    while clock.monotonic() < give_up:
        if found := condition():
            return found
        clock.sleep(_LOOK_AGAIN_S)
    raise AssertionError(f"it did not happen in {patience_s:.0f} s")
