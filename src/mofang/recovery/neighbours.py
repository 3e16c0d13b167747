"""What other nodes keep of this one's snapshots: by the agents' servers or, in a program without agents, by its own.

Without agents the first rank of each node starts a server. It ends with that process, and the next start of the program
makes new ones, which find what lies in the memory of their nodes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from mofang.clock import Clock, new_token
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.replica.client import Replicas, replicas_of_attempt
from mofang.recovery.replica.config import Address, ServerConfig
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.replica.start import StartedServer, start_server
from mofang.recovery.snapshot.offers import Fetch
from mofang.recovery.snapshot.place import Place

__all__ = ["Neighbours", "copies_of_attempt"]


def copies_of_attempt(environ: Mapping[str, str]) -> int:
    """Return on how many other nodes the agents keep each snapshot of a job of Mofang."""
    return int(environ.get("MOFANG_REPLICAS", "1"))


class Neighbours:
    """The other nodes, as one rank sees them.

    Args:
        place: where this rank's snapshots lie.
        clock: the time.
        server: what this process started, if it did.
        fetch: brings what they hold; None: the agents' servers do, wherever they are when it is asked.
    """

    def __init__(
        self, place: Place, clock: Clock, *, server: StartedServer | None = None, fetch: Fetch | None = None
    ) -> None:
        self._place, self._clock, self._server, self._fetch = place, clock, server, fetch

    @classmethod
    def start(cls, place: Place, peers: Peers, clock: Clock, *, node: int, nodes: int, copies: int) -> Neighbours:
        """Start the servers of a program without agents, and tell them of each other; collective.

        Where one of them cannot be started its node keeps no copies, and nobody has any of it.
        """
        token = next(text for text in peers.gather_text(new_token() if peers.rank == 0 else "") if text)
        first = place.local_rank == 0
        server, where = _serve(place, token, node, nodes, copies) if first else (None, None)
        told = peers.gather_text(json.dumps([node, *where]) if where is not None else "")
        known = {entry[0]: (str(entry[1]), int(entry[2])) for entry in map(json.loads, filter(None, told))}
        if server is not None:
            with suppress(OSError):  # it has ended already
                server.tell([known.get(index) for index in range(nodes)])
        fetch = Replicas(Shelf(place.folder, place.prefix), known, token=token, node=node, clock=clock)
        return cls(place, clock, server=server, fetch=fetch)

    @property
    def fetch(self) -> Fetch | None:
        """What brings snapshots from other nodes, if anything does."""
        return self._fetch or replicas_of_attempt(os.environ, self._clock)

    def close(self, *, remove: bool) -> None:
        """End the server; ``remove``: also the copies that it keeps, which nobody needs any more."""
        if self._server is None:
            return
        self._server.stop()
        if remove:
            for path in self._place.folder.glob(f"{self._place.prefix}replica.*"):
                path.unlink(missing_ok=True)


def _serve(place: Place, token: str, node: int, nodes: int, copies: int) -> tuple[StartedServer | None, Address | None]:
    try:
        server = start_server(
            ServerConfig(
                node=node,
                domains=("",) * nodes,
                prefix=place.prefix,
                token=token,
                address=_own_address(os.environ),
                folder=str(place.folder),
                copies=copies,
            )
        )
        return server, server.address()
    except (OSError, CheckpointError):
        return None, None


def _own_address(environ: Mapping[str, str]) -> str:
    """Return the address of this node in the network that the ranks meet in; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((environ.get("MASTER_ADDR", "127.0.0.1"), int(environ.get("MASTER_PORT", "1"))))
        return str(probe.getsockname()[0])
