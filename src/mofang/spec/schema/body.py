"""What every kind of job file may say: devices, goal, limits, environment, restarts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from mofang.domain.scenario import Goal, WorkdirMode
from mofang.spec.quantities import (
    Bytes,
    Duration,
    EnvironmentText,
    Name,
    PositiveCount,
    PositiveDuration,
    Request,
    WholeCount,
    refuse,
)
from mofang.spec.schema.section import Section, by_type

__all__ = ["EnvironmentKeys", "JobFileBody", "LimitKeys", "ResourceKeys", "RestartKeys", "SecretSource", "Workdir"]


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


class EnvironmentKeys(Section):
    """What the job runs in."""

    venv: str | None = Field(default=None, description="a Python virtual environment")
    modules: list[str] = Field(default_factory=list, description="environment modules to load")
    image: str | None = Field(default=None, description="a container image, for the cluster backends")
    workdir: (
        Annotated[Annotated[str, Tag("(text)")] | Annotated[Workdir, Tag("(mapping)")], by_type(Workdir)] | None
    ) = Field(default=None, description="a folder, or {path, mode: upload | shared}")
    env: dict[str, EnvironmentText] = Field(default_factory=dict, description="environment variables")
    secrets: dict[str, SecretSource] = Field(default_factory=dict, description="variables whose values stay elsewhere")
    mounts: dict[str, str] = Field(default_factory=dict, description="path in the working directory: path it shows")


class RestartKeys(Section):
    """When to go on after a failure."""

    max: WholeCount | None = Field(default=None, description="restarts at most; default: no limit")
    same_failure: PositiveCount = Field(default=3, description="failures alike at the same step that end the job")
    hang_timeout: PositiveDuration = Field(default=300.0, description="no progress for this long is a hang")
    spare_nodes: WholeCount = Field(default=0, description="nodes held beside the plan's, to take a lost one's place")
    min_nodes: PositiveCount | None = Field(
        default=None, description="without a spare, go on with these at least; default: wait for the lost one"
    )
    node_timeout: PositiveDuration = Field(default=3.0, description="a node not heard of for this long is lost")
    replace_stragglers: bool = Field(default=False, description="put a spare node in place of one that is slow")


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
