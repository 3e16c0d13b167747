"""All that is known of chips, servers and models: packaged tables and the user's rows, each read when asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.catalog.hardware import ACCELERATORS, SERVERS
from mofang.catalog.table import Table, load_table
from mofang.errors import CatalogError

if TYPE_CHECKING:
    from mofang.catalog.models import PublishedModel
    from mofang.catalog.prices import Prices
    from mofang.domain.hardware import Accelerator, Server
    from mofang.domain.model import ModelArchitecture

__all__ = ["Catalog"]


class Catalog:
    """Names to facts. Names are compared by letters and digits, in any case; aliases count.

    Example:
        >>> Catalog.load().accelerator("h100").name
        'NVIDIA H100-SXM-80GB'
    """

    def __init__(self, user_dir: Path | None = None) -> None:
        self._user_dir = user_dir

    @classmethod
    def load(cls, user_dir: Path | None = None) -> Catalog:
        """Return the catalogue; files are read when a table is first asked for, and wrong rows are found then.

        Args:
            user_dir: the folder with ``accelerators/``, ``servers/`` and ``models/``, whose CSV and YAML files extend
                the packaged rows, or replace them by name; it need not exist.
        """
        return cls(user_dir)

    @cached_property
    def accelerator_table(self) -> Table[Accelerator]:
        """Chips with their aliases and rows."""
        return load_table(ACCELERATORS, self._user_dir)

    @cached_property
    def server_table(self) -> Table[Server]:
        """Servers with their aliases and rows, as written."""
        return load_table(SERVERS, self._user_dir)

    @cached_property
    def model_table(self) -> Table[PublishedModel]:
        """Models with their aliases and rows."""
        from mofang.catalog.models import MODELS  # noqa: PLC0415 - a table at a time

        return load_table(MODELS, self._user_dir)

    @cached_property
    def accelerators(self) -> tuple[Accelerator, ...]:
        """Every kind of chip."""
        return self.accelerator_table.values

    @cached_property
    def servers(self) -> tuple[Server, ...]:
        """Every kind of server."""
        return tuple(self._named(server) for server in self.server_table.values)

    @cached_property
    def models(self) -> tuple[PublishedModel, ...]:
        """Every model, with its published parameter counts."""
        return self.model_table.values

    @cached_property
    def prices(self) -> Prices:
        """What an hour of each chip costs."""
        from mofang.catalog.prices import load_prices  # noqa: PLC0415 - a table at a time

        return load_prices(self._user_dir, self.accelerator_table)

    def accelerator(self, name: str) -> Accelerator:
        """Return the chip of that name or alias.

        Raises:
            CatalogError: there is none; the hint names what resembles it.
        """
        return self.accelerator_table.get(name)

    def server(self, name: str) -> Server:
        """Return the server of that name or alias; its ``accelerator`` is the catalogue's own name where it has one.

        Raises:
            CatalogError: there is none; the hint names what resembles it.
        """
        return self._named(self.server_table.get(name))

    def model(self, name_or_path: str | Path) -> ModelArchitecture:
        """Return the model of that name or alias, or the one that a Hugging Face ``config.json`` describes.

        Args:
            name_or_path: a name, the path of a ``config.json``, or of the folder that holds one. Names come first.

        Raises:
            CatalogError: there is none, or the file describes none; the hint says what to do.
        """
        text = str(name_or_path)
        found = None if isinstance(name_or_path, Path) else self.model_table.find(text)
        if found is not None:
            return found.architecture
        if isinstance(name_or_path, Path) or _is_path(text):
            from mofang.catalog.huggingface import read_config  # noqa: PLC0415 - only where a file is given

            return read_config(Path(text))
        raise CatalogError(
            f"there is no model {text!r} in the catalogue, and no such file or folder",
            hint=self.model_table.hint(text),
            data={"kind": "model", "name": text},
        )

    def _named(self, server: Server) -> Server:
        chip = self.accelerator_table.find(server.accelerator)
        return server if chip is None else replace(server, accelerator=chip.name)


def _is_path(text: str) -> bool:
    """Whether the text is the path of something, or is meant to be one."""
    try:
        return text.endswith(".json") or (bool(text.strip()) and Path(text).exists())
    except OSError:  # longer than any path may be
        return False
