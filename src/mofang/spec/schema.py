"""The job file: every key, its type and what it means. ``json_schema`` is made from these classes."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.json_schema import models_json_schema

from mofang.domain.hardware import Precision
from mofang.domain.scenario import Goal, WorkdirMode
from mofang.domain.strategy import Recompute, Sharding
from mofang.spec.document import shown
from mofang.spec.quantities import (
    Bytes,
    CheckpointEvery,
    CommandWords,
    Duration,
    EnvironmentText,
    Name,
    PositiveCount,
    PositiveDuration,
    Request,
    Texts,
    WholeCount,
    refuse,
)

__all__ = ["CommandFile", "InlineModel", "JobFileBody", "PretrainFile", "Workdir", "json_schema", "nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'X'?`` for the known word nearest to this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


class Section(BaseModel):
    """A part of a job file: unknown keys are refused, an empty value means that it is not given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise refuse("keys and values are expected here", f"keys here: {', '.join(cls.model_fields)}")
        for key in data:
            if key not in cls.model_fields:
                keys = f"keys here: {', '.join(cls.model_fields)}"
                hint = "; ".join(part for part in (nearest(key, cls.model_fields), keys) if part)
                raise refuse(f"there is no key {shown(key)} here", hint, key)
        return {key: value for key, value in data.items() if value is not None}


class InlineModel(Section):
    """A decoder-only transformer written out: RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    layers: PositiveCount = Field(description="number of blocks")
    hidden: PositiveCount = Field(description="width of the residual stream")
    heads: PositiveCount = Field(description="query heads")
    kv_heads: PositiveCount | None = Field(default=None, description="key and value heads; default: heads")
    ffn: PositiveCount | None = Field(
        default=None, description="feed-forward width; default: 8/3 hidden, rounded up to 8"
    )
    vocab: PositiveCount | None = Field(default=None, description="default: the tokenizer's, 256 for bytes")
    head_dim: PositiveCount | None = Field(default=None, description="width of one head; default: hidden / heads")
    max_sequence: PositiveCount | None = Field(default=None, description="longest sequence; default: train.sequence")
    tied_embeddings: bool = Field(default=False, description="whether the head shares the input table")
    name: Name | None = Field(default=None, description="what reports call it")


class Data(Section):
    """Text to train on."""

    text: Texts = Field(description="files, globs or folders, or python-stdlib (Python's own source code)")
    tokenizer: str = Field(default="bytes", description="bytes, or the path of a tokenizer.json")
    validation: float = Field(default=0.02, gt=0, le=0.5, description="part of the text that is kept for validation")


class Train(Section):
    """How long and how to train. One of steps, duration and tokens says how long."""

    sequence: PositiveCount | None = Field(
        default=None, description="tokens in one sequence; default: the model's, at most 1024"
    )
    global_batch: PositiveCount = Field(default=16, description="sequences in one optimiser step, over all workers")
    steps: PositiveCount | None = Field(default=None, description="optimiser steps")
    duration: PositiveDuration | None = Field(
        default=None, description="time to train for, turned into steps by the plan"
    )
    tokens: PositiveCount | None = Field(default=None, description="tokens to train on, rounded up to whole steps")
    lr: float = Field(default=3e-4, gt=0, description="AdamW's learning rate after warm-up")
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1, description="the rate at the end, as a part of lr")
    warmup: WholeCount = Field(default=20, description="steps of linear warm-up")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's decoupled weight decay")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first decay rate")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's second decay rate")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    checkpoint_every: CheckpointEvery = Field(default=15.0, description="steps (50) or a duration (15s)")
    keep_checkpoints: PositiveCount = Field(default=3, description="how many of the newest are kept")
    validate_every: PositiveCount = Field(default=50, description="steps between validations")
    validation_batches: PositiveCount = Field(default=8, description="batches in one validation")
    log_every: PositiveCount = Field(default=1, description="steps between reports of the loss")
    seed: WholeCount = Field(default=0, description="of weights and data order")
    sample_tokens: WholeCount = Field(default=400, description="length of the text generated at the end; 0: none")
    fault_at: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="kill one worker when this part of the steps is done, to watch the recovery",
    )


class StrategyKeys(Section):
    """What you fix yourself; whatever is left out, matching chooses."""

    workers: PositiveCount | None = Field(default=None, description="processes: dp x tp x pp x cp")
    threads: PositiveCount | None = Field(default=None, description="cores of one worker (cpu only)")
    dp: PositiveCount | None = Field(default=None, description="data parallel size")
    tp: PositiveCount | None = Field(default=None, description="tensor parallel size")
    pp: PositiveCount | None = Field(default=None, description="pipeline parallel size")
    cp: PositiveCount | None = Field(default=None, description="context parallel size")
    sharding: Annotated[Sharding, Field(strict=False)] | None = Field(
        default=None, description="of data-parallel ranks"
    )
    precision: Annotated[Precision, Field(strict=False)] | None = Field(default=None, description="of matrix products")
    recompute: Annotated[Recompute, Field(strict=False)] | None = Field(
        default=None, description="activations computed again"
    )
    micro_batch: PositiveCount | None = Field(default=None, description="sequences in one forward pass of one worker")
    compile: bool | None = Field(default=None, description="whether torch.compile is used")


class ResourceKeys(Section):
    """Which devices may be used; left out: any that fit."""

    devices: Request | None = Field(default=None, description="a kind and how many: H100:8, H100:8..64, cpu:2")
    any_of: list[Request] | None = Field(default=None, min_length=1, description="alternatives to choose from")
    ordered: bool = Field(default=False, description="whether any_of is in order of preference")
    nodes: PositiveCount | None = Field(default=None, description="over how many nodes; default: as many as needed")
    memory: Bytes | None = Field(default=None, description="host memory on each node")


class LimitKeys(Section):
    """What no plan may exceed."""

    deadline: PositiveDuration | None = Field(default=None, description="time from submission to the end")
    budget: float | None = Field(default=None, gt=0, description="money, in the currency of the price list")


class Workdir(Section):
    """A working directory and how it reaches the workers."""

    path: str = Field(description="a folder")
    mode: Annotated[WorkdirMode, Field(strict=False)] = Field(
        default=WorkdirMode.SHARED, description="shared: used in place; upload: copied when the job is submitted"
    )


class SecretSource(Section):
    """Where a secret is read from when the job is submitted; it is never written here."""

    env: str | None = Field(default=None, min_length=1, description="name of an environment variable")
    file: str | None = Field(default=None, min_length=1, description="path of a file")

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, data: Any) -> Any:
        """Runs before every other check, none of which may print what could be a secret."""
        if not isinstance(data, dict) or len(data) != 1 or not {"env", "file"}.issuperset(data):
            raise refuse(
                "a secret is given by reference, never in the file",
                "write {env: NAME} or {file: path}, and keep the value there",
            )
        if not isinstance(next(iter(data.values())), str):
            raise refuse("a secret's reference must be text", "write {env: NAME} or {file: path}")
        return data


def _by_type(kind: type) -> Discriminator:
    return Discriminator(lambda value: "(mapping)" if isinstance(value, dict | kind) else "(text)")


class EnvironmentKeys(Section):
    """What the job runs in."""

    venv: str | None = Field(default=None, description="a Python virtual environment")
    modules: list[str] = Field(default_factory=list, description="environment modules to load")
    image: str | None = Field(default=None, description="a container image, for the cluster backends")
    workdir: (
        Annotated[Annotated[str, Tag("(text)")] | Annotated[Workdir, Tag("(mapping)")], _by_type(Workdir)] | None
    ) = Field(default=None, description="a folder, or {path, mode: upload | shared}")
    env: dict[str, EnvironmentText] = Field(default_factory=dict, description="environment variables")
    secrets: dict[str, SecretSource] = Field(default_factory=dict, description="variables whose values stay elsewhere")
    mounts: dict[str, str] = Field(default_factory=dict, description="path in the working directory: path it shows")


class RestartKeys(Section):
    """When to go on after a failure."""

    max: WholeCount | None = Field(default=None, description="restarts at most; default: no limit")
    same_failure: PositiveCount = Field(default=3, description="failures alike at the same step that end the job")
    hang_timeout: PositiveDuration = Field(default=300.0, description="no progress for this long is a hang")


class JobFileBody(Section):
    """What every kind of job file may say."""

    version: Literal[1] = Field(default=1, description="of this format")
    name: Name | None = Field(default=None, description="what the job is called; default: from the file's name")
    resources: ResourceKeys = Field(default_factory=ResourceKeys, description="which devices may be used")
    goal: Annotated[Goal, Field(strict=False)] = Field(default=Goal.TIME, description="what the best plan minimises")
    limits: LimitKeys = Field(default_factory=LimitKeys, description="what no plan may exceed")
    environment: EnvironmentKeys = Field(default_factory=EnvironmentKeys, description="what the job runs in")
    restart: RestartKeys = Field(default_factory=RestartKeys, description="when to go on after a failure")
    grace: Duration = Field(default=10.0, description="between SIGTERM and SIGKILL")
    priority: int = Field(default=0, ge=-1000, le=1000, description="jobs with more start first")


class PretrainFile(JobFileBody):
    """Train a decoder-only model on text, from scratch."""

    kind: Literal["pretrain"] = Field(description="train a model from scratch")
    model: Annotated[
        Annotated[str, Tag("(text)")] | Annotated[InlineModel, Tag("(mapping)")], _by_type(InlineModel)
    ] = Field(description="a name of the catalogue, the path of a config.json, or the sizes themselves")
    data: Data = Field(description="text to train on")
    train: Train = Field(description="how long and how to train")
    strategy: StrategyKeys = Field(default_factory=StrategyKeys, description="what you fix yourself")


class CommandFile(JobFileBody):
    """Run your own program, one process a worker."""

    kind: Literal["command"] = Field(description="run your own program")
    command: CommandWords = Field(description="a list of words, or a text that is split into words (no shell)")
    workers: PositiveCount = Field(default=1, description="processes, each with torchrun's variables")
    cores_per_worker: PositiveCount = Field(default=1, description="cores of one worker (cpu only)")


class PlanFile(Section):
    """What ``mofang plan -o yaml`` prints: a scenario and one plan for it, fully resolved, runnable as it stands."""

    kind: Literal["plan"] = Field(description="a saved plan")
    version: Literal[1] = Field(default=1, description="of this format")
    scenario: dict[str, Any] = Field(description="as written by Mofang")
    plan: dict[str, Any] = Field(description="as written by Mofang")


FILES: dict[str, type[Section]] = {"pretrain": PretrainFile, "command": CommandFile, "plan": PlanFile}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of job files, for editors."""
    _, made = models_json_schema([(kind, "validation") for kind in FILES.values()])
    definitions = {name: _plain(made["$defs"][name]) for name in _reachable(made["$defs"])}
    choices = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in FILES.values()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mofang job file",
        "oneOf": choices,
        "$defs": definitions,
    }


def _reachable(definitions: dict[str, Any]) -> list[str]:
    """Return the definitions that job files refer to; pydantic also makes some for values that are read from text."""
    found = [kind.__name__ for kind in FILES.values()]
    for name in found:
        references = re.findall(r'"#/\$defs/(\w+)"', json.dumps(definitions[name]))
        found.extend(new for new in dict.fromkeys(references) if new not in found)
    return found


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    """Join the lines of a description that came from a docstring."""
    text = part.get("description")
    return part | {"description": re.sub(r"\s+", " ", text)} if isinstance(text, str) else part
