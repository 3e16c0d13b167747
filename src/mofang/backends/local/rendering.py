"""What launching an attempt makes: the files and the command lines, nothing else and nothing less."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import PurePosixPath

from mofang.backends.local.hosts import behind
from mofang.backends.protocol import Artefact
from mofang.domain.codec import encode
from mofang.domain.launch import LaunchSpec
from mofang.errors import UsageError

__all__ = ["Rendering", "agent_command", "artefacts", "clear_command", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Files by absolute path, the launch file last, and one command line a node."""

    files: dict[str, str]
    commands: tuple[tuple[str, ...], ...]


def render(spec: LaunchSpec) -> Rendering:
    """Return what to write and what to execute; secrets are in none of it, only the path of their file.

    Raises:
        UsageError: a file's name leads out of the attempt's directory.
    """
    files = {f"{spec.run_dir}/fence": f"{spec.fence}\n"}
    for name, text in spec.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"file {name!r} does not lie in the attempt's directory")
        files[f"{spec.attempt_dir}/{name}"] = text
    files[f"{spec.attempt_dir}/launch.json"] = encode(spec) + "\n"
    return Rendering(files=files, commands=tuple(agent_command(spec, node) for node in range(len(spec.nodes))))


def artefacts(spec: LaunchSpec) -> tuple[Artefact, ...]:
    """Return the rendering as text for people."""
    rendering = render(spec)
    files = [Artefact(name=path, text=text) for path, text in rendering.files.items()]
    commands = [
        Artefact(name=f"agent on {node.node}", text=shlex.join(command))
        for node, command in zip(spec.nodes, rendering.commands, strict=True)
    ]
    worker = Artefact(name="worker", text=shlex.join(spec.argv))
    return (*files, *commands, worker)


def agent_command(spec: LaunchSpec, node: int) -> tuple[str, ...]:
    """Return the command that starts the agent of a node, detached."""
    argv = (sys.executable, "-P", "-m", "mofang.recovery.agent", "--dir", spec.attempt_dir, "--node", str(node))
    return tuple(behind(spec.nodes[node].prefix, argv))


def clear_command(spec: LaunchSpec, node: int) -> tuple[str, ...]:
    """Return the command that ends the attempt on a node by force and prints how many processes that took."""
    argv = (sys.executable, "-P", "-m", "mofang.recovery.clear", spec.attempt_dir, str(node), spec.marker)
    return tuple(behind(spec.nodes[node].prefix, argv))
