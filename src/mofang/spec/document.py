"""A YAML file as plain data that remembers where each value was written.

Scalars follow the core schema of YAML 1.2, so that ``no`` is text, ``3e-4`` is a number and ``1:30`` is not ninety.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from mofang.errors import MofangError, SpecError

__all__ = ["Document", "KeyPath", "know_core_schema", "parse_document", "shown"]

KeyPath = tuple[str | int, ...]

_MOST_CHARACTERS = 4_000_000
_MOST_VALUES = 100_000  # aliases can make a small file huge
_DEEPEST = 40
_DEFAULT_HINT = "`mofang schema` describes every key; examples/ has complete files"

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(?:0|[1-9][0-9]{0,30})", list("-0123456789")),
    ("float", r"-?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]{1,3})?", list("-0123456789.")),
    ("float", r"-?[0-9]+[eE][-+]?[0-9]{1,3}", list("-0123456789")),
    ("float", r"-?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-.")),
)


class _Loader(yaml.SafeLoader):
    """A safe loader that knows only the scalars of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - shape set by PyYAML


def know_core_schema(kind: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Add the scalars of the core schema: a loader then reads them, a dumper quotes text that looks like them."""
    for name, pattern, first in _CORE:
        kind.add_implicit_resolver(_TAG + name, re.compile(f"(?:{pattern})$"), first)


know_core_schema(_Loader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data and, for each path in it, the place where it was written (``job.yaml:7`` or ``--set train.lr``)."""

    data: Any
    source: str
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Return where this path was written, or where the nearest thing around it was."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.places.get((), self.source)

    def line(self, path: KeyPath) -> int:
        """Return the line of this path; values given with ``--set`` come first."""
        number = self.place(path).rpartition(":")[2]
        return int(number) if number.isdigit() else 0

    def error(self, path: KeyPath, message: str, hint: str = "") -> SpecError:
        """Return the error that says what is wrong at this path, in one line."""
        return SpecError(
            self._one_line(path, message),
            hint=hint or _DEFAULT_HINT,
            data={"place": self.place(path), "path": _dotted(path)},
        )

    @contextmanager
    def blame(self, *path: str | int) -> Iterator[None]:
        """Name this path in every ``MofangError`` raised inside that names no place yet."""
        try:
            yield
        except MofangError as error:
            if "place" in error.data:
                raise
            facts = error.data | {"place": self.place(path), "path": _dotted(path)}
            raise type(error)(
                self._one_line(path, error.message), hint=error.hint or _DEFAULT_HINT, data=facts
            ) from error

    def _one_line(self, path: KeyPath, message: str) -> str:
        where = f"{self.place(path)}: {_dotted(path)}: " if path else f"{self.place(path)}: "
        return where + " ".join(message.split())

    def with_values(self, assignments: Sequence[str]) -> Document:
        """Return the document after every ``path=value``; values are read as YAML.

        Raises:
            SpecError: an assignment cannot be understood, or its path runs through something that is no mapping.
        """
        document = self
        for text in assignments:
            document = _assigned(document, text)
        return document


def parse_document(text: str, source: str) -> Document:
    """Read one YAML document whose top is a mapping.

    Raises:
        SpecError: it is not YAML, repeats a key, or holds something other than a mapping.
    """
    places: dict[KeyPath, str] = {}
    data = _Reader(source, places).read(text)
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"holds {_kind(data)}, not keys and values"
        raise SpecError(f"{source}: the file {what}", hint="begin with `kind: pretrain`", data={"place": source})
    return Document(data=data, source=source, places=places)


class _Reader:
    """Builds data from YAML nodes and notes where each value stands."""

    def __init__(self, source: str, places: dict[KeyPath, str], fixed_place: str = "") -> None:
        self._source = source
        self._places = places
        self._fixed = fixed_place
        self._left = _MOST_VALUES

    def read(self, text: str, path: KeyPath = ()) -> Any:
        if len(text) > _MOST_CHARACTERS:
            raise self._fail(
                None, f"the file has {len(text)} characters, more than {_MOST_CHARACTERS}", "is it a job file?"
            )
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            self._syntax_error(error)
        except yaml.YAMLError as error:
            raise self._fail(
                None, f"is not text that YAML allows: {_first_line(error)}", "save it as UTF-8 text"
            ) from error
        except RecursionError as error:
            raise self._fail(None, "is nested too deeply", "a job file has a few levels") from error
        return None if node is None else self._value(node, path)

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> NoReturn:
        problem = str(error.problem or error.context or "is not YAML")
        if problem.startswith("found undefined alias"):  # the rest of it might be a secret
            problem = "a value that begins with * refers to an anchor, and there is none of that name"
        hint = (
            "indent with spaces, not tabs" if "\\t" in problem else "check the indentation, the colons and the quotes"
        )
        raise self._fail(error.problem_mark or error.context_mark, problem, hint) from error

    def _fail(self, mark: Any, message: str, hint: str) -> SpecError:
        place = self._fixed or (f"{self._source}:{mark.line + 1}:{mark.column + 1}" if mark else self._source)
        return SpecError(f"{place}: {' '.join(message.split())}", hint=hint, data={"place": place})

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._left -= 1
        if self._left < 0 or len(path) > _DEEPEST:
            raise self._fail(
                node.start_mark, "the file is nested too deeply or expands too far", "write it without aliases"
            )
        self._places.setdefault(path, self._fixed or f"{self._source}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._fail(key_node.start_mark, "a key must be a word", "quote keys that hold { or [")
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in found:
                hint = f"it was first written on line {lines[key]}: keep one of them"
                raise self._fail(key_node.start_mark, f"key {shown(key)} is written twice", hint)
            self._places[(*path, key)] = self._fixed or f"{self._source}:{line}"
            lines[key], found[key] = line, self._value(value_node, (*path, key))
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind not in {"null", "bool", "int", "float", "str"}:
            raise self._fail(node.start_mark, f"the tag {shown(node.tag)} is not allowed", "write plain values only")
        try:
            return _SCALARS[kind](node.value)
        except ValueError as error:
            raise self._fail(
                node.start_mark, f"the value is not of the type {kind} that its tag names", "remove it"
            ) from error


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


def _assigned(document: Document, text: str) -> Document:
    """Return the document with one ``path=value`` applied; neither the value nor a part of it is ever shown."""
    dotted, equals, value = text.partition("=")
    path: KeyPath = tuple(int(part) if part.isdigit() else part for part in dotted.strip().split("."))
    place = f"--set {shown(dotted.strip())[1:-1]}"
    if not equals or "" in path:
        raise SpecError(
            f"{place}: is not path=value", hint="write it like --set train.steps=100", data={"place": place}
        )
    kept = {old: where for old, where in document.places.items() if old[: len(path)] != path}
    parsed = _Reader(document.source, kept, fixed_place=place).read(value, path)
    kept[path] = place
    data = _replaced(document.data, path, parsed, place)
    return Document(data=data, source=document.source, places=kept)


def _replaced(data: Any, path: KeyPath, value: Any, place: str) -> Any:
    if not path:
        return value
    head, *rest = path
    if isinstance(data, list) and isinstance(head, int) and head < len(data):
        return [*data[:head], _replaced(data[head], tuple(rest), value, place), *data[head + 1 :]]
    if data is None or isinstance(data, dict):
        old = dict(data or {})
        return old | {str(head): _replaced(old.get(str(head)), tuple(rest), value, place)}
    reason = f"has no item {head}" if isinstance(data, list) else f"is {_kind(data)}, which has no {shown(str(head))}"
    raise SpecError(f"{place}: what lies before {shown(str(head))} {reason}", hint=_DEFAULT_HINT, data={"place": place})


def shown(value: object, most: int = 60) -> str:
    """Return a value as one short line of text for a message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"


def _kind(value: object) -> str:
    names = {list: "a list", dict: "keys and values", bool: "true or false", str: "text"}
    return names.get(type(value), "a number")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) if re.fullmatch(r"[\w./-]{1,60}", str(part)) else shown(str(part)) for part in path)
