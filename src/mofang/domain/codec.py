"""Domain values to JSON and back, by their types; pydantic does the work and checks what comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mofang.errors import StoreError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["decode", "encode", "from_data", "to_data"]

T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter  # noqa: PLC0415 - kept off the way to `mofang --help`

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def encode(value: object) -> str:
    """Return a domain value as compact JSON text."""
    return _adapter(type(value)).dump_json(value).decode()


def to_data(value: object) -> Any:
    """Return a domain value as plain dictionaries, lists and scalars."""
    return _adapter(type(value)).dump_python(value, mode="json")


def decode(kind: type[T], text: str | bytes) -> T:
    """Return the value of type ``kind`` that ``encode`` wrote.

    Raises:
        StoreError: the text is not such a value.
    """
    try:
        value: T = _adapter(kind).validate_json(text)
    except ValueError as error:
        raise StoreError(f"not a {kind.__name__}: {_first_line(error)}") from error
    return value


def from_data(kind: type[T], data: Any) -> T:
    """Return the value of type ``kind`` that ``to_data`` made.

    Raises:
        StoreError: the data is not such a value.
    """
    try:
        value: T = _adapter(kind).validate_python(data)
    except ValueError as error:
        raise StoreError(f"not a {kind.__name__}: {_first_line(error)}") from error
    return value


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
