"""Every kind of job file, and the JSON schema of them all."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import models_json_schema

from mofang.spec.quantities import CommandWords, PositiveCount
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.classify import ClassifyFile
from mofang.spec.schema.finetune import FinetuneFile, LoraFile
from mofang.spec.schema.pretrain import PretrainFile
from mofang.spec.schema.section import Section
from mofang.spec.schema.serve import ServeFile

__all__ = ["FILES", "JOB_FILES", "CommandFile", "PlanFile", "json_schema"]


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


JOB_FILES: dict[str, type[JobFileBody]] = {
    "pretrain": PretrainFile,
    "finetune": FinetuneFile,
    "lora": LoraFile,
    "classify": ClassifyFile,
    "serve": ServeFile,
    "command": CommandFile,
}
FILES: dict[str, type[Section]] = {**JOB_FILES, "plan": PlanFile}


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
