"""What a worker is started with: its command line, its environment and its cores."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.errors import UsageError
from mofang.recovery.agent.membership import Team, members, ranks_of
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.segments import segment_prefix

__all__ = ["cores_of", "link_mounts", "load_secrets", "worker_command", "worker_environment"]

_CPU = "cpu"
_LOAD_MODULES = 'n=$1; shift; while [ "$n" -gt 0 ]; do module load "$1" || exit; shift; n=$((n-1)); done; exec "$@"'
_OWN = ("MOFANG_JOB", "MOFANG_ATTEMPT", "MOFANG_GENERATION", "MOFANG_MARKER", "MOFANG_NODE")


def worker_command(spec: LaunchSpec) -> tuple[str, ...]:
    """Return the argv of a worker; modules are loaded by a fixed script that takes everything as arguments."""
    modules = spec.environment.modules
    if not modules:
        return spec.argv
    return ("bash", "-lc", _LOAD_MODULES, "mofang", str(len(modules)), *modules, *spec.argv)


def cores_of(node: NodeLaunch, local_rank: int, present: Sequence[int]) -> tuple[int, ...]:
    """Return the cores of one worker: the node's, dealt out evenly; none where there are fewer cores than workers.

    Args:
        node: the node's part of the attempt.
        local_rank: the worker's index on its node.
        present: the cores that exist and may be used there.
    """
    if node.accelerator != _CPU:
        return ()
    usable = [index for index in node.device_indices if index in present]
    if len(usable) < node.workers:
        return ()
    start, end = (len(usable) * index // node.workers for index in (local_rank, local_rank + 1))
    return tuple(usable[start:end])


def load_secrets(path: str | None) -> dict[str, str]:
    """Return the secrets of a job by variable name.

    Raises:
        UsageError: the file is missing or is not an object of texts.
    """
    if path is None:
        return {}
    try:
        values = json.loads(Path(path).read_text())
        return {str(name): str(value) for name, value in values.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"the secrets of the job cannot be read: {type(error).__name__}") from error


def link_mounts(spec: LaunchSpec, workdir: Path) -> None:
    """Make every mount a link inside the working directory.

    Raises:
        UsageError: a target lies outside, or something else is in its place.
    """
    for mount in spec.environment.mounts:
        target = Path(os.path.normpath(workdir / mount.target))
        if not target.is_relative_to(workdir):
            raise UsageError(f"mount {mount.target} lies outside the working directory")
        if target.is_symlink() and target.readlink() == Path(mount.source):
            continue
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(mount.source)
        except OSError as error:
            raise UsageError(f"mount {mount.target} cannot be made: {error.strerror}") from error


def worker_environment(
    spec: LaunchSpec,
    *,
    base: Mapping[str, str],
    node: int,
    local_rank: int,
    generation: int,
    meeting: tuple[str, int],
    secrets: Mapping[str, str],
    nodes: Sequence[int] | None = None,
) -> dict[str, str]:
    """Return the whole environment of one worker.

    Args:
        spec: the attempt.
        base: the environment to add to.
        node: the index of the worker's node.
        local_rank: the worker's index on its node.
        generation: the number of the generation.
        meeting: the address and the port where the workers meet.
        secrets: values by variable name.
        nodes: those that take part, in the order of their ranks; None: as planned, a spare by itself.
    """
    team = Team.of(spec)
    planned = members(team.home) if node not in team.spares else (node,)
    taking_part = planned if nodes is None else tuple(nodes)
    environment = {name: value for name, value in base.items() if name not in _OWN}
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment |= {**spec.environment.variables, **spec.env, **secrets}
    if spec.environment.venv:
        environment["VIRTUAL_ENV"] = spec.environment.venv
        environment["PATH"] = os.pathsep.join((f"{spec.environment.venv}/bin", environment.get("PATH", os.defpath)))
        environment.pop("PYTHONHOME", None)
    places = _places(team, taking_part, node, local_rank)
    return environment | _devices(spec.nodes[node], environment) | places | _identity(spec, node, generation, meeting)


def _devices(node: NodeLaunch, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what binds a worker to its devices; as with torchrun, LOCAL_RANK indexes the visible accelerators."""
    if node.accelerator != _CPU:
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in node.device_indices)}
    threads = max(1, len(node.device_indices) // max(1, node.workers))
    return {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(threads))}


def _places(team: Team, nodes: Sequence[int], node: int, local_rank: int) -> dict[str, str]:
    """Return torchrun's numbers of a worker among those of the nodes that take part."""
    ranks = ranks_of(team.workers, nodes)
    return {
        "RANK": str(ranks[node][local_rank]),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(sum(len(each) for each in ranks.values())),
        "LOCAL_WORLD_SIZE": str(len(ranks[node])),
        "NODE_RANK": str(nodes.index(node)),
    }


def _identity(spec: LaunchSpec, node: int, generation: int, meeting: tuple[str, int]) -> dict[str, str]:
    directory = AttemptDir(Path(spec.attempt_dir))
    home = Path(spec.run_dir).parent.parent
    return {
        "MASTER_ADDR": meeting[0],
        "MASTER_PORT": str(meeting[1]),
        "MOFANG_JOB": spec.job_id,
        "MOFANG_ATTEMPT": str(spec.attempt),
        "MOFANG_GENERATION": str(generation),
        "MOFANG_MARKER": spec.marker,
        "MOFANG_NODE": str(node),
        "MOFANG_ATTEMPT_DIR": str(directory.path),
        "MOFANG_CHECKPOINT_DIR": str(directory.checkpoints),
        "MOFANG_DATA_DIR": spec.env.get("MOFANG_DATA_DIR", str(home / "data")),
        "MOFANG_SHM_PREFIX": segment_prefix(spec.marker, node if len(spec.nodes) > 1 else None),
    }
