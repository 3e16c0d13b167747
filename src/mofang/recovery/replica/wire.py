"""What replica servers and their clients say to each other: JSON objects with their length before them, over TCP.

Both ends show that they know the attempt's token by an HMAC over a nonce of each end; the token itself is never sent.
As with the training's own traffic, what follows is neither encrypted nor signed: the network between the nodes is
trusted not to change it, and a sum shows where it did by mistake. Every failure is an ``OSError``: there is nothing to
do about any of them but to close the connection.
"""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mofang.clock import Clock, new_token

__all__ = ["Link", "admit", "connect"]

_LENGTH = 4  # bytes of a message's length, big-endian
_MOST = 1 << 20  # bytes of a message
_MOST_OF_A_STRANGER = 1024
_NAME = "mofang-replica-1"
_ANSWER_S = 10.0
_HANDSHAKE_S = 5.0


class Link:
    """One end of a connection.

    Args:
        connection: the socket.
        clock: the time; no wait is without an end.
    """

    def __init__(self, connection: socket.socket, clock: Clock) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self._clock = connection, clock

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, also under a thread that waits for it."""
        with suppress(OSError):  # it may be gone already
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def send(self, value: Mapping[str, Any]) -> None:
        """Send one object."""
        text = json.dumps(value, separators=(",", ":")).encode()
        self.socket.settimeout(_ANSWER_S)
        self.socket.sendall(len(text).to_bytes(_LENGTH, "big") + text)

    def receive(self, limit_s: float = _ANSWER_S, most: int = _MOST) -> dict[str, Any]:
        """Wait for one object.

        Raises:
            OSError: the connection broke, nothing came in time, or what came is no object of at most ``most`` bytes.
        """
        end = self._clock.monotonic() + limit_s
        length = int.from_bytes(self._exactly(_LENGTH, end), "big")
        if length > most:
            raise ConnectionError(f"the peer announces {length} bytes, at most {most} are taken")
        try:
            value = json.loads(self._exactly(length, end))
        except ValueError as error:
            raise ConnectionError("the peer sent something else than JSON") from error
        if not isinstance(value, dict):
            raise ConnectionError("the peer sent something else than an object")
        return value

    def send_length(self, length: int) -> None:
        """Announce so many raw bytes; 0 ends them."""
        self.socket.sendall(length.to_bytes(_LENGTH, "big"))

    def receive_length(self) -> int:
        """Return how many raw bytes come next; 0: no more."""
        return int.from_bytes(self._exactly(_LENGTH, self._clock.monotonic() + _ANSWER_S), "big")

    def receive_some(self, into: memoryview) -> int:
        """Receive raw bytes, as many as are there, at least one; return how many."""
        self.socket.settimeout(_ANSWER_S)
        received = self.socket.recv_into(into)
        if not received:
            raise ConnectionError("the peer closed the connection")
        return received

    def _exactly(self, length: int, end: float) -> bytes:
        text = bytearray(length)
        left = memoryview(text)
        while left:
            self.socket.settimeout(max(0.001, end - self._clock.monotonic()))
            received = self.socket.recv_into(left)
            if not received:
                raise ConnectionError("the peer closed the connection")
            left = left[received:]
            if left and self._clock.monotonic() > end:
                raise TimeoutError("the peer is too slow")
        return bytes(text)


def connect(where: tuple[str, int], token: str, node: int, clock: Clock, limit_s: float = _HANDSHAKE_S) -> Link:
    """Connect to the server of a node, and make sure that it is one.

    Args:
        where: its address and port.
        token: of the attempt.
        node: the index of this node.
        clock: the time.
        limit_s: for each step of it, in seconds.

    Raises:
        OSError: there is no such server, or it does not know the token.
    """
    link = Link(socket.create_connection(where, timeout=limit_s), clock)
    try:
        theirs, ours = str(link.receive(limit_s, _MOST_OF_A_STRANGER).get("nonce")), new_token()
        link.send({"node": node, "nonce": ours, "proof": _proof(token, "client", theirs, ours, node)})
        answer = link.receive(limit_s, _MOST_OF_A_STRANGER)
        if not _same(answer.get("proof"), _proof(token, "server", theirs, ours, node)):
            raise ConnectionError("the server does not know the token of the attempt")
    except OSError:
        link.close()
        raise
    return link


def admit(connection: socket.socket, token: str, clock: Clock) -> Link:
    """Let a client in that knows the token.

    Raises:
        OSError: it does not; the connection is closed.
    """
    link = Link(connection, clock)
    try:
        ours = new_token()
        link.send({"name": _NAME, "nonce": ours})
        said = link.receive(_HANDSHAKE_S, _MOST_OF_A_STRANGER)
        node, theirs = said.get("node"), str(said.get("nonce"))
        known = isinstance(node, int) and _same(said.get("proof"), _proof(token, "client", ours, theirs, node))
        if not known:
            raise ConnectionError("the client does not know the token of the attempt")
        link.send({"proof": _proof(token, "server", ours, theirs, int(str(node)))})
    except OSError:
        link.close()
        raise
    return link


def _proof(token: str, role: str, server_nonce: str, client_nonce: str, node: int) -> str:
    """HMAC-SHA256 with a key of its own: no proof made for another protocol of the agents is one here."""
    key = hmac.digest(token.encode(), _NAME.encode(), "sha256")
    return hmac.new(key, f"{role}/{server_nonce}/{client_nonce}/{node}".encode(), "sha256").hexdigest()


def _same(said: object, wanted: str) -> bool:
    return hmac.compare_digest(str(said).encode(), wanted.encode())
