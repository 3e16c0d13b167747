"""Extra hosts, each behind a prefix: ``$MOFANG_HOME/hosts.yaml``.

.. code-block:: yaml

    domain: rack-1
    hosts:
      - name: node-b
        address: 10.0.0.2
        prefix: [ssh, node-b]
        domain: rack-2

A host sees the same files at the same paths, and has Mofang where this machine has it. ``domain`` is what a host fails
together with, its rack or switch (at the top: this machine); without it a host is taken to fail alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.errors import SpecError

if TYPE_CHECKING:
    from mofang.backends.local.hosts_file import HostsFile

__all__ = ["HostEntry", "behind", "load_hosts", "own_domain"]

_HINT = "write `hosts:` and below it a list of {name: b, address: 10.0.0.2, prefix: [ssh, b]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A host, the address that other hosts reach it at, what to put before a command so that it runs there.

    ``domain``: its rack or switch; "" where that is unknown.
    """

    name: str
    address: str
    prefix: tuple[str, ...]
    domain: str = ""


def load_hosts(home: Path) -> tuple[HostEntry, ...]:
    """Return the extra hosts; none where there is no ``hosts.yaml``.

    Raises:
        SpecError: the file is not as it should be.
    """
    content, path = _read(home), home / "hosts.yaml"
    entries = tuple(
        HostEntry(name=host.name, address=host.address, prefix=tuple(host.prefix), domain=host.domain)
        for host in (() if content is None else content.hosts)
    )
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"{path}: host {twice!r} is named twice", hint="give every host a name of its own")
    return entries


def own_domain(home: Path) -> str:
    """Return what this machine fails together with, as ``hosts.yaml`` says; "" where it does not.

    Raises:
        SpecError: the file is not as it should be.
    """
    content = _read(home)
    return "" if content is None else content.domain


def _read(home: Path) -> HostsFile | None:
    path = home / "hosts.yaml"
    if not path.exists():
        return None
    from mofang.backends.local.hosts_file import HostsFile  # noqa: PLC0415 - pydantic, only where there is a file
    from mofang.spec.document import parse_document  # noqa: PLC0415 - as above
    from mofang.spec.problems import read_as  # noqa: PLC0415 - as above

    try:
        return read_as(HostsFile, parse_document(path.read_text(), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", hint="write it as UTF-8 text, readable to you") from error
    except SpecError as error:
        raise SpecError(error.message, hint=_HINT, data=error.data) from error


def behind(prefix: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` behind a prefix; ssh gets it quoted, because a shell reads it there."""
    if prefix and Path(prefix[0]).name == "ssh":
        return [*prefix, shlex.join(argv)]
    return [*prefix, *argv]
