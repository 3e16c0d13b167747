"""A job file that was read, turned into a ``Scenario``: names looked up, paths absolute, units in SI."""

from __future__ import annotations

from dataclasses import replace

from mofang.domain.hardware import CPU
from mofang.domain.scenario import (
    Classify,
    Command,
    Finetune,
    Limits,
    Pretrain,
    Resources,
    RestartPolicy,
    Scenario,
    Serve,
)
from mofang.spec.checks import check_devices, check_members
from mofang.spec.context import Context
from mofang.spec.environment import environment_of
from mofang.spec.schema.body import JobFileBody
from mofang.spec.schema.classify import ClassifyFile
from mofang.spec.schema.files import CommandFile
from mofang.spec.schema.finetune import FinetuneBody
from mofang.spec.schema.pretrain import PretrainFile
from mofang.spec.schema.serve import ServeFile
from mofang.spec.tasks.classify import classify_task
from mofang.spec.tasks.finetune import finetune_task
from mofang.spec.tasks.pretrain import pretrain_task
from mofang.spec.tasks.serve import serve_task
from mofang.units import DeviceRequest

__all__ = ["resolve"]


def resolve(file: JobFileBody, context: Context) -> Scenario:
    """Return the scenario of a file.

    Raises:
        MofangError: something the file names does not exist, or its figures do not fit each other.
    """
    resources = _resources(file, context)
    here = replace(context, resources=resources, name=file.name or context.name)
    return Scenario(
        name=here.name,
        task=_task(file, here),
        resources=resources,
        environment=environment_of(file.environment, context),
        goal=file.goal,
        limits=Limits(deadline_s=file.limits.deadline, budget=file.limits.budget),
        restart=_restart(file, context),
        grace_s=file.grace,
        priority=file.priority,
    )


def _restart(file: JobFileBody, context: Context) -> RestartPolicy:
    keys = file.restart
    check_members(file, context)
    return RestartPolicy(
        max_restarts=keys.max,
        same_failure=keys.same_failure,
        hang_timeout_s=keys.hang_timeout,
        spare_nodes=keys.spare_nodes,
        min_nodes=keys.min_nodes,
        node_timeout_s=keys.node_timeout,
        replace_stragglers=keys.replace_stragglers,
    )


def _task(file: JobFileBody, context: Context) -> Pretrain | Finetune | Classify | Serve | Command:
    match file:
        case PretrainFile():
            return pretrain_task(file, context)
        case FinetuneBody():
            return finetune_task(file, context)
        case ClassifyFile():
            return classify_task(file, context)
        case ServeFile():
            return serve_task(file, context)
        case CommandFile():
            return _command(file, context)
        case _:
            raise TypeError(f"{type(file).__name__} describes no task")


def _command(file: CommandFile, context: Context) -> Command:
    check_devices(context, workers=file.workers, threads=file.cores_per_worker)
    return Command(argv=tuple(file.command), workers=file.workers, cores_per_worker=file.cores_per_worker)


def _resources(file: JobFileBody, context: Context) -> Resources:
    keys, document = file.resources, context.document
    if keys.devices and keys.any_of:
        raise document.error(("resources", "any_of"), "devices and any_of exclude each other", "keep one of them")
    found = []
    for index, request in enumerate(keys.any_of or ()):
        with document.blame("resources", "any_of", index):
            found.append(_request(request, context))
    if keys.devices:
        with document.blame("resources", "devices"):
            found.append(_request(keys.devices, context))
    return Resources(any_of=tuple(found), ordered=keys.ordered, nodes=keys.nodes, memory_bytes=keys.memory)


def _request(request: DeviceRequest, context: Context) -> DeviceRequest:
    is_cpu = request.name.lower() == CPU
    return DeviceRequest(CPU if is_cpu else context.catalog.accelerator(request.name).name, request.count)
