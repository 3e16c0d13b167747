"""The coordinator's hands: connections to the other agents, and the files that record what it decided."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from mofang.clock import Clock, new_token, seeded
from mofang.domain.launch import LaunchSpec
from mofang.domain.reasons import Reason
from mofang.recovery.agent.channel import Channel
from mofang.recovery.agent.coordinator import Coordinator, History
from mofang.recovery.agent.failures import End
from mofang.recovery.agent.membership import Team, members, write_seats
from mofang.recovery.agent.messages import Finish, Message, Ping, Problem, StartGeneration, from_wire, to_wire
from mofang.recovery.agent.uplink import LocalUplink, proof
from mofang.recovery.rundir import AttemptDir, replace_file
from mofang.recovery.spool import SpoolWriter

__all__ = ["Hub"]

_PING_S = 0.5
_RETRY_S = 1.0
_ANY_PORT = (20_000, 30_000)  # below those that Linux gives out, for a node that cannot say which of its ports is free


class _Node:
    """The connection to one other agent."""

    def __init__(self, channel: Channel, nonce: str, now: float) -> None:
        self.channel, self.nonce, self.heard_at = channel, nonce, now
        self.index: int | None = None  # known once the agent has shown that it knows the token


class Hub:
    """Runs the coordinator of an attempt on node 0.

    Args:
        spec: the attempt.
        local: the link to the crew in this process.
        history: what earlier agents recorded.
        spool: where events go.
        clock: the time.
    """

    def __init__(
        self, spec: LaunchSpec, local: LocalUplink, history: History, spool: SpoolWriter, clock: Clock
    ) -> None:
        self._spec, self._local, self._spool, self._clock = spec, local, spool, clock
        self._directory = AttemptDir(Path(spec.attempt_dir))
        self._coordinator = Coordinator(
            team=Team.of(spec),
            policy=spec.restart,
            grace_s=spec.grace_s,
            history=history,
            now=clock.monotonic(),
        )
        self._nodes: list[_Node] = []
        self._listener = self._listen() if len(spec.nodes) > 1 else None
        self._port: int | None = None  # of the generation whose start is not recorded yet
        self._ping_at = self._retry_at = 0.0
        self.finished = False

    def tick(self) -> None:
        """Take in reports, decide, and carry the decisions out."""
        now = self._clock.monotonic()
        self._accept(now)
        for message in self._reports(now):
            self._coordinator.receive(message, now)
        self._coordinator.tick(now)
        for node, order in self._coordinator.orders:
            self._send(node, order)
        self._coordinator.orders.clear()
        if self._coordinator.to_start is not None:
            self._start(self._coordinator.to_start)
            self._coordinator.to_start = None
        if self._port is not None and self._coordinator.all_started:
            self._coordinator.note_started(self._port)
            self._port = None
        self._record()
        if self._coordinator.outcome is not None and now >= self._retry_at:
            self._finish(self._coordinator.outcome)

    def close(self) -> None:
        """Close all connections."""
        for node in self._nodes:
            node.channel.close()
        if self._listener is not None:
            self._listener.close()

    def _record(self) -> None:
        for note in self._coordinator.notes:
            self._spool.append(note.kind, note.generation, note.data)
        self._coordinator.notes.clear()

    def _start(self, generation: int) -> None:
        """Record the generation durably, then have it started: no two generations ever have the same number."""
        seats = self._coordinator.seats
        try:
            if seats != Team.of(self._spec).home or self._directory.seats.exists():
                write_seats(self._directory, generation, seats)
            replace_file(self._directory.generation, f"{generation}\n")
        except OSError as error:
            message = f"generation {generation} cannot be recorded: {error.strerror or error}"
            self._coordinator.receive(
                Problem(
                    node=members(seats)[0],
                    generation=generation,
                    reason=str(Reason.DISK_FULL),
                    message=message,
                    signature=str(Reason.DISK_FULL),
                ),
                self._clock.monotonic(),
            )
            return
        nodes = members(seats)
        self._port = self._coordinator.port_of(nodes[0]) or seeded(generation).randrange(*_ANY_PORT)
        address = self._spec.nodes[nodes[0]].address
        order = StartGeneration(generation=generation, address=address, port=self._port, nodes=nodes)
        for node in nodes:
            self._send(node, order)

    def _finish(self, end: End) -> None:
        """Write the last word; a full disk is tried again and again, because without it the job would never end."""
        text = json.dumps(
            {"reason": str(end.reason), "message": end.message, "generation": self._coordinator.generation}
        )
        if not self._spool.flush():
            self._retry_at = self._clock.monotonic() + _RETRY_S
            return
        try:
            replace_file(self._directory.outcome, text)
        except OSError:
            self._retry_at = self._clock.monotonic() + _RETRY_S
            return
        for node in range(len(self._spec.nodes)):
            self._send(node, Finish(reason=str(end.reason)))
        self.finished = True

    def _send(self, node: int, order: Message) -> None:
        if node == 0:
            self._local.orders.append(order)
            return
        for other in self._nodes:
            if other.index == node:
                other.channel.send(to_wire(order))

    def _reports(self, now: float) -> list[Message]:
        reports = list(self._local.reports)
        self._local.reports.clear()
        for node in list(self._nodes):
            try:
                reports += self._reports_of(node, now)
            except ValueError:
                node.channel.close()  # it speaks another version
            silent = now - node.heard_at > self._spec.restart.node_timeout_s
            if node.channel.closed or silent:
                self._drop(node, now, silent=silent)
        return reports

    def _reports_of(self, node: _Node, now: float) -> list[Message]:
        wires = node.channel.receive()
        if wires:
            node.heard_at = now
        if wires and node.index is None:
            self._admit(node, wires.pop(0))
        return [from_wire(wire) for wire in wires] if node.index is not None else []

    def _admit(self, node: _Node, wire: dict[str, object]) -> None:
        """Let in an agent that knows the token; an older connection of the same node makes way."""
        import hmac  # noqa: PLC0415 - only attempts over several nodes need it

        index = wire.get("node")
        token = self._directory.token.read_text()
        known = isinstance(index, int) and 0 < index < len(self._spec.nodes)
        if not known or not hmac.compare_digest(str(wire.get("proof")), proof(token, node.nonce, int(str(index)))):
            node.channel.close()
            return
        for other in [other for other in self._nodes if other.index == index]:
            other.channel.close()
            self._nodes.remove(other)
        node.index = int(str(index))

    def _drop(self, node: _Node, now: float, *, silent: bool) -> None:
        node.channel.close()
        self._nodes.remove(node)
        if node.index is not None:
            self._coordinator.lose(node.index, now, silent=silent)

    def _listen(self) -> socket.socket:
        listener = socket.create_server((self._spec.nodes[0].address, 0), backlog=64)
        listener.setblocking(False)
        where = {"address": self._spec.nodes[0].address, "port": listener.getsockname()[1]}
        replace_file(self._directory.coordinator, json.dumps(where))
        return listener

    def _accept(self, now: float) -> None:
        if self._listener is None:
            return
        try:
            while True:
                connection, _ = self._listener.accept()
                node = _Node(Channel(connection), new_token(), now)
                node.channel.send({"nonce": node.nonce})
                self._nodes.append(node)
        except BlockingIOError:
            pass
        if now >= self._ping_at:
            self._ping_at = now + _PING_S
            for node in self._nodes:
                if node.index is not None:
                    node.channel.send(to_wire(Ping(node=0)))
