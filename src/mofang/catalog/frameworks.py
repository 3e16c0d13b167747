"""Training and serving frameworks: what each can do, on whose chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from mofang.catalog.table import DATA
from mofang.domain.hardware import Precision
from mofang.domain.strategy import Method, Offload, Recompute, Sharding

__all__ = ["Framework", "framework_named", "frameworks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """One framework, as ``data/frameworks.yaml`` describes it.

    ``cuts`` are the parallelisms beside data parallelism (tp, pp, vpp, cp, ep, attention-dp), ``models`` the kinds it
    builds (dense, moe, mla), ``version`` the one whose flags the launcher writes. ``launches`` says for which methods
    of which tasks Mofang writes a command; ``recipe`` marks its own programs.
    """

    name: str
    tasks: frozenset[str]
    vendors: frozenset[str]  # "any": all of them, "cores": processor cores
    models: frozenset[str]
    precisions: frozenset[Precision]
    methods: frozenset[Method] = frozenset()
    shardings: frozenset[Sharding] = frozenset()
    recomputes: frozenset[Recompute] = frozenset()
    cuts: frozenset[str] = frozenset()
    offloads: frozenset[Offload] = frozenset({Offload.NONE})
    disaggregated: bool = False
    launches: Mapping[str, frozenset[Method]] = field(default_factory=dict)
    recipe: bool = False
    version: str = ""
    aliases: tuple[str, ...] = ()

    def runs_on(self, vendor: str) -> bool:
        """Whether it runs on the vendor's chips; "" means processor cores."""
        return "any" in self.vendors or (vendor or "cores") in self.vendors

    @property
    def launcher(self) -> bool:
        """Whether Mofang writes commands for it at all."""
        return bool(self.launches)


@cache
def frameworks() -> Mapping[str, Framework]:
    """Return every framework by name, in the order of the file."""
    rows = yaml.safe_load((DATA / "frameworks.yaml").read_text(encoding="utf-8"))
    return {name: _framework(name, row) for name, row in rows.items()}


def _framework(name: str, row: Mapping[str, Any]) -> Framework:
    return Framework(
        name=name,
        offloads=frozenset(map(Offload, row.get("offloads", ["none"]))),
        disaggregated=row.get("disaggregated", False),
        launches=_launches(row),
        recipe=row.get("recipe", False),
        version=row.get("version", ""),
        aliases=tuple(row.get("aliases", ())),
        tasks=frozenset(row["tasks"]),
        vendors=frozenset(row["vendors"]),
        models=frozenset(row["models"]),
        precisions=frozenset(map(Precision, row["precisions"])),
        methods=frozenset(map(Method, row.get("methods", ()))),
        shardings=frozenset(map(Sharding, row.get("shardings", ()))),
        recomputes=frozenset(map(Recompute, row.get("recomputes", ()))),
        cuts=frozenset(row.get("cuts", ())),
    )


def _launches(row: Mapping[str, Any]) -> dict[str, frozenset[Method]]:
    written = row["launcher"]
    if isinstance(written, Mapping):
        return {task: frozenset(map(Method, methods)) for task, methods in written.items()}
    methods = frozenset(map(Method, row.get("methods", ())))
    return dict.fromkeys(row["tasks"], methods) if written else {}


def framework_named(text: str) -> Framework | None:
    """Return the framework that a source means by ``text``; None where no alias is part of it."""
    written = text.casefold()
    known = frameworks()
    if written in known:
        return known[written]
    return next((one for one in known.values() if any(alias in written for alias in one.aliases)), None)
