"""The local backend: agents started as detached processes, one a node."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mofang.backends.local.hosts import HostEntry, load_hosts
from mofang.backends.local.nodes import CLUSTER, LocalNodes
from mofang.backends.local.rendering import artefacts, clear_command, render
from mofang.backends.protocol import Artefact, Observation, ObservedState
from mofang.clock import Clock, new_token
from mofang.domain.hardware import Node
from mofang.domain.launch import LaunchSpec
from mofang.errors import BackendError, ConflictError
from mofang.recovery.clear import clear_attempt, living_agent
from mofang.recovery.processes import marked
from mofang.recovery.rundir import AttemptDir, read_number, replace_file

__all__ = ["LocalBackend"]

_START_S = 60.0
_CLEAR_S = 60.0
_NEWER_ATTEMPT = 3  # the agent's exit code
_OF_A_JOB = ("MOFANG_JOB", "MOFANG_ATTEMPT", "MOFANG_GENERATION", "MOFANG_MARKER", "MOFANG_ATTEMPT_DIR")


class LocalBackend:
    """Runs jobs on this machine and on hosts behind a prefix.

    Args:
        home: ``$MOFANG_HOME``.
        clock: the time.
        hosts: the extra hosts; None: those of ``hosts.yaml``.

    Raises:
        SpecError: ``hosts.yaml`` is not as it should be.
    """

    name = CLUSTER

    def __init__(self, home: Path, clock: Clock, hosts: Sequence[HostEntry] | None = None) -> None:
        self._clock = clock
        self._nodes = LocalNodes(home, load_hosts(home) if hosts is None else hosts, clock)

    def nodes(self) -> tuple[Node, ...]:
        """Return this machine and the hosts; a host that does not answer is down."""
        return self._nodes.nodes()

    def render(self, spec: LaunchSpec) -> tuple[Artefact, ...]:
        """Return exactly what ``launch`` would write and execute, secrets left out."""
        return artefacts(spec)

    def launch(self, spec: LaunchSpec) -> None:
        """Start the agents that do not run; they start the workers. The fence number is written first.

        Raises:
            BackendError: a file cannot be written, a node cannot be reached or an agent does not start.
            ConflictError: a newer attempt of this job was already started.
        """
        directory = AttemptDir(Path(spec.attempt_dir))
        fence = read_number(directory.fence) or 0
        if fence > spec.fence:
            raise ConflictError(f"a newer attempt of job {spec.job_id} was started: fence {fence} > {spec.fence}")
        if directory.outcome.exists():
            self.clear(spec)  # whatever outlived the attempt's end
            return
        rendering = render(spec)
        try:
            self._write(directory, rendering.files)
        except OSError as error:
            raise BackendError(
                f"the attempt's files cannot be written: {error.strerror or error}: {error.filename or spec.run_dir}",
                hint="check free space and permissions of MOFANG_HOME",
            ) from error
        missing = [node for node in range(len(spec.nodes)) if not living_agent(directory, node)]
        with ThreadPoolExecutor(max_workers=max(1, min(16, len(missing)))) as pool:
            started = [pool.submit(_start_agent, spec, node, rendering.commands[node]) for node in missing]
        _raise_first(missing, started)

    def stop(self, spec: LaunchSpec) -> None:
        """Ask the attempt to end: SIGTERM, ``spec.grace_s`` seconds, SIGKILL. Returns at once."""
        directory = AttemptDir(Path(spec.attempt_dir))
        if directory.path.is_dir():
            directory.stop.touch(mode=0o600)

    def observe(self, spec: LaunchSpec) -> Observation:
        """Look at the attempt. One that was launched and has no outcome is never absent: its agents are dead."""
        directory = AttemptDir(Path(spec.attempt_dir))
        if directory.outcome.exists() and not self._anything_left(spec):
            return Observation(state=ObservedState.ENDED)
        if not directory.launch.exists():
            return Observation(state=ObservedState.ABSENT)
        dead = tuple(entry.node for node, entry in enumerate(spec.nodes) if not living_agent(directory, node))
        return Observation(state=ObservedState.AGENT_DEAD if dead else ObservedState.RUNNING, dead_nodes=dead)

    def clear(self, spec: LaunchSpec) -> int:
        """Kill the agents and every process that carries the attempt's marker, remove its shared memory.

        Raises:
            BackendError: a node cannot be reached.
        """
        killed, problem = 0, None
        for node in range(len(spec.nodes)):
            try:
                killed += self._clear_node(spec, node)
            except BackendError as error:  # the others are cleared all the same
                problem = error
        if problem is not None:
            raise problem
        return killed

    def _clear_node(self, spec: LaunchSpec, node: int) -> int:
        if not spec.nodes[node].prefix:
            return clear_attempt(AttemptDir(Path(spec.attempt_dir)), node, spec.marker, self._clock)
        answer = _run(clear_command(spec, node), spec.nodes[node].node, _CLEAR_S)
        return int(answer.stdout) if answer.stdout.strip().isdigit() else 0

    def _write(self, directory: AttemptDir, files: dict[str, str]) -> None:
        directory.prepare()
        if directory.launch.exists():
            replace_file(directory.fence, files[str(directory.fence)])
            return
        if not directory.token.exists():
            replace_file(directory.token, new_token(32))
        for path, text in files.items():
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(Path(path), text)

    def _anything_left(self, spec: LaunchSpec) -> bool:
        return bool(marked(spec.marker)) if any(not node.prefix for node in spec.nodes) else False


def _raise_first(nodes: Sequence[int], started: Sequence[Future[None]]) -> None:
    """Raise the first error, that of node 0 before all others: without it nothing goes on."""
    for _, future in sorted(zip(nodes, started, strict=True), key=lambda pair: pair[0]):
        future.result()


def _start_agent(spec: LaunchSpec, node: int, command: Sequence[str]) -> None:
    name = spec.nodes[node].node
    answer = _run(command, name, _START_S)
    if answer.returncode == _NEWER_ATTEMPT:
        raise ConflictError(answer.stderr.strip() or f"a newer attempt of job {spec.job_id} was started")
    if answer.returncode != 0:
        raise BackendError(
            f"the agent does not start on {name}: {answer.stderr.strip() or f'exit code {answer.returncode}'}",
            hint=f"see {AttemptDir(Path(spec.attempt_dir)).agent_log(node)}, or run: {' '.join(command)}",
        )


def _run(command: Sequence[str], host: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command that ends soon, without what marks the processes of a job, should this run inside one.

    Raises:
        BackendError: it cannot be started or does not end.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OF_A_JOB}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BackendError(f"{host} cannot be reached: {error}", hint="check its prefix in hosts.yaml") from error
