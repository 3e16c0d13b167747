"""JSON-RPC 2.0 over the controller's unix socket, one object a line. Standard library only."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mofang.control.address import bound_address, socket_path
from mofang.errors import BackendError, error_from_wire

__all__ = ["Connection"]

_PATIENCE_S = 120.0  # a plan over many candidates takes seconds; this is for a controller that hangs


class Connection:
    """One connection, made when it is first needed and made again when the controller went away."""

    def __init__(self, home: Path, *, start: bool) -> None:
        self._home = home
        self._start = start
        self._socket: socket.socket | None = None
        self._unread = b""
        self._number = 0

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._unread = b""

    def call(self, method: str, params: Mapping[str, Any], patience_s: float = 0.0) -> Any:
        """Ask, and return the answer; once more where the controller went away in between.

        Raises:
            BackendError: no controller answers.
            MofangError: whatever the controller answered with.
        """
        try:
            return self._ask(method, params, patience_s)
        except (ConnectionError, BrokenPipeError):
            self.close()
        try:
            return self._ask(method, params, patience_s)
        except OSError as error:
            self.close()
            raise BackendError(
                f"the controller went away while answering {method}: {error}", hint="run the command again"
            ) from error

    def send_once(self, method: str) -> None:
        """Ask where a controller is there; do nothing where none is."""
        try:
            self._socket = self._socket or _reach(socket_path(self._home))
            self._ask(method, {}, 0.0)
        except (ConnectionError, FileNotFoundError, NotADirectoryError):
            pass
        finally:
            self.close()

    def _ask(self, method: str, params: Mapping[str, Any], patience_s: float) -> Any:
        line = self._socket or self._open()
        self._socket = line
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        line.settimeout(_PATIENCE_S + patience_s)
        try:
            line.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(self._read_line(line))
        except TimeoutError as error:
            self.close()
            raise BackendError(
                f"the controller has not answered {method} for {_PATIENCE_S + patience_s:.0f} s",
                hint=f"see {self._home}/controller.log",
            ) from error
        except KeyboardInterrupt:
            self.close()  # the answer is still on its way, and must not be taken for the next one
            raise
        if "error" in answer:
            raise error_from_wire(answer["error"].get("data") or {"message": answer["error"].get("message")})
        return answer["result"]

    def _read_line(self, line: socket.socket) -> bytes:
        parts = [self._unread]
        while b"\n" not in parts[-1]:
            part = line.recv(1 << 18)
            if not part:
                raise ConnectionResetError("the controller hung up")
            parts.append(part)
        answer, _, self._unread = b"".join(parts).partition(b"\n")
        return answer

    def _open(self) -> socket.socket:
        try:
            return _reach(socket_path(self._home))
        except (ConnectionError, FileNotFoundError, NotADirectoryError) as error:
            if not self._start:
                raise BackendError(
                    f"no controller is running for {self._home}", hint="`mofang run` and `mofang plan` start one"
                ) from error
        except OSError as error:
            raise BackendError(
                f"cannot reach the controller: {error}", hint=f"see {self._home}/controller.log"
            ) from error
        from mofang.client.start import start_controller  # noqa: PLC0415 - only where none runs

        return start_controller(self._home, lambda: _reach(socket_path(self._home)))


def _reach(path: Path) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with bound_address(path) as address:
            line.connect(address)
    except OSError:
        line.close()
        raise
    return line
