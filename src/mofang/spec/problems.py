"""What pydantic finds wrong, in the words of the person who wrote the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mofang.errors import SpecError
from mofang.spec.document import Document, KeyPath, shown
from mofang.spec.schema.section import nearest

__all__ = ["read_as"]

M = TypeVar("M", bound=BaseModel)

_TYPES = {
    "string_type": ("text", "quote it if it is meant as text"),
    "int_type": ("a whole number", "write digits only"),
    "float_type": ("a number", "write it like 0.003 or 3e-3"),
    "finite_number": ("a finite number", "write it like 0.003 or 3e-3"),
    "bool_type": ("true or false", "write true or false, without quotes"),
    "list_type": ("a list", "write [one, two]"),
    "dict_type": ("keys and values", "write {key: value}"),
}
_BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_BOUND_KEYS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def read_as(kind: type[M], document: Document) -> M:
    """Return the document as this kind of file.

    Raises:
        SpecError: something in it is wrong; the first place is named, ``data["problems"]`` holds all of them.
    """
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(document, details) for details in error.errors(include_url=False)]
    problems.sort(key=lambda problem: problem[0])
    first = problems[0][1]
    first.data["problems"] = [problem.message for _, problem in problems]
    raise first


def _problem(document: Document, details: ErrorDetails) -> tuple[int, SpecError]:
    # parts in brackets are pydantic's own: the branch of a union, or "[key]" after a mapping's key
    path: KeyPath = tuple(part for part in details["loc"] if not str(part).startswith(("(", "[")))
    if details["type"] == "missing":
        parent, key = path[:-1], str(path[-1])
        return document.line(parent), document.error(parent, f"{key!r} is missing", f"add {key}: ...")
    context = details.get("ctx", {})
    if context.get("key"):
        path = (*path, str(context["key"]))
    return document.line(path), document.error(path, *_words(details, context))


def _words(details: ErrorDetails, context: Mapping[str, Any]) -> tuple[str, str]:
    kind = details["type"]
    given = "this" if "secrets" in details["loc"] else shown(details.get("input"))
    if kind == "mofang":
        return str(context["text"]), str(context["hint"])
    if kind in _TYPES:
        wanted, hint = _TYPES[kind]
        return f"{given} is not {wanted}", hint
    if kind in _BOUNDS:
        bound = f"{_BOUNDS[kind]} {context[_BOUND_KEYS[kind]]}"
        return f"must be {bound}, not {given}", f"choose a value {bound}"
    if kind in {"enum", "literal_error"}:
        known = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
        return f"{given} is not one of {', '.join(known)}", nearest(
            str(details.get("input")), known
        ) or f"write {known[0]}"
    return str(details["msg"]), ""
