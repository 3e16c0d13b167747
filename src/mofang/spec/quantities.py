"""The types of job-file values: what people write, checked, and what the JSON schema says of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from mofang.errors import MofangError, SpecError, UnitError
from mofang.spec.document import shown
from mofang.units import DeviceRequest, parse_bytes, parse_count, parse_duration, parse_request

__all__ = [
    "Bytes",
    "CheckpointEvery",
    "CommandWords",
    "Duration",
    "EnvironmentText",
    "FrameworkName",
    "Name",
    "PositiveCount",
    "PositiveDuration",
    "Request",
    "Texts",
    "WholeCount",
    "refuse",
]

T = TypeVar("T")

_SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1"}


def refuse(message: str, hint: str = "", key: str = "") -> PydanticCustomError:
    """Return the error that pydantic carries to the edge: message, hint, and the key of the value that it is about."""
    return PydanticCustomError("mofang", "{text}", {"text": message, "hint": hint, "key": key})


def _checked(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return ``parse`` with its ``MofangError`` turned into one that pydantic collects with its place."""

    def check(value: Any) -> T:
        try:
            return parse(value)
        except MofangError as error:
            raise refuse(error.message, error.hint) from error

    return check


def _count(value: Any, least: int) -> int:
    number = parse_count(value)
    if number < least:
        raise UnitError(f"must be at least {least}, not {number}", hint=f"write a whole number from {least} up")
    return number


def _positive_duration(value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise UnitError("must be longer than nothing", hint="write it like 90s, 10m or 1h30m")
    return seconds


def _checkpoint_every(value: Any) -> int | float:
    """Return steps as an int, or seconds as a float."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _count(value, 1)
    if not isinstance(value, str):
        raise UnitError(f"{shown(value)} is neither steps nor a duration", hint="write 50 (steps) or 15s")
    return _positive_duration(value)


def _request(value: Any) -> DeviceRequest:
    if not isinstance(value, str):
        raise UnitError(f"{shown(value)} is not a device request", hint="write it like H100:8, H100:8..64 or cpu:2")
    return parse_request(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise SpecError(
            f"{shown(value)} is not a name",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or a digit",
        )
    return value


def _environment_text(value: Any) -> str:
    """Return the text of a variable; a number that YAML might have changed has to be quoted."""
    if isinstance(value, str) and "\0" in value:
        raise SpecError("the value of a variable has a NUL byte", hint="remove it")
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise SpecError("the value of a variable must be text", hint='quote it: "1.10", "true"')


def _texts(value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items or not all(isinstance(item, str) and item.strip() for item in items):
        raise SpecError(f"{shown(value)} is not one text or a list of texts", hint="write [one, two]; quote numbers")
    return items


def _command_words(value: Any) -> list[str]:
    words = _split(value) if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise SpecError("there is no command", hint="write it like [python, train.py, --epochs, 3]")
    if any(isinstance(word, bool) or not isinstance(word, str | int | float) for word in words):
        raise SpecError("every word of a command must be text or a number", hint='quote it: "true"')
    argv = [word if isinstance(word, str) else repr(word) for word in words]
    if not argv[0].strip() or any("\0" in word for word in argv):
        raise SpecError("the command has an empty program name or a NUL byte", hint="write it like [python, train.py]")
    return argv


def _framework(value: Any) -> str:
    from mofang.catalog.frameworks import frameworks  # noqa: PLC0415 - only where a file names one

    if not isinstance(value, str) or value not in frameworks():
        near = get_close_matches(str(value), frameworks(), n=1, cutoff=0.6)
        known = f"known are {', '.join(frameworks())}"
        raise SpecError(
            f"there is no framework {shown(value)}", hint=f"did you mean {near[0]!r}? {known}" if near else known
        )
    return value


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SpecError(
            f"the command cannot be split into words: {error}", hint="close the quotes, or write a list"
        ) from error
    shell = sorted(_SHELL_WORDS.intersection(words))
    if shell:
        raise SpecError(
            f"the command is not run by a shell, so {shell[0]!r} would be an argument",
            hint="write [bash, -c, '...'] to have a shell",
        )
    return words


_TEXT_OR_NUMBER = ["string", "number"]


def _described(kinds: str | list[str], examples: list[Any], **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": kinds, "examples": examples} | more)


PositiveCount = Annotated[
    int, PlainValidator(_checked(lambda value: _count(value, 1))), _described(["string", "integer"], [600, "40k"])
]
WholeCount = Annotated[
    int, PlainValidator(_checked(lambda value: _count(value, 0))), _described(["string", "integer"], [0, 600, "40k"])
]
Bytes = Annotated[int, PlainValidator(_checked(parse_bytes)), _described(_TEXT_OR_NUMBER, ["24GiB", "80GB"])]
Duration = Annotated[float, PlainValidator(_checked(parse_duration)), _described(_TEXT_OR_NUMBER, ["10s", "1h30m"])]
PositiveDuration = Annotated[
    float, PlainValidator(_checked(_positive_duration)), _described(_TEXT_OR_NUMBER, ["90s", "10m", "1h30m"])
]
CheckpointEvery = Annotated[
    int | float, PlainValidator(_checked(_checkpoint_every)), _described(["string", "integer"], ["15s", 50])
]
Request = Annotated[
    DeviceRequest, PlainValidator(_checked(_request)), _described("string", ["H100:8", "H100:8..64", "cpu:2"])
]
FrameworkName = Annotated[str, PlainValidator(_checked(_framework)), _described("string", ["gpt", "megatron"])]
Name = Annotated[str, PlainValidator(_checked(_name)), _described("string", ["code-gpt"])]
EnvironmentText = Annotated[str, PlainValidator(_checked(_environment_text)), _described(["string", "integer"], ["1"])]
Texts = Annotated[
    list[str],
    BeforeValidator(_checked(_texts)),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
CommandWords = Annotated[
    list[str],
    BeforeValidator(_checked(_command_words)),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 1}]}
    ),
]
