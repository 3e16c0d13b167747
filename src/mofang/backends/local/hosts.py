"""Extra hosts, each behind a prefix: ``$MOFANG_HOME/hosts.yaml``.

.. code-block:: yaml

    hosts:
      - name: node-b
        address: 10.0.0.2
        prefix: [ssh, node-b]

A host sees the same files at the same paths, and has Mofang where this machine has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.errors import SpecError

__all__ = ["HostEntry", "behind", "load_hosts"]

_HINT = "write `hosts:` and below it a list of {name: b, address: 10.0.0.2, prefix: [ssh, b]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry:
    """A host, the address that other hosts reach it at, and what to put before a command so that it runs there."""

    name: str
    address: str
    prefix: tuple[str, ...]


def load_hosts(home: Path) -> tuple[HostEntry, ...]:
    """Return the extra hosts; none where there is no ``hosts.yaml``.

    Raises:
        SpecError: the file is not as it should be.
    """
    path = home / "hosts.yaml"
    if not path.exists():
        return ()
    from mofang.backends.local.hosts_file import HostsFile  # noqa: PLC0415 - pydantic, only where there is a file
    from mofang.spec.document import parse_document  # noqa: PLC0415 - as above
    from mofang.spec.problems import read_as  # noqa: PLC0415 - as above

    try:
        content = read_as(HostsFile, parse_document(path.read_text(), str(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", hint="write it as UTF-8 text, readable to you") from error
    except SpecError as error:
        raise SpecError(error.message, hint=_HINT, data=error.data) from error
    entries = tuple(
        HostEntry(name=host.name, address=host.address, prefix=tuple(host.prefix)) for host in content.hosts
    )
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"{path}: host {twice!r} is named twice", hint="give every host a name of its own")
    return entries


def behind(prefix: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` behind a prefix; ssh gets it quoted, because a shell reads it there."""
    if prefix and Path(prefix[0]).name == "ssh":
        return [*prefix, shlex.join(argv)]
    return [*prefix, *argv]
