"""``launch.json`` read without pydantic, which would double the time that an agent takes to start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.scenario import Environment, Mount, RestartPolicy, Secret, WorkdirMode
from mofang.errors import BackendError

__all__ = ["read_launch"]


def read_launch(path: Path) -> LaunchSpec:
    """Return the launch specification that ``mofang.domain.codec.encode`` wrote.

    Raises:
        BackendError: there is none, or it is not one.
    """
    try:
        record = json.loads(path.read_text())
        fields = dict(record)
        for name in ("argv", "wake"):
            fields[name] = tuple(fields[name])
        fields["nodes"] = tuple(_node(node) for node in record["nodes"])
        fields["environment"] = _environment(record["environment"])
        fields["restart"] = RestartPolicy(**record["restart"])
        return LaunchSpec(**fields)
    except OSError as error:
        raise BackendError(f"the launch file cannot be read: {error.strerror}: {path}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"the launch file is not one: {path}: {error}") from error


def _node(record: dict[str, Any]) -> NodeLaunch:
    lists = {name: tuple(record[name]) for name in ("prefix", "device_indices")}
    return NodeLaunch(**{**record, **lists})


def _environment(record: dict[str, Any]) -> Environment:
    converted = {
        "modules": tuple(record["modules"]),
        "workdir_mode": WorkdirMode(record["workdir_mode"]),
        "secrets": tuple(Secret(**secret) for secret in record["secrets"]),
        "mounts": tuple(Mount(**mount) for mount in record["mounts"]),
    }
    return Environment(**{**record, **converted})
