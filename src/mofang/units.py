"""Quantities as people write them.

Inside Mofang every quantity is a plain number in SI base units (bytes, bytes/s, seconds, FLOP/s). This module parses
what people write at the edge and prints it back: ``parse_X(format_X(x)) == x`` for every exact value.

==========  ==============================  ===========================================
kind        written                         inside
==========  ==============================  ===========================================
bytes       ``80GB``, ``24GiB``, ``512``    bytes (``GB`` is 10^9, ``GiB`` is 2^30)
rate        ``400Gb/s``, ``3.35TB/s``       bytes/s (``b`` is bits, ``B`` is bytes)
duration    ``90s``, ``10m``, ``1h30m``     seconds
count       ``7B``, ``1.5M``, ``40k``       a number
range       ``8``, ``8..64``, ``8..``       ``Range``
request     ``H100:8``, ``H100:8..64``      ``DeviceRequest``
==========  ==============================  ===========================================
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from mofang.errors import UnitError

__all__ = [
    "DeviceRequest",
    "Range",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_rate",
    "parse_bytes",
    "parse_count",
    "parse_duration",
    "parse_range",
    "parse_rate",
    "parse_request",
    "show_bytes",
    "show_count",
    "show_duration",
    "show_rate",
]

# bounded, so that no text of a few characters becomes a number of a million digits
_NUMBER = r"([0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?)"
_MOST_EXACT = 1e15  # larger floats are printed as they are: their last digits mean nothing
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_BYTES = {f"{prefix}B": size for prefix, size in (_DECIMAL | _BINARY).items()}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SECONDS = {"d": Fraction(86400), "h": Fraction(3600), "m": Fraction(60), "s": Fraction(1), "ms": Fraction(1, 1000)}


def _fail(text: object, kind: str, example: str) -> UnitError:
    return UnitError(
        f"{text!r} is not a {kind}", hint=f"write it like {example}", data={"value": str(text), "kind": kind}
    )


def _scaled(text: str, units: dict[str, int], kind: str, example: str) -> Fraction:
    match = re.fullmatch(rf"{_NUMBER}\s*([A-Za-z]*)", text.strip())
    if match is None:
        raise _fail(text, kind, example)
    number, unit = match.groups()
    folded = {name.lower(): size for name, size in units.items()}
    size = units.get(unit, folded.get(unit.lower()))
    if size is None:
        raise _fail(text, kind, example)
    return Fraction(number) * size


def parse_bytes(text: str | int | float) -> int:
    """Return bytes; a bare number is bytes already.

    Raises:
        UnitError: the text is not an amount of bytes.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return int(_non_negative(text, "number of bytes", "80GB, 24GiB or 512MiB"))
    if re.fullmatch(r".*[KMGTPE]i?b", str(text).strip()):
        raise UnitError(f"{text!r} counts bits, not bytes", hint="write GB, MB ... with a capital B for bytes")
    value = _scaled(str(text), {"": 1} | _BYTES, "number of bytes", "80GB, 24GiB or 512MiB")
    return int(value)


def _non_negative(value: float, kind: str, example: str) -> float:
    if not 0 <= value < math.inf or value > sys.float_info.max:
        raise _fail(value, kind, example)
    return value


def format_bytes(value: int) -> str:
    """Return the shortest exact text; of the same length, decimal units win over binary ones, large over small ones."""
    texts = [f"{value}B"]
    for unit, size in _BYTES.items():
        exact = _exact_decimal(Fraction(int(value), size))
        if exact is not None:
            texts.insert(0, f"{exact}{unit}")
    return min(texts, key=lambda text: (len(text), text.endswith("iB")))


def _exact_decimal(value: Fraction) -> str | None:
    """Return the value with at most three decimals, or None where that would lose something."""
    thousandths = value * 1000
    if thousandths.denominator != 1 or (value != 0 and value < Fraction(1, 10)):
        return None
    whole, rest = divmod(int(thousandths), 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".") if rest else str(whole)


def parse_rate(text: str | int | float) -> float:
    """Return bytes per second; ``Gb/s`` counts bits, ``GB/s`` counts bytes, a bare number is bytes/s.

    Raises:
        UnitError: the text is not a data rate.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(_non_negative(text, "data rate", "400Gb/s (bits) or 3.35TB/s (bytes)"))
    match = re.fullmatch(rf"{_NUMBER}\s*([kKMGTPE]?i?)([bB])(?:/s|ps)", str(text).strip())
    if match is None:
        raise _fail(text, "data rate", "400Gb/s (bits) or 3.35TB/s (bytes)")
    number, prefix, letter = match.groups()
    size = (_DECIMAL | _BINARY | {"K": 10**3}).get(prefix)
    if size is None:
        raise _fail(text, "data rate", "400Gb/s (bits) or 3.35TB/s (bytes)")
    return float(Fraction(number) * size / (8 if letter == "b" else 1))


def format_rate(value: float) -> str:
    """Return the shortest exact text in bytes per second."""
    if value < _MOST_EXACT and value == int(value):
        return f"{format_bytes(int(value))}/s"
    return f"{value!r}B/s"


def parse_duration(text: str | int | float) -> float:
    """Return seconds; a bare number is seconds already.

    Raises:
        UnitError: the text is not a duration.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(_non_negative(text, "duration", "90s, 10m or 1h30m"))
    part = rf"{_NUMBER}(ms|[dhms])"
    if not re.fullmatch(rf"(?:{part}\s*)+", str(text).strip()):
        raise _fail(text, "duration", "90s, 10m or 1h30m")
    parts = re.findall(part, str(text))
    return float(sum(Fraction(number) * _SECONDS[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """Return exact text such as ``1h30m``."""
    rest = Fraction(round(Fraction(seconds) * 1000), 1000)
    if seconds > _MOST_EXACT or float(rest) != float(seconds):
        return f"{seconds!r}s"
    text = ""
    for unit in ("d", "h", "m", "s"):
        number, rest = divmod(rest, _SECONDS[unit])
        text += f"{number}{unit}" if number else ""
    return text + (f"{int(rest * 1000)}ms" if rest else "") or "0s"


def parse_count(text: str | int | float) -> int:
    """Return a count: ``7B`` is seven thousand million.

    Raises:
        UnitError: the text is not a count, or not a whole one.
    """
    if isinstance(text, bool):
        raise _fail(text, "count", "600, 40k or 1.5B")
    if isinstance(text, int | float):
        text = repr(_non_negative(text, "count", "600, 40k or 1.5B"))
    value = _scaled(str(text), _COUNTS, "count", "600, 40k or 1.5B")
    if value.denominator != 1:
        raise _fail(text, "whole count", "600, 40k or 1.5B")
    return int(value)


def format_count(value: int) -> str:
    """Return the shortest exact text."""
    texts = [str(value)]
    for unit, size in _COUNTS.items():
        exact = _exact_decimal(Fraction(value, size))
        if exact is not None:
            texts.append(f"{exact}{unit}")
    return min(texts, key=len)


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval; ``maximum`` None means without end. Prints as ``8``, ``8..64`` or ``8..``."""

    minimum: int
    maximum: int | None

    def __post_init__(self) -> None:
        if self.minimum < 0 or (self.maximum is not None and self.maximum < self.minimum):
            raise UnitError(f"range {self.minimum}..{self.maximum} is empty", hint="write the smaller end first: 8..64")

    def __contains__(self, value: int) -> bool:
        return value >= self.minimum and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        return self.text(str)

    def text(self, form: Callable[[int], str]) -> str:
        """Return the range with each end printed by ``form``."""
        if self.maximum == self.minimum:
            return form(self.minimum)
        return f"{form(self.minimum)}..{'' if self.maximum is None else form(self.maximum)}"

    def intersect(self, other: Range) -> Range | None:
        """Return the common part, or None where there is none."""
        low = max(self.minimum, other.minimum)
        ends = [end for end in (self.maximum, other.maximum) if end is not None]
        high = min(ends) if ends else None
        return None if high is not None and high < low else Range(low, high)


def parse_range(text: str | int | float, parse: Callable[[str | int | float], int] = parse_count) -> Range:
    """Return a range of counts, or of whatever ``parse`` reads (``parse_range("24GiB..", parse_bytes)``).

    Raises:
        UnitError: the text is not a range.
    """
    if not isinstance(text, str):
        value = parse(text)
        return Range(value, value)
    low, dots, high = (part.strip() for part in text.partition(".."))
    if not low and not high:
        raise _fail(text, "range", "8, 8..64 or 8..")
    minimum = parse(low) if low or not dots else 0
    if not dots:
        return Range(minimum, minimum)
    return Range(minimum, parse(high) if high else None)


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A kind of device and how many: ``H100:8..64``. The name is as written; the catalogue resolves it."""

    name: str
    count: Range

    def __str__(self) -> str:
        return f"{self.name}:{self.count}"


def parse_request(text: str) -> DeviceRequest:
    """Return a device request; without a count it asks for one device.

    Raises:
        UnitError: the text is not a device request.
    """
    if not isinstance(text, str):
        raise _fail(text, "device request", "H100:8, H100:8..64 or cpu:2")
    name, colon, count = (part.strip() for part in text.rpartition(":"))
    if not colon:
        name, count = count, "1"
    if not count or not re.fullmatch(r"(?=.*[A-Za-z])\w[\w .+/()-]*", name):
        raise _fail(text, "device request", "H100:8, H100:8..64 or cpu:2")
    wanted = parse_range(count)
    if wanted.maximum == 0:
        raise UnitError(f"{text!r} asks for no device", hint="ask for at least one: H100:8")
    return DeviceRequest(name, wanted)


def _shown(value: float, units: dict[str, int], base: str) -> str:
    for unit, size in reversed(units.items()):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.3g} {base}"


def show_bytes(value: float) -> str:
    """Return decimal bytes to three figures, for tables: ``78.3 GB``."""
    return _shown(value, {f"{prefix}B": size for prefix, size in _DECIMAL.items()}, "B")


def show_rate(value: float) -> str:
    """Return bytes/s to three figures, for tables: ``3.35 TB/s``."""
    return f"{show_bytes(value)}/s"


def show_count(value: float) -> str:
    """Return a count to three figures, for tables: ``1.24M``."""
    return _shown(value, _COUNTS, "").replace(" ", "")


def show_duration(seconds: float) -> str:
    """Return a duration in its two largest units, for tables: ``1h 05m``, ``12.3s``, ``45ms``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"
