"""A ``config.json``, key by key, with errors that name the file and the key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.errors import CatalogError

__all__ = ["Config", "load"]

_LARGEST_FILE = 8_000_000  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The keys of one file, or of one object inside it. Null counts as absent, as it does for Hugging Face."""

    file: Path
    name: str
    values: dict[str, Any]
    prefix: str = ""

    def error(self, key: str, why: str, hint: str = "") -> CatalogError:
        """Return the error that says file, key and why."""
        data = {"file": str(self.file), "key": self.prefix + key}
        return CatalogError(f"{self.file}: key {self.prefix + key!r} {why}", hint=hint, data=data)

    def has(self, key: str) -> bool:
        """Whether the key is there, with a value."""
        return self.values.get(key) is not None

    def part(self, key: str) -> Config:
        """Return the object under a key.

        Raises:
            CatalogError: there is none.
        """
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "is missing" if value is None else "is not an object")
        return Config(file=self.file, name=self.name, values=value, prefix=f"{self.prefix}{key}.")

    def text(self, key: str) -> str:
        """Return text.

        Raises:
            CatalogError: the key is missing or is not text.
        """
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.error(key, "is missing" if value is None else f"is not text: {_short(value)}")
        return value

    def count(self, *keys: str, default: int | None = None) -> int:
        """Return the whole number under the first of these keys that is there; newer and older names of one thing.

        Raises:
            CatalogError: all are missing and there is no default, or the value is not a whole number of 0 or more.
        """
        key = next((key for key in keys if self.has(key)), None)
        if key is None:
            if default is None:
                raise self.error(keys[0], "is missing", hint="it must say the size of the model")
            return default
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, f"is not a whole number: {_short(value)}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false.

        Raises:
            CatalogError: the value is neither.
        """
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, f"is not true or false: {_short(value)}")
        return value

    def require(self, key: str, expected: object) -> None:
        """Raise ``CatalogError`` where the key has another value than the only one that is understood."""
        value = self.values.get(key, expected)
        if value is not None and value != expected:
            raise self.error(key, f"is {_short(value)}; only {_short(expected)} is understood")


def load(path: Path) -> Config:
    """Return what a file, or the ``config.json`` of a folder, holds.

    Raises:
        CatalogError: it cannot be read, or is not a JSON object.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(_text(file))
    except OSError as error:
        hint = "give the path of a config.json, or of the folder that holds one"
        raise CatalogError(f"{file}: cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{file}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise CatalogError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise CatalogError(f"{file}: not a configuration: its JSON is too large or too deep") from error
    if not isinstance(values, dict):
        raise CatalogError(f"{file}: not a JSON object", hint="a config.json starts with {")
    return Config(file=file, name=_name(file), values=values)


def _text(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise CatalogError(f"{file}: not a file")
    if file.stat().st_size > _LARGEST_FILE:
        raise CatalogError(f"{file}: larger than {_LARGEST_FILE // 10**6} MB, which no config.json is")
    return file.read_text(encoding="utf-8")


def _name(file: Path) -> str:
    """Return the folder's name for a ``config.json``, the file's own otherwise."""
    return (file.absolute().parent.name if file.stem == "config" else file.stem) or "model"


def _short(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
