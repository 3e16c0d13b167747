"""How long documents or requests are, as people say it: a number, percentiles, or quantiles at even distances."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator, WithJsonSchema

from mofang.domain.scenario import Lengths
from mofang.errors import MofangError, SpecError
from mofang.spec.document import shown
from mofang.spec.quantities import refuse
from mofang.units import parse_count

__all__ = ["LengthsText", "read_lengths"]

_HINT = "write a number (512), percentiles ({p50: 300, p90: 900}) or quantiles ([20, 300, 2000])"


def read_lengths(value: Any) -> Lengths:
    """Return the lengths that a value of a job file means.

    Between two percentiles lengths grow in a line. Without p0 the shortest is one token, without p100 the longest is
    the highest percentile given.

    Raises:
        SpecError: it is no distribution, or a length falls where the percentile grows.
    """
    if isinstance(value, dict):
        return _of_percentiles({_percentile(key): _count(length) for key, length in value.items()})
    if isinstance(value, list):
        return Lengths(quantiles=tuple(float(_count(length)) for length in value))
    length = float(_count(value))
    return Lengths(quantiles=(length, length))


def _percentile(key: str) -> int:
    found = re.fullmatch(r"p(\d{1,3})", key)
    if found is None or int(found[1]) > 100:
        raise SpecError(f"{shown(key)} is not a percentile", hint="write p50, p90, p99: whole numbers from 0 to 100")
    return int(found[1])


def _of_percentiles(given: dict[int, int]) -> Lengths:
    if max(given, default=0) < 90:
        raise SpecError("the long ones are missing: no percentile of 90 or more", hint="add p90, p99 or p100")
    points = {0: 1} | given | {100: given.get(100, given[max(given)])}
    order = sorted(points)
    step = math.gcd(*order)  # the widest even distance that meets every percentile
    lengths = np.interp(np.arange(0, 101, step), order, [points[percentile] for percentile in order])
    return Lengths(quantiles=tuple(float(length) for length in lengths))


def _count(value: Any) -> int:
    number = parse_count(value)
    if number < 1:
        raise SpecError(f"a length must be at least 1 token, not {number}", hint=_HINT)
    return number


def _checked(value: Any) -> Lengths:
    try:
        return read_lengths(value)
    except MofangError as error:
        raise refuse(error.message, error.hint or _HINT) from error


LengthsText = Annotated[
    Lengths,
    PlainValidator(_checked),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["integer", "string"]},
                {"type": "object", "patternProperties": {"^p[0-9]{1,3}$": {"type": ["integer", "string"]}}},
                {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 2},
            ],
            "examples": [512, {"p50": 300, "p90": 900}, [20, 300, 2000]],
        }
    ),
]
