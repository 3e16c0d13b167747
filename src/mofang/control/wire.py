"""JSON on the socket, by the fastest parser at hand."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

__all__ = ["from_wire", "to_wire"]

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


def from_wire(line: bytes) -> Any:
    """Return what a line of JSON says.

    Raises:
        ValueError: it is not JSON.
    """
    return _ANYTHING.validate_json(line)


def to_wire(value: Any) -> bytes:
    """Return plain values as JSON on one line."""
    return _ANYTHING.dump_json(value)
