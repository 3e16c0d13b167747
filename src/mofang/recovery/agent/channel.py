"""JSON lines over a TCP connection, without waiting."""

from __future__ import annotations

import json
import socket
from typing import Any

__all__ = ["Channel", "free_port"]

_MAX_LINE = 1 << 20


def free_port(address: str) -> int:
    """Return a port of this machine that is free now; 0 where the address is none of its own.

    If it is taken before workers bind it, the next generation gets another.
    """
    try:
        with socket.create_server((address, 0)) as server:
            return int(server.getsockname()[1])
    except OSError:
        return 0


class Channel:
    """One end of a connection; once it broke, ``closed`` stays true."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._received = b""
        self._waiting = b""
        self.closed = False

    def send(self, value: dict[str, Any]) -> None:
        """Send one object, now or as soon as the connection takes it."""
        self._waiting += json.dumps(value).encode() + b"\n"
        self._push()

    def receive(self) -> list[dict[str, Any]]:
        """Return the objects that have arrived."""
        self._push()
        try:
            while not self.closed:
                piece = self._socket.recv(65536)
                self._received += piece
                if not piece or len(self._received) > _MAX_LINE:
                    self.close()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        *lines, self._received = self._received.split(b"\n")
        try:
            return [dict(json.loads(line)) for line in lines]
        except (ValueError, TypeError):
            self.close()
            return []

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._socket.close()

    def _push(self) -> None:
        try:
            while self._waiting and not self.closed:
                self._waiting = self._waiting[self._socket.send(self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
