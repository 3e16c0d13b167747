"""What reading one job file needs at hand: the document, what its paths count from, and the catalogue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mofang.domain.hardware import Accelerator
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Resources
from mofang.spec.document import Document

__all__ = ["Catalog", "Context"]


class Catalog(Protocol):
    """What reading a job file asks of the catalogue."""

    def model(self, name_or_path: str) -> ModelArchitecture:
        """Return the model of this name, or of this config.json."""

    def accelerator(self, name: str) -> Accelerator:
        """Return the accelerator of this name or alias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One document. ``base_dir`` is what its relative paths count from, ``name`` is for a job without one."""

    document: Document
    base_dir: Path
    catalog: Catalog
    name: str
    resources: Resources = Resources()

    def path(self, text: str) -> str:
        """Return an absolute path."""
        return os.path.normpath(self.base_dir / os.path.expanduser(text))  # noqa: PTH111 - Path's fails on ~nobody
