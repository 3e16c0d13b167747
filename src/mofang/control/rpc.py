"""JSON-RPC 2.0 over a unix socket, one object a line."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, validate_call

from mofang.control.address import bound_address
from mofang.control.wire import from_wire, to_wire
from mofang.errors import BackendError, MofangError, UsageError

__all__ = ["Reply", "RpcServer", "listen", "methods_of"]

_log = logging.getLogger(__name__)

_LARGEST = 64 * 2**20  # bytes of one request
_PARSE_ERROR, _NO_METHOD, _BAD_PARAMS, _FAILED = -32700, -32601, -32602, -32000

Method = Callable[..., Awaitable[Any]]
QuickMethod = Callable[[Mapping[str, Any], "Reply"], None]


def methods_of(service: object) -> dict[str, Method]:
    """Return the public coroutines of a service by name, each checking its parameters' types first."""
    found = inspect.getmembers(service, inspect.iscoroutinefunction)
    return {name: validate_call(method) for name, method in found if not name.startswith("_")}


def listen(path: Path) -> socket.socket:
    """Return a listening socket at ``path`` that only this user can open; one that is left there is replaced.

    The socket appears at its place only when it already listens, so nobody meets one that does not.

    Raises:
        BackendError: it cannot be made.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        with bound_address(fresh) as address:
            made.bind(address)
        fresh.chmod(0o600)
        made.listen(1024)
        fresh.replace(path)
    except OSError as error:
        made.close()
        raise BackendError(f"cannot listen at {path}: {error.strerror or error}", hint="set MOFANG_HOME") from error
    return made


class RpcServer:
    """Serves methods to every connection of this user.

    Args:
        methods: coroutines by name; each call is a task of its own.
        quick: functions that are called very often, and answer through the ``Reply`` that they are given.
    """

    def __init__(self, methods: Mapping[str, Method], quick: Mapping[str, QuickMethod]) -> None:
        self.methods = methods
        self.quick = quick
        self.connections: set[asyncio.Transport] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def connection(self) -> asyncio.Protocol:
        """Return the protocol of one new connection."""
        return _Connection(self)


class Reply:
    """The answer to one request; it is set like a future, once."""

    __slots__ = ("_connection", "_number")

    def __init__(self, connection: _Connection, number: Any) -> None:
        self._connection = connection
        self._number = number

    def set_result(self, result: Any) -> None:
        """Answer."""
        self._connection.reply(self._number, result=result)

    def set_exception(self, error: Exception) -> None:
        """Answer with an error."""
        self._connection.refuse(self._number, error)


class _Connection(asyncio.Protocol):
    def __init__(self, server: RpcServer) -> None:
        self._server = server
        self._unread = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport) or _peer(transport) != os.getuid():
            _log.warning("a connection of another user is refused")
            transport.close()
            return
        self._transport = transport
        self._server.connections.add(transport)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._transport is not None:
            self._server.connections.discard(self._transport)
            self._transport = None

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._unread) > _LARGEST and self._transport is not None:
            self.reply(None, error=_error(_PARSE_ERROR, UsageError("the request is too large")))
            self._transport.close()

    def _take(self, line: bytes) -> None:
        if self._transport is None:
            return
        try:
            request = from_wire(line)
            number, name, params = request.get("id"), request["method"], request.get("params") or {}
            method = self._server.methods.get(name)
        except (ValueError, KeyError, AttributeError, TypeError):
            self.reply(None, error=_error(_PARSE_ERROR, UsageError("not a JSON-RPC request")))
            return
        if name in self._server.quick:
            self._answer_quickly(number, self._server.quick[name], params)
            return
        if method is None:
            unknown = UsageError(f"there is no method {name!r}", hint="are client and controller of one version?")
            self.reply(number, error=_error(_NO_METHOD, unknown))
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, method, params))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _answer_quickly(self, number: Any, method: QuickMethod, params: Mapping[str, Any]) -> None:
        try:
            method(params, Reply(self, number))
        except Exception as error:
            self.refuse(number, error)

    async def _answer(self, number: Any, method: Method, params: Mapping[str, Any]) -> None:
        try:
            result = await method(**params)
        except Exception as error:
            self.refuse(number, error)
        else:
            self.reply(number, result=result)

    def refuse(self, number: Any, error: Exception) -> None:
        """Answer with an error."""
        if isinstance(error, MofangError):
            self.reply(number, error=_error(_FAILED, error))
        elif isinstance(error, ValidationError | TypeError):
            self.reply(number, error=_error(_BAD_PARAMS, _bad_params(error)))
        else:
            _log.error("a request failed", exc_info=error)
            wrapped = MofangError(
                f"unexpected {type(error).__name__} in the controller", hint="controller.log has the details"
            )
            self.reply(number, error=_error(_FAILED, wrapped))

    def reply(self, number: Any, **content: Any) -> None:
        """Write one answer, unless the other end has left."""
        if self._transport is not None:
            self._transport.write(to_wire({"jsonrpc": "2.0", "id": number, **content}) + b"\n")


def _bad_params(error: ValidationError | TypeError) -> UsageError:
    if isinstance(error, TypeError):
        _log.error("parameters do not fit", exc_info=error)
        return UsageError(f"the parameters do not fit: {error}", hint="are client and controller of one version?")
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return UsageError(f"parameter {place}: {first['msg']}", hint="are client and controller of one version?")


def _error(code: int, error: MofangError) -> dict[str, Any]:
    return {"code": code, "message": error.message, "data": error.to_wire()}


def _peer(transport: asyncio.BaseTransport) -> int:
    """Return the user id of the process at the other end (SO_PEERCRED, unix(7))."""
    raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])
