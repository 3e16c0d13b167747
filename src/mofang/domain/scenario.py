"""What the user wants: task, model, data, goal and limits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.errors import SpecError
from mofang.units import DeviceRequest

__all__ = [
    "Adapter",
    "Augmentation",
    "Classify",
    "Command",
    "Environment",
    "Finetune",
    "Goal",
    "ImageData",
    "Lengths",
    "Limits",
    "LossPolicy",
    "Mount",
    "OnTrouble",
    "Optimisation",
    "Pretrain",
    "Resources",
    "RestartPolicy",
    "Scenario",
    "Secret",
    "Serve",
    "ServiceLevel",
    "StrategyChoice",
    "TextData",
    "Traffic",
    "Training",
    "VisionModel",
    "WorkdirMode",
]


class Goal(StrEnum):
    """What the best plan minimises."""

    TIME = "time"
    COST = "cost"
    ENERGY = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What no plan may exceed: seconds from submission, and money in the currency of the price list."""

    deadline_s: float | None = None
    budget: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Alternatives, best first where ``ordered``; empty: any device that fits."""

    any_of: tuple[DeviceRequest, ...] = ()
    ordered: bool = False
    nodes: int | None = None  # None: as many as needed
    memory_bytes: int | None = None  # host memory a node


class WorkdirMode(StrEnum):
    """How the working directory reaches the workers."""

    SHARED = "shared"  # used in place: every host sees the same path
    UPLOAD = "upload"  # copied when the job is submitted; later edits do not change the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A secret by reference: its value is read when the job is submitted and never shown, logged or put in argv."""

    name: str  # the environment variable that workers see
    source: Literal["env", "file"]
    reference: str  # the variable or the path it is read from


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path that workers see: ``target`` becomes a link to ``source`` inside the working directory."""

    target: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a job runs in."""

    venv: str | None = None
    modules: tuple[str, ...] = ()
    image: str | None = None  # for the cluster backends
    workdir: str | None = None  # absolute; None: the run directory
    workdir_mode: WorkdirMode = WorkdirMode.SHARED
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[Secret, ...] = ()
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When to go on: ``same_failure`` failures alike at the same step end the job; ``max_restarts`` None: no limit.

    ``spare_nodes`` are allocated beside those that compute and take over when one is lost. Without one left, training
    goes on with no fewer than ``min_nodes`` nodes at the same global batch; None: it waits for the lost node instead.
    A node from which nothing is heard for ``node_timeout_s`` is lost. One that holds all others back is reported, and
    with ``replace_stragglers`` a spare takes its place, where there is one.
    """

    max_restarts: int | None = None
    same_failure: int = 3
    hang_timeout_s: float = 300.0  # at most: no progress for this long is a hang where step times are not learned yet
    spare_nodes: int = 0
    min_nodes: int | None = None
    replace_stragglers: bool = False
    node_timeout_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long documents or requests are: tokens at evenly spaced quantiles, the shortest first, the longest last."""

    quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.quantiles) < 2 or min(self.quantiles) <= 0:
            raise SpecError("a length distribution needs at least its shortest and longest length, both above zero")
        if any(first > second for first, second in itertools.pairwise(self.quantiles)):
            raise SpecError(f"quantiles of lengths must not fall: {self.quantiles}")

    @property
    def mean(self) -> float:
        """Mean length in tokens, linear between the quantiles."""
        pairs = list(itertools.pairwise(self.quantiles))
        return sum((first + second) / 2 for first, second in pairs) / len(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextData:
    """Text to train on.

    Paths are absolute files, globs or folders; ``python-stdlib`` is the source of the standard library of the machine
    that trains.
    """

    paths: tuple[str, ...]
    tokenizer: str = "bytes"  # or the absolute path of a tokenizer.json
    validation_fraction: float = 0.02
    size_bytes: int | None = None  # as seen when the job was planned
    tokens: int | None = None  # as counted then, where the text was small


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """AdamW (arXiv:1711.05101) with linear warm-up and cosine decay to ``lr * min_lr_ratio``."""

    lr: float = 3e-4
    min_lr_ratio: float = 0.1
    warmup_steps: int = 20
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0


class OnTrouble(StrEnum):
    """What is done about a loss that goes wrong."""

    REPORT = "report"  # and nothing else
    ROLL_BACK = "roll-back"  # to the last good state, and leave out the data that led there
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPolicy:
    """What is done about a loss that is not a number, and about one far above its recent past.

    Training goes back at most ``roll_backs`` times from one start of its workers to the next; after them a loss that is
    not a number ends the job.
    """

    on_not_finite: OnTrouble = OnTrouble.ROLL_BACK
    on_spike: OnTrouble = OnTrouble.REPORT
    roll_backs: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyChoice:
    """What the user fixes himself; None leaves the choice to matching."""

    workers: int | None = None
    threads: int | None = None
    dp: int | None = None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    sharding: Sharding | None = None
    precision: Precision | None = None
    recompute: Recompute | None = None
    micro_batch: int | None = None
    compile: bool | None = None
    ep: int | None = None
    vpp: int | None = None
    framework: str | None = None
    offload: Offload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What every kind of training is asked.

    One of ``steps``, ``duration_s`` and, where there is one, ``epochs`` is set: with a duration, matching turns the
    predicted speed into a number of steps, frozen in the plan.
    """

    global_batch: int  # sequences or images in one optimiser step
    steps: int | None = None
    duration_s: float | None = None
    optimisation: Optimisation = Optimisation()
    loss_policy: LossPolicy = LossPolicy()
    strategy: StrategyChoice = StrategyChoice()
    checkpoint_every_steps: int | None = None  # None: about every checkpoint_every_s seconds of predicted time
    checkpoint_every_s: float = 15.0
    keep_checkpoints: int = 3
    validate_every: int = 50
    log_every: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrain(Training):
    """Train a decoder-only model from scratch."""

    model: ModelArchitecture
    data: TextData
    sequence: int
    validation_batches: int = 8
    sample_tokens: int = 400  # length of the text generated at the end; 0: none
    fault_at_fraction: float | None = None  # kill one worker when this part of the steps is done (demonstrations)
    kind: Literal["pretrain"] = "pretrain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """Low-rank adapters (LoRA, arXiv:2106.09685): weights W + alpha / rank x B A on the ``targets``."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SpecError(f"an adapter's rank must be at least 1, not {self.rank}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune(Training):
    """Train a published causal language model further, on texts or on pairs of prompt and response.

    ``method`` None leaves full, LoRA or QLoRA to matching. ``lengths`` describes the documents; with ``packing``
    several share a sequence, without it each is padded.
    """

    model: ModelArchitecture
    model_path: str | None  # folder in Hugging Face format (config.json, safetensors); None: only to plan with
    data: TextData
    sequence: int
    method: Method | None = None
    adapter: Adapter = Adapter()
    lengths: Lengths | None = None  # None: every document fills its sequence
    packing: bool = True
    epochs: float | None = None
    validation_batches: int = 8
    sample_tokens: int = 0
    kind: Literal["finetune"] = "finetune"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageData:
    """Images and their classes: a folder with one folder a class, or an ``.npz`` with ``images`` and ``labels``."""

    path: str
    num_classes: int
    num_images: int
    channels: int = 3
    validation_fraction: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModel:
    """A vision transformer (arXiv:2010.11929): square patches as tokens, one class token, learned positions."""

    name: str
    image_size: int
    patch_size: int
    layers: int
    hidden: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise SpecError(f"patches of {self.patch_size} do not tile images of {self.image_size}")
        if self.hidden % self.heads:
            raise SpecError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")

    @property
    def sequence(self) -> int:
        """Tokens of one image: its patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How images are changed at random each time they are trained on (arXiv:1512.03385, section 4.2).

    They are moved by up to ``shift`` pixels each way, their edges repeated, and mirrored left to right half of the
    time where ``flip`` is set.
    """

    shift: int = 0
    flip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify(Training):
    """Train an image classifier from scratch."""

    model: VisionModel
    data: ImageData
    epochs: float | None = None
    augmentation: Augmentation = Augmentation()
    kind: Literal["classify"] = "classify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests of a service: lengths in tokens, and how many come. One of ``rate`` and ``concurrency`` may be set."""

    input: Lengths
    output: Lengths
    rate: float | None = None  # requests/s, arriving at random (Poisson)
    concurrency: int | None = None  # requests in flight at any time (a closed loop)
    prefix_hit: float = 0.0  # part of the input tokens found in a prefix cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLevel:
    """What a service must keep: seconds to the first token and per token after it, at this percentile of requests."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 0.95

    @property
    def has_limits(self) -> bool:
        """Whether anything has to be kept."""
        return self.ttft_s is not None or self.tpot_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Serve a causal language model over HTTP. ``precision`` of the weights and ``kv_precision`` None: chosen."""

    model: ModelArchitecture
    model_path: str | None
    traffic: Traffic
    level: ServiceLevel = ServiceLevel()
    precision: Precision | None = None
    kv_precision: Precision | None = None
    disaggregated: bool | None = None  # separate prefill and decode; None: chosen
    strategy: StrategyChoice = StrategyChoice()
    port: int = 0  # 0: any free one
    max_sequence: int | None = None
    seed: int = 0
    kind: Literal["serve"] = "serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """The user's own program, started once a worker with torchrun's variables; its estimate is unknown."""

    argv: tuple[str, ...]
    workers: int = 1
    cores_per_worker: int = 1
    kind: Literal["command"] = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything a job file says, resolved: names looked up, paths absolute, units in SI."""

    name: str
    task: Pretrain | Finetune | Classify | Serve | Command
    resources: Resources = Resources()
    environment: Environment = Environment()
    goal: Goal = Goal.TIME
    limits: Limits = Limits()
    restart: RestartPolicy = RestartPolicy()
    grace_s: float = 10.0  # between SIGTERM and SIGKILL
    priority: int = 0
