"""Training and serving frameworks: what each can do, on whose chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    builds (dense, moe, mla), ``version`` the one whose flags the launcher writes.
    """

    name: str
    tasks: frozenset[str]
    vendors: frozenset[str]  # "any": all of them, and processor cores
    models: frozenset[str]
    precisions: frozenset[Precision]
    methods: frozenset[Method] = frozenset()
    shardings: frozenset[Sharding] = frozenset()
    recomputes: frozenset[Recompute] = frozenset()
    cuts: frozenset[str] = frozenset()
    offloads: frozenset[Offload] = frozenset({Offload.NONE})
    disaggregated: bool = False
    launcher: bool = False
    version: str = ""
    aliases: tuple[str, ...] = ()

    def runs_on(self, vendor: str) -> bool:
        """Whether it runs on the vendor's chips; "" means processor cores."""
        return "any" in self.vendors or vendor in self.vendors


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
        launcher=row["launcher"],
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


def framework_named(text: str) -> Framework | None:
    """Return the framework that a source means by ``text``; None where no alias is part of it."""
    written = text.casefold()
    known = frameworks()
    if written in known:
        return known[written]
    return next((one for one in known.values() if any(alias in written for alias in one.aliases)), None)
