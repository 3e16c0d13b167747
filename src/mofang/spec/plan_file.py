"""Saved plans: a scenario and one plan for it as YAML, which runs unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from mofang.domain.codec import from_data, to_data
from mofang.domain.plan import Plan
from mofang.domain.scenario import Classify, Command, Finetune, Pretrain, Scenario, Serve
from mofang.errors import MofangError
from mofang.spec.data import inspect_text
from mofang.spec.document import Document, KeyPath, know_core_schema, shown
from mofang.spec.examples import inspect_examples
from mofang.spec.images import inspect_images
from mofang.spec.problems import read_as
from mofang.spec.schema.files import PlanFile
from mofang.spec.schema.section import nearest
from mofang.spec.weights import stored_weights

__all__ = ["plan_to_yaml", "read_plan"]

T = TypeVar("T")


class _Dumper(yaml.SafeDumper):
    """Writes every value in full: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    """Write a float so that every reader sees a float: YAML 1.1 wants a dot before an exponent."""
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _float)
know_core_schema(_Dumper)


def plan_to_yaml(scenario: Scenario, plan: Plan) -> str:
    """Return a job file of kind ``plan`` that runs exactly this."""
    content = {"kind": "plan", "version": 1, "scenario": to_data(scenario), "plan": to_data(plan)}
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def read_plan(document: Document) -> tuple[Scenario, Plan]:
    """Return what ``plan_to_yaml`` wrote; its data is looked at again, its estimates stand.

    Raises:
        SpecError: a key is unknown or a value is wrong.
        DataError: the training data is gone.
    """
    file = read_as(PlanFile, document)
    scenario = _value(document, Scenario, "scenario", file.scenario)
    plan = _value(document, Plan, "plan", file.plan)
    _look_again(document, scenario.task)
    return scenario, plan


def _look_again(document: Document, task: Pretrain | Finetune | Classify | Serve | Command) -> None:
    """Refuse a plan whose data or weights are gone."""
    with document.blame("scenario", "task", "data", "paths"):
        if isinstance(task, Pretrain):
            inspect_text(task.data.paths, task.data.tokenizer)
        if isinstance(task, Finetune) and task.data.paths:
            inspect_examples(task.data.paths, task.data.tokenizer)
    with document.blame("scenario", "task", "data", "path"):
        if isinstance(task, Classify) and task.data.path:
            inspect_images(task.data.path, task.data.validation_fraction)
    with document.blame("scenario", "task", "model_path"):
        if isinstance(task, Finetune | Serve) and task.model_path is not None:
            stored_weights(Path(task.model_path))


def _value(document: Document, kind: type[T], key: str, data: dict[str, Any]) -> T:
    try:
        value = from_data(kind, data)
    except MofangError as error:
        hint = "write it again with `mofang plan -o yaml`"
        raise document.error((key,), error.message, hint) from error
    _refuse_unknown(document, (key,), data, to_data(value))
    return value


def _refuse_unknown(document: Document, path: KeyPath, given: Any, known: Any) -> None:
    """Refuse keys that were read over: the codec of the domain ignores what it does not know."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                hint = nearest(key, known) or f"keys here: {', '.join(known)}"
                raise document.error((*path, key), f"there is no key {shown(key)} here", hint)
            _refuse_unknown(document, (*path, key), value, known[key])
    elif isinstance(given, list) and isinstance(known, list):
        for index, (value, twin) in enumerate(zip(given, known, strict=False)):
            _refuse_unknown(document, (*path, index), value, twin)
