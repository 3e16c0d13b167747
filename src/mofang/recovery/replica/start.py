"""Starting the replica server of a node, and keeping it running."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mofang.clock import Clock
from mofang.domain.launch import LaunchSpec
from mofang.errors import CheckpointError
from mofang.recovery.processes import SERVICE, Process, find, is_alive
from mofang.recovery.replica.config import Address, ServerConfig
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.segments import segment_prefix

__all__ = ["ReplicaServer", "StartedServer", "server_config", "start_server"]

_RETRY_S = 1.0
_ANSWER_S = 20.0
_END_S = 5.0
_OWN = "MOFANG_"  # of a worker, which may have started this


def server_config(spec: LaunchSpec, node: int, token: str) -> ServerConfig:
    """Return what the server of a node is told in an attempt of several nodes.

    ``MOFANG_REPLICAS`` and ``MOFANG_REPLICA_RATE`` (bytes/s) in the job's variables set how many copies there are, and
    how fast they are made.
    """
    directory = AttemptDir(Path(spec.attempt_dir))
    variables: Mapping[str, str] = {**spec.environment.variables, **spec.env}
    rate = variables.get("MOFANG_REPLICA_RATE")
    return ServerConfig(
        node=node,
        domains=tuple(item.domain for item in spec.nodes),
        prefix=segment_prefix(spec.marker, node),
        token=token,
        address=spec.nodes[node].address,
        copies=int(variables.get("MOFANG_REPLICAS", "1")),
        rate=float(rate) if rate else None,
        publish=str(directory.replica(node)),
        books=tuple(str(directory.replica(index)) for index in range(len(spec.nodes))),
        spool=str(directory.path / "spool" / f"replica-{node:02d}.jsonl"),
        job_id=spec.job_id,
        attempt=spec.attempt,
        generation=str(directory.generation),
        marker=spec.marker,
    )


class StartedServer:
    """A server that runs as long as this process, or until it is stopped."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running
        self.process = find(running.pid) or Process(running.pid, 0)

    @property
    def is_alive(self) -> bool:
        """Whether it runs; somebody else may have collected its exit status."""
        return is_alive(self.process)

    def address(self) -> Address:
        """Wait for where it listens; call it once.

        Raises:
            CheckpointError: it did not say so.
        """
        output = self._running.stdout
        line = ""
        if output is not None and select.select([output], [], [], _ANSWER_S)[0]:
            line = output.readline()
        try:
            said = json.loads(line)
            return (str(said["address"]), int(said["port"]))
        except (ValueError, KeyError, TypeError):
            self.stop()
            raise CheckpointError(
                "the replica server of this node did not start", hint="its standard error says why"
            ) from None

    def tell(self, peers: Sequence[Address | None]) -> None:
        """Say where the servers of all nodes listen, by index; again whenever one has moved.

        Raises:
            OSError: the server has ended.
        """
        if self._running.stdin is not None:
            self._running.stdin.write(json.dumps({"peers": peers}) + "\n")
            self._running.stdin.flush()

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        self._running.kill()
        for pipe in (self._running.stdin, self._running.stdout):
            if pipe is not None:
                with suppress(OSError):  # words that it never read
                    pipe.close()
        try:
            self._running.wait(_END_S)
        except subprocess.TimeoutExpired:  # it waits for the kernel, and will not run again
            return


def start_server(config: ServerConfig) -> StartedServer:
    """Start the replica server of this node in a session of its own.

    In an attempt it carries what marks a service, which outlives the generations. At the latest it ends with this
    process.

    Raises:
        OSError: no process can be started.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    if config.marker:
        environment |= {"MOFANG_MARKER": config.marker, "MOFANG_NODE": str(config.node), SERVICE: "replica"}
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "mofang.recovery.replica"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",
    )
    started = StartedServer(running)
    try:
        if running.stdin is not None:
            running.stdin.write(config.to_json() + "\n")
            running.stdin.flush()
    except OSError:
        started.stop()
        raise
    return started


class ReplicaServer:
    """Keeps the server of a node running for as long as its agent does.

    Args:
        spec: the attempt; where it has one node there is no server.
        node: the index of this node.
        clock: the time.
    """

    def __init__(self, spec: LaunchSpec, node: int, clock: Clock) -> None:
        self._spec, self._node, self._clock = spec, node, clock
        self._wanted = len(spec.nodes) > 1
        self._started: StartedServer | None = None
        self._try_at = 0.0

    def tick(self) -> None:
        """Start the server where none runs; one that died is started again after a second."""
        now = self._clock.monotonic()
        if not self._wanted or now < self._try_at:
            return
        self._try_at = now + _RETRY_S
        if self._started is not None and self._started.is_alive:
            return
        self.stop()
        try:
            token = AttemptDir(Path(self._spec.attempt_dir)).token.read_text()
            self._started = start_server(server_config(self._spec, self._node, token))
        except OSError:
            return  # no token yet, or no process can be started now

    def stop(self) -> None:
        """End the server: call it before the attempt's shared memory is removed."""
        if self._started is not None:
            self._started.stop()
            self._started = None
