"""A table: the rows that Mofang brings, extended and replaced by the rows of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mofang.catalog.names import key, nearest
from mofang.catalog.rows import Row, read_rows
from mofang.catalog.schema import Schema
from mofang.errors import CatalogError, MofangError

__all__ = ["DATA", "Entry", "Kind", "Table", "load_table"]

DATA = Path(__file__).with_name("data")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One thing in the catalogue, and the names it answers to."""

    name: str
    aliases: tuple[str, ...]
    value: T
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """What a table holds: its file, its columns (``name`` and ``aliases`` among them) and how a row becomes a value."""

    word: str  # "accelerator"; the table's files and the user's folder are its plural
    schema: Schema
    build: Callable[[dict[str, Any]], T]

    @property
    def plural(self) -> str:
        """The name of the table."""
        return f"{self.word}s"


class Table(Generic[T]):
    """Values by name. Names win over aliases, and what was added later over what was there before.

    A name is also known without its first word, the vendor, where that leaves no doubt: ``H100-SXM-80GB``.
    """

    def __init__(self, kind: Kind[T], entries: tuple[Entry[T], ...]) -> None:
        self.entries = entries
        self.values = tuple(entry.value for entry in entries)
        self._kind = kind
        aliases = {key(alias): entry for entry in entries for alias in entry.aliases}
        self._found = _without_vendor(entries) | aliases | {key(entry.name): entry for entry in entries}

    def find(self, name: str) -> T | None:
        """Return the value of that name or alias, or None."""
        entry = self._found.get(key(name))
        return None if entry is None else entry.value

    def get(self, name: str) -> T:
        """Return the value of that name or alias.

        Raises:
            CatalogError: there is none; the hint names what resembles it.
        """
        value = self.find(name)
        if value is None:
            raise CatalogError(
                f"there is no {self._kind.word} {name!r} in the catalogue",
                hint=self.hint(name),
                data={"kind": self._kind.word, "name": name},
            )
        return value

    def hint(self, name: str) -> str:
        """Return what to do about a name that is not in the table."""
        near = nearest(name, self.names())
        meant = f"did you mean {' or '.join(repr(candidate) for candidate in near)}? " if near else ""
        return f"{meant}`mofang catalog {self._kind.plural}` lists them all"

    def names(self) -> Iterator[str]:
        """Yield every name, then every alias."""
        yield from (entry.name for entry in self.entries)
        yield from (alias for entry in self.entries for alias in entry.aliases)


def _without_vendor(entries: tuple[Entry[T], ...]) -> dict[str, Entry[T]]:
    found: dict[str, list[Entry[T]]] = {}
    for entry in entries:
        found.setdefault(key(entry.name.partition(" ")[2]), []).append(entry)
    return {name: alike[0] for name, alike in found.items() if name and len(alike) == 1}


def load_table(kind: Kind[T], user_dir: Path | None) -> Table[T]:
    """Return the table: the packaged file, then the user's files in the order of their names.

    Args:
        kind: what the table holds.
        user_dir: the folder that has the user's folders of rows (``accelerators/my-chip.yaml``); None: none.

    Raises:
        CatalogError: a row is wrong; it says file, line, column and why.
    """
    entries: dict[str, Entry[T]] = {}
    for file in (DATA / f"{kind.plural}.csv", *_user_files(user_dir, kind.plural)):
        for entry in _entries(kind, file, dict(entries)):
            entries.pop(key(entry.name), None)  # so that the new row comes last, and its aliases win
            entries[key(entry.name)] = entry
    return Table(kind, tuple(entries.values()))


def _user_files(user_dir: Path | None, plural: str) -> list[Path]:
    if user_dir is None:
        return []
    try:
        files = sorted((user_dir / plural).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CatalogError(f"{user_dir / plural}: cannot be read: {error.strerror}") from error
    return [file for file in files if file.suffix in {".csv", ".yaml", ".yml"} and not file.name.startswith(".")]


def _entries(kind: Kind[T], file: Path, known: Mapping[str, Entry[T]]) -> Iterator[Entry[T]]:
    claimed: dict[str, Row] = {}
    for row in read_rows(file):
        entry = _entry(kind, row, known)
        for column, name in [("name", entry.name), *(("aliases", alias) for alias in entry.aliases)]:
            first = claimed.setdefault(key(name), row)
            if first is not row:
                why = f"{name!r} is taken by the row of line {first.line}"
                raise row.error(column, why, hint="give each row of a file names of its own")
        yield entry


def _entry(kind: Kind[T], row: Row, known: Mapping[str, Entry[T]]) -> Entry[T]:
    values = kind.schema.read(row)
    replaced = known.get(key(values["name"]))
    if replaced is not None and "aliases" not in row.lines:
        values["aliases"] = replaced.aliases  # whoever corrects a figure of H100 still means it by H100
    try:
        value = kind.build(values)
    except MofangError as error:
        raise CatalogError(f"{row.file}, line {row.line}: {error.message}", hint=error.hint) from error
    return Entry(name=values["name"], aliases=values["aliases"], value=value, row=row)
