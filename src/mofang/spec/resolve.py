"""A job file that was read, turned into a ``Scenario``: names looked up, paths absolute, units in SI."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.domain.hardware import CPU
from mofang.domain.scenario import (
    Command,
    Environment,
    Limits,
    Mount,
    Optimisation,
    Pretrain,
    Resources,
    RestartPolicy,
    Scenario,
    Secret,
    TextData,
    WorkdirMode,
)
from mofang.errors import SpecError
from mofang.spec.architecture import Catalog, architecture
from mofang.spec.checks import check_amount, check_devices, check_pretrain, fixed_choice
from mofang.spec.data import PYTHON_STDLIB, inspect_text, tokenizer_vocabulary
from mofang.spec.document import Document, shown
from mofang.spec.schema import CommandFile, EnvironmentKeys, JobFileBody, PretrainFile, Train, Workdir
from mofang.units import DeviceRequest

__all__ = ["Resolver"]

_BYTE_VOCABULARY = 256
_CHECKPOINT_EVERY_S = 15.0  # has no effect where checkpoints are counted in steps
_RESERVED = re.compile(r"MOFANG_.*|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_ADDR|MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Resolves one document. ``base_dir`` is what its relative paths count from, ``name`` is for a job without one."""

    document: Document
    base_dir: Path
    catalog: Catalog
    name: str

    def scenario(self, file: PretrainFile | CommandFile) -> Scenario:
        """Return the scenario.

        Raises:
            MofangError: something the file names does not exist, or its figures do not fit each other.
        """
        resources = self._resources(file)
        name = file.name or self.name
        task = (
            self._pretrain(file, resources, name) if isinstance(file, PretrainFile) else self._command(file, resources)
        )
        return Scenario(
            name=name,
            task=task,
            resources=resources,
            environment=self._environment(file.environment),
            goal=file.goal,
            limits=Limits(deadline_s=file.limits.deadline, budget=file.limits.budget),
            restart=RestartPolicy(
                max_restarts=file.restart.max,
                same_failure=file.restart.same_failure,
                hang_timeout_s=file.restart.hang_timeout,
            ),
            grace_s=file.grace,
            priority=file.priority,
        )

    def _path(self, text: str) -> str:
        return os.path.normpath(self.base_dir / os.path.expanduser(text))  # noqa: PTH111 - Path's fails on ~nobody

    def _resources(self, file: JobFileBody) -> Resources:
        keys, blame = file.resources, self.document.blame
        if keys.devices and keys.any_of:
            raise self.document.error(
                ("resources", "any_of"), "devices and any_of exclude each other", "keep one of them"
            )
        found = []
        for index, request in enumerate(keys.any_of or ()):
            with blame("resources", "any_of", index):
                found.append(self._request(request))
        if keys.devices:
            with blame("resources", "devices"):
                found.append(self._request(keys.devices))
        return Resources(any_of=tuple(found), ordered=keys.ordered, nodes=keys.nodes, memory_bytes=keys.memory)

    def _request(self, request: DeviceRequest) -> DeviceRequest:
        is_cpu = request.name.lower() == CPU
        return DeviceRequest(CPU if is_cpu else self.catalog.accelerator(request.name).name, request.count)

    def _command(self, file: CommandFile, resources: Resources) -> Command:
        check_devices(self.document, resources, workers=file.workers, threads=file.cores_per_worker)
        return Command(argv=tuple(file.command), workers=file.workers, cores_per_worker=file.cores_per_worker)

    def _pretrain(self, file: PretrainFile, resources: Resources, name: str) -> Pretrain:
        train, blame = file.train, self.document.blame
        tokenizer, vocabulary = self._tokenizer(file.data.tokenizer)
        with blame("model"):
            model, sequence = architecture(
                file.model,
                sequence=train.sequence,
                vocabulary=vocabulary,
                base_dir=self.base_dir,
                catalog=self.catalog,
                name=name,
            )
            if model.vocab < vocabulary:
                raise SpecError(
                    f"the model's vocabulary of {model.vocab} is smaller than the tokenizer's of {vocabulary}",
                    hint=f"use vocab: {vocabulary} or more, or another tokenizer",
                )
        with blame("train", "sequence"):
            if sequence > model.max_sequence:
                raise SpecError(
                    f"sequence {sequence} is longer than the model allows: {model.max_sequence}",
                    hint=f"use {model.max_sequence} or less",
                )
        check_devices(self.document, resources, workers=file.strategy.workers, threads=file.strategy.threads)
        check_pretrain(file, self.document, layers=model.layers, heads=model.heads, sequence=sequence)
        data = self._text(file, tokenizer, sequence)
        every = train.checkpoint_every
        return Pretrain(
            model=model,
            data=data,
            sequence=sequence,
            global_batch=train.global_batch,
            steps=self._steps(train, sequence),
            duration_s=train.duration,
            optimisation=_optimisation(train),
            strategy=fixed_choice(file),
            checkpoint_every_steps=every if isinstance(every, int) else None,
            checkpoint_every_s=every if isinstance(every, float) else _CHECKPOINT_EVERY_S,
            keep_checkpoints=train.keep_checkpoints,
            validate_every=train.validate_every,
            validation_batches=train.validation_batches,
            log_every=train.log_every,
            seed=train.seed,
            sample_tokens=train.sample_tokens,
            fault_at_fraction=train.fault_at,
        )

    def _tokenizer(self, text: str) -> tuple[str, int]:
        if text == "bytes":
            return text, _BYTE_VOCABULARY
        path = self._path(text)
        with self.document.blame("data", "tokenizer"):
            return path, tokenizer_vocabulary(path)

    def _text(self, file: PretrainFile, tokenizer: str, sequence: int) -> TextData:
        paths = tuple(text if text == PYTHON_STDLIB else self._path(text) for text in file.data.text)
        with self.document.blame("data", "text"):
            data = TextData(
                paths=paths,
                tokenizer=tokenizer,
                validation_fraction=file.data.validation,
                size_bytes=inspect_text(paths, tokenizer),
            )
            check_amount(data, sequence)
        return data

    def _steps(self, train: Train, sequence: int) -> int | None:
        given = [name for name in ("steps", "duration", "tokens") if getattr(train, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} exclude each other" if given else "how long to train is missing"
            path = ("train", given[-1]) if given else ("train",)
            raise self.document.error(path, what, "write one of steps: 600, duration: 90s and tokens: 10M")
        if train.tokens is not None:
            return -(-train.tokens // (sequence * train.global_batch))
        return train.steps

    def _environment(self, keys: EnvironmentKeys) -> Environment:
        self._check_variables(keys)
        workdir, mode = self._workdir(keys.workdir)
        return Environment(
            venv=None if keys.venv is None else self._path(keys.venv),
            modules=tuple(keys.modules),
            image=keys.image,
            workdir=workdir,
            workdir_mode=mode,
            variables=dict(keys.env),
            secrets=tuple(self._secrets(keys)),
            mounts=tuple(self._mount(target, source) for target, source in keys.mounts.items()),
        )

    def _check_variables(self, keys: EnvironmentKeys) -> None:
        for part, names in (("env", keys.env), ("secrets", keys.secrets)):
            for name in names:
                path = ("environment", part, name)
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                    raise self.document.error(
                        path, f"{shown(name)} is not the name of a variable", "use letters, digits and _"
                    )
                if _RESERVED.fullmatch(name):
                    raise self.document.error(path, f"{name} is set by Mofang", "choose another name")
        for name in keys.env.keys() & keys.secrets.keys():
            raise self.document.error(("environment", "secrets", name), f"{name} is also in env", "keep one of them")

    def _secrets(self, keys: EnvironmentKeys) -> Sequence[Secret]:
        return [
            Secret(name=name, source="env", reference=source.env)
            if source.env is not None
            else Secret(name=name, source="file", reference=self._path(source.file or ""))
            for name, source in keys.secrets.items()
        ]

    def _workdir(self, given: str | Workdir | None) -> tuple[str | None, WorkdirMode]:
        if given is None:
            return None, WorkdirMode.SHARED
        folder = Workdir(path=given) if isinstance(given, str) else given
        path = self._path(folder.path)
        if not Path(path).is_dir():
            raise self.document.error(
                ("environment", "workdir"), f"the folder {path} does not exist", "make it, or change it"
            )
        return path, folder.mode

    def _mount(self, target: str, source: str) -> Mount:
        place = ("environment", "mounts", target)
        if Path(target).is_absolute() or os.path.normpath(target).startswith("..") or os.path.normpath(target) == ".":
            raise self.document.error(
                place,
                f"{shown(target)} does not lie inside the working directory",
                "write a relative path like data/texts",
            )
        path = self._path(source)
        if not Path(path).exists():
            raise self.document.error(place, f"{path} does not exist", "mount a file or a folder that is there")
        return Mount(target=os.path.normpath(target), source=path)


def _optimisation(train: Train) -> Optimisation:
    return Optimisation(
        lr=train.lr,
        min_lr_ratio=train.min_lr_ratio,
        warmup_steps=train.warmup,
        weight_decay=train.weight_decay,
        beta1=train.beta1,
        beta2=train.beta2,
        clip_norm=train.clip,
    )
