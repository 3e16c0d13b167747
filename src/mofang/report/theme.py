"""How pictures look, on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mofang.report.timeline import Activity

__all__ = ["DARK", "LIGHT", "Theme"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours by what they mean. Blue and orange are told apart by every kind of colour vision."""

    surface: str
    ink: str
    muted: str
    grid: str
    measured: str  # what was measured; training
    predicted: str  # what was predicted; validation
    fault: str
    redone: str
    activities: Mapping[Activity, str]

    def settings(self) -> dict[Any, Any]:
        """Return matplotlib's settings."""
        return {
            "figure.facecolor": self.surface,
            "savefig.facecolor": self.surface,
            "axes.facecolor": self.surface,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": self.grid,
            "grid.linewidth": 0.8,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "ytick.left": False,
            "font.family": "DejaVu Sans",  # it comes with matplotlib, so every machine draws the same
            "font.size": 10,
            "legend.frameon": False,
            "legend.fontsize": 9.5,
            "lines.solid_capstyle": "round",
        }


LIGHT = Theme(
    surface="#ffffff",
    ink="#1f2328",
    muted="#6b7280",
    grid="#e8eaed",
    measured="#2563eb",
    predicted="#d97706",
    fault="#dc2626",
    redone="#f3d9a4",
    activities={
        Activity.DETECTION: "#7f1d1d",
        Activity.RESTART: "#dc2626",
        Activity.REDONE: "#f59e0b",
        Activity.COMPUTE: "#2563eb",
        Activity.EVALUATION: "#0d9488",
        Activity.CHECKPOINT: "#7c3aed",
        Activity.SNAPSHOT: "#db2777",
        Activity.START: "#94a3b8",
        Activity.OTHER: "#d5dae1",
    },
)

DARK = Theme(
    surface="#161b22",
    ink="#e6edf3",
    muted="#8b949e",
    grid="#2a313a",
    measured="#6ea8fe",
    predicted="#f0b429",
    fault="#ff7b72",
    redone="#5c4a1e",
    activities={
        Activity.DETECTION: "#b62324",
        Activity.RESTART: "#ff7b72",
        Activity.REDONE: "#f0b429",
        Activity.COMPUTE: "#4c8dff",
        Activity.EVALUATION: "#2dd4bf",
        Activity.CHECKPOINT: "#b392f0",
        Activity.SNAPSHOT: "#f778ba",
        Activity.START: "#7d8794",
        Activity.OTHER: "#3d444d",
    },
)
