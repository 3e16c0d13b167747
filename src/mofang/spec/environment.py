"""The environment of a job: variables, secrets by reference, working directory, mounts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mofang.domain.scenario import Environment, Mount, Secret, WorkdirMode
from mofang.spec.context import Context
from mofang.spec.document import shown
from mofang.spec.schema.body import EnvironmentKeys, Workdir

__all__ = ["environment_of"]

_RESERVED = re.compile(r"MOFANG_.*|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_ADDR|MASTER_PORT")
_OWN_SECRETS = {"MOFANG_SERVICE_TOKEN"}  # what a service asks of those who use it
# What a job may ask of the copies of its snapshots: the form of a value, and in words.
_SETTINGS = {
    "MOFANG_REPLICAS": (re.compile(r"[0-9]"), "how many other nodes keep a copy: 0 to 9"),
    "MOFANG_REPLICA_RATE": (re.compile(r"[1-9][0-9]{0,14}"), "bytes a second, such as 500000000"),
}


def environment_of(keys: EnvironmentKeys, context: Context) -> Environment:
    """Return what the job runs in.

    Raises:
        SpecError: a variable, a folder or a mount is wrong.
    """
    _check_variables(keys, context)
    workdir, mode = _workdir(keys.workdir, context)
    return Environment(
        venv=None if keys.venv is None else context.path(keys.venv),
        modules=tuple(keys.modules),
        image=keys.image,
        workdir=workdir,
        workdir_mode=mode,
        variables=dict(keys.env),
        secrets=tuple(_secrets(keys, context)),
        mounts=tuple(_mount(target, source, context) for target, source in keys.mounts.items()),
    )


def _check_variables(keys: EnvironmentKeys, context: Context) -> None:
    for part, names in (("env", keys.env), ("secrets", keys.secrets)):
        for name in names:
            path = ("environment", part, name)
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise context.document.error(
                    path, f"{shown(name)} is not the name of a variable", "use letters, digits and _"
                )
            if _RESERVED.fullmatch(name) and name not in (_OWN_SECRETS if part == "secrets" else _SETTINGS):
                raise context.document.error(path, f"{name} is set by Mofang", "choose another name")
    for name, (form, words) in _SETTINGS.items():
        value = keys.env.get(name)
        if value is not None and not form.fullmatch(value):
            raise context.document.error(("environment", "env", name), f"{shown(value)} is no value for {name}", words)
    for name in keys.env.keys() & keys.secrets.keys():
        raise context.document.error(("environment", "secrets", name), f"{name} is also in env", "keep one of them")


def _secrets(keys: EnvironmentKeys, context: Context) -> Sequence[Secret]:
    return [
        Secret(name=name, source="env", reference=source.env)
        if source.env is not None
        else Secret(name=name, source="file", reference=context.path(source.file or ""))
        for name, source in keys.secrets.items()
    ]


def _workdir(given: str | Workdir | None, context: Context) -> tuple[str | None, WorkdirMode]:
    if given is None:
        return None, WorkdirMode.SHARED
    folder = Workdir(path=given) if isinstance(given, str) else given
    path = context.path(folder.path)
    if not Path(path).is_dir():
        raise context.document.error(
            ("environment", "workdir"), f"the folder {path} does not exist", "make it, or change it"
        )
    return path, folder.mode


def _mount(target: str, source: str, context: Context) -> Mount:
    place = ("environment", "mounts", target)
    if Path(target).is_absolute() or os.path.normpath(target).startswith("..") or os.path.normpath(target) == ".":
        raise context.document.error(
            place,
            f"{shown(target)} does not lie inside the working directory",
            "write a relative path like data/texts",
        )
    path = context.path(source)
    if not Path(path).exists():
        raise context.document.error(place, f"{path} does not exist", "mount a file or a folder that is there")
    return Mount(target=os.path.normpath(target), source=path)
