"""Text in columns: how wide each may be, and how cells fold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = ["clean", "fold", "layout", "width"]

_GAP = "  "
_NARROWEST = 6  # columns; below this a cell says nothing, and the table rather grows wider than the terminal
_QUANTITY = re.compile(r"[-+~]?\d[\d.,]*\s?[A-Za-z%/]{0,8}(\s\d+[a-z]{1,2})?|-|")


def clean(text: str) -> str:
    """Return the text without control characters, which could move the cursor or change colours."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def width(text: str) -> int:
    """Return the columns the text takes: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fold(text: str, limit: int) -> list[str]:
    """Return the text in lines of at most ``limit`` columns, broken at spaces where that is possible."""
    lines, current = [], ""
    for word in text.split(" "):
        joined = f"{current} {word}" if current else word
        if width(joined) <= limit:
            current = joined
            continue
        if current:
            lines.append(current)
        *full, current = _cut(word, limit)
        lines += full
    return [*lines, current]


def _cut(word: str, limit: int) -> list[str]:
    pieces = [""]
    for char in word:
        if pieces[-1] and width(pieces[-1]) + _char_width(char) > limit:
            pieces.append("")
        pieces[-1] += char
    return pieces


def layout(columns: Sequence[str], rows: Sequence[Sequence[str]], limit: int | None) -> list[str]:
    """Return the lines of a table, the heading first; at most ``limit`` columns wide where that is possible."""
    cells = [[clean(str(cell)) for cell in row] for row in rows]
    right = [all(_QUANTITY.fullmatch(row[index]) for row in cells) for index in range(len(columns))]
    stacks = list(zip(columns, *cells, strict=True))
    natural = [max(width(cell) for cell in stack) for stack in stacks]
    # Words give way before quantities, and a cell is folded between words before one is cut.
    whole = [
        size if is_right else max(_longest_word(cell) for cell in stack)
        for size, is_right, stack in zip(natural, right, stacks, strict=True)
    ]
    widths = _narrowed(_narrowed(natural, whole, limit), [_NARROWEST] * len(columns), limit)
    heading = _lines(columns, widths, right)
    return [*heading, *(text for row in cells for text in _lines(row, widths, right))]


def _longest_word(text: str) -> int:
    return max(width(word) for word in text.split(" "))


def _narrowed(widths: Sequence[int], floors: Sequence[int], limit: int | None) -> list[int]:
    """Return widths whose sum fits, none below its floor if it was not there already; the widest give way first."""
    found = list(widths)
    if limit is None:
        return found
    excess = sum(found) + len(_GAP) * (len(found) - 1) - limit
    while excess > 0:
        able = [index for index, floor in enumerate(floors) if found[index] > floor]
        if not able:
            break
        found[max(able, key=found.__getitem__)] -= 1
        excess -= 1
    return found


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    folded = [[cell] if width(cell) <= room else fold(cell, room) for cell, room in zip(row, widths, strict=True)]
    height = max(len(cell) for cell in folded)
    return [
        _GAP.join(
            _padded(cell[index] if index < len(cell) else "", room, to_right)
            for cell, room, to_right in zip(folded, widths, right, strict=True)
        ).rstrip()
        for index in range(height)
    ]


def _padded(text: str, room: int, to_right: bool) -> str:
    spaces = " " * (room - width(text))
    return spaces + text if to_right else text + spaces
