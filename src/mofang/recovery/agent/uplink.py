"""How an agent talks to the coordinator: in the same process on node 0, over TCP elsewhere."""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mofang.clock import Clock
from mofang.recovery.agent.channel import Channel
from mofang.recovery.agent.messages import Hello, Message, Ping, from_wire, to_wire
from mofang.recovery.rundir import AttemptDir

__all__ = ["LocalUplink", "TcpUplink", "Uplink", "proof"]

_CONNECT_S = 0.5
_RETRY_S = 0.1
_PING_S = 0.5


class Uplink(Protocol):
    """Reports go up, orders come down."""

    def send(self, message: Message) -> None:
        """Send a report; one that cannot be sent is dropped, because all is reported again after the next hello."""

    def receive(self) -> list[Message]:
        """Return the orders that have arrived."""

    def cut_off_for(self) -> float:
        """Return for how many seconds there has been no coordinator."""


class LocalUplink:
    """Two queues: the coordinator is in this process."""

    def __init__(self) -> None:
        self.reports: deque[Message] = deque()
        self.orders: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """Queue a report."""
        self.reports.append(message)

    def receive(self) -> list[Message]:
        """Return the orders that have arrived."""
        orders = list(self.orders)
        self.orders.clear()
        return orders

    def cut_off_for(self) -> float:
        """Return 0: the coordinator is always there."""
        return 0.0


def proof(token: str, nonce: str, node: int) -> str:
    """Return what shows that the sender knows the attempt's token, without showing the token (HMAC-SHA256)."""
    import hmac  # noqa: PLC0415 - only attempts over several nodes need it, and agents start fast

    return hmac.new(token.encode(), f"{nonce}/{node}".encode(), "sha256").hexdigest()


class TcpUplink:
    """A connection to the agent of node 0, made again whenever it breaks.

    Args:
        directory: of the attempt; it holds the token and the coordinator's address.
        node: the index of this node.
        hello: returns the report that every new connection begins with.
        clock: the time.
        silent_s: a connection on which nothing comes for so long is broken.
    """

    def __init__(
        self, directory: AttemptDir, node: int, hello: Callable[[], Hello], clock: Clock, silent_s: float
    ) -> None:
        self._silent_s = silent_s
        self._directory, self._node, self._hello, self._clock = directory, node, hello, clock
        self._channel: Channel | None = None
        self._heard_at = clock.monotonic()
        self._try_at = self._ping_at = 0.0

    def send(self, message: Message) -> None:
        """Send a report, if there is a connection."""
        if self._channel is not None:
            self._channel.send(to_wire(message))

    def receive(self) -> list[Message]:
        """Return the orders that have arrived; connect and show signs of life as needed."""
        now = self._clock.monotonic()
        if self._channel is None and now >= self._try_at:
            self._connect()
            # whoever does not answer at all is not asked again at once: meanwhile nobody looks after the workers
            self._try_at = self._clock.monotonic() + _RETRY_S + 2.0 * (self._clock.monotonic() - now)
        channel = self._channel
        if channel is None:
            return []
        if now >= self._ping_at:
            self._ping_at = now + _PING_S
            self.send(Ping(node=self._node))
        orders = [from_wire(wire) for wire in channel.receive()]
        if orders:
            self._heard_at = now
        if channel.closed or now - self._heard_at > self._silent_s:
            channel.close()
            self._channel = None
        return orders

    def cut_off_for(self) -> float:
        """Return for how many seconds the coordinator has not been heard of."""
        return self._clock.monotonic() - self._heard_at

    def _connect(self) -> None:
        try:
            where = json.loads(self._directory.coordinator.read_text())
            token = self._directory.token.read_text()
            connection = socket.create_connection((where["address"], where["port"]), timeout=_CONNECT_S)
        except (OSError, ValueError, KeyError):
            return
        try:
            with connection.makefile("r") as lines:
                nonce = str(json.loads(lines.readline())["nonce"])
        except (OSError, ValueError, KeyError):
            connection.close()
            return
        self._channel = Channel(connection)
        self._channel.send({"node": self._node, "proof": proof(token, nonce, self._node)})
        self._heard_at = self._clock.monotonic()
        self.send(self._hello())
