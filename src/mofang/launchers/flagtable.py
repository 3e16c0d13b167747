"""The flags of other frameworks: what we mean -> how a stated version of the framework spells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from mofang.errors import SpecError

__all__ = ["FlagTable", "flag_table"]

Value = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagTable:
    """One framework's flags, as ``flags/<framework>.yaml`` lists them for one version.

    ``fixed`` are words that every command carries, ``prepare`` is the program that turns text into the framework's own
    format, if it needs one. ``modules`` are what the program imports beside itself, ``install`` is how to get them.
    """

    framework: str
    version: str
    source: str
    program: tuple[str, ...]
    flags: Mapping[str, str]
    fixed: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    install: str = ""

    def words(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the flags for the values, in the order of the values.

        True is a flag without a value; False and None are left out.

        Raises:
            SpecError: this version has no flag for one of the values.
        """
        found: list[str] = []
        for meaning, value in values.items():
            if value is None or value is False:
                continue
            flag = self.flags.get(meaning)
            if flag is None:
                raise SpecError(
                    f"{self.framework} {self.version} has no flag for {meaning.replace('_', ' ')} = {value}",
                    hint="choose a plan of another framework, or leave that setting out",
                )
            found.append(flag)
            if value is not True:
                found += [_word(part) for part in (value if isinstance(value, tuple) else (value,))]
        return (*found, *self.fixed)


def _word(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def flag_table(framework: str) -> FlagTable:
    """Return the framework's table."""
    text = resources.files("mofang.launchers").joinpath(f"flags/{framework}.yaml").read_text(encoding="utf-8")
    row = yaml.safe_load(text)
    return FlagTable(
        framework=framework,
        version=row["version"],
        source=row["source"],
        program=tuple(row["program"]),
        flags=row["flags"],
        fixed=tuple(row.get("fixed", ())),
        prepare=tuple(row.get("prepare", ())),
        modules=tuple(row.get("modules", ())),
        install=row["install"],
    )
