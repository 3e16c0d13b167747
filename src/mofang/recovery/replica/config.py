"""What a replica server is told when it is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Address", "ServerConfig", "book_of", "read_address"]

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One node's part in keeping copies.

    Attributes:
        node: the index of this node.
        domains: the failure domain of every node; "" where it is unknown.
        prefix: what the names of this node's arenas start with.
        token: what the servers of an attempt know each other by.
        address: where to listen.
        folder: where the arenas lie.
        copies: on how many other nodes each snapshot is to be.
        rate: bytes/s at which copies are made; None: ``share`` of what the link is measured to give.
        share: see there.
        poll_s: seconds between looks at what a partner has.
        dead_s: seconds of silence after which another node keeps copies in a node's place.
        publish: the file to write the own address to; "": none, it is said on standard output only.
        books: the files with the addresses of all nodes; none where they are told on standard input.
        spool: where events go, "" for nowhere; with ``job_id``, ``attempt`` and the file of the generation's number.
        marker: of the attempt, "" outside: what its processes are known by.
    """

    node: int
    domains: tuple[str, ...]
    prefix: str
    token: str = field(repr=False)
    address: str = "127.0.0.1"
    folder: str = "/dev/shm"  # noqa: S108 - the place where POSIX shared memory lives
    copies: int = 1
    rate: float | None = None
    share: float = 0.25
    poll_s: float = 0.25
    dead_s: float = 10.0
    publish: str = ""
    books: tuple[str, ...] = ()
    spool: str = ""
    job_id: str = ""
    attempt: int = 0
    generation: str = ""
    marker: str = ""

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerConfig:
        """Return what ``to_json`` wrote.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            fields = json.loads(text)
            lists = {name: tuple(fields[name]) for name in ("domains", "books")}
            return cls(**{**fields, **lists})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a configuration: {error}") from error


def read_address(path: Path) -> Address | None:
    """Return where a node's server listens, or None where it has not said so."""
    try:
        return _address(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _address(record: Mapping[str, Any]) -> Address:
    return (str(record["address"]), int(record["port"]))


def book_of(paths: tuple[str, ...]) -> Callable[[int], Address | None]:
    """Return what looks up addresses in files, one a node, whenever it is asked: a server that came back has moved."""

    def look(node: int) -> Address | None:
        return read_address(Path(paths[node])) if 0 <= node < len(paths) else None

    return look
