"""Run the replica server of a node: ``python -P -m mofang.recovery.replica``, started by the node's agent or worker.

The first line on standard input is the configuration, each later one ``{"peers": [[address, port], ...]}``: where the
servers of all nodes listen, for programs without a run directory. One line on standard output answers with the own
address. The server ends when its standard input does: it never outlives who started it.
"""

from __future__ import annotations

import json
import os
import sys

from mofang.clock import SystemClock
from mofang.recovery.replica.config import Address, ServerConfig, book_of
from mofang.recovery.replica.server import Server

_NICE = 10  # the training comes first
_FAILED = 4


def main() -> int:
    """Serve until the standard input ends."""
    line = sys.stdin.readline()
    if not line:
        return 0
    peers: list[Address | None] = []

    def look(node: int) -> Address | None:
        return peers[node] if node < len(peers) else None

    try:
        config = ServerConfig.from_json(line)
        server = Server(config, book_of(config.books) if config.books else look, SystemClock())
        server.start()
    except (ValueError, OSError) as error:
        print(f"the replica server cannot be started: {error}", file=sys.stderr)  # noqa: T201 - its log
        return _FAILED
    os.nice(_NICE)
    address, port = server.address
    print(json.dumps({"address": address, "port": port}), flush=True)  # noqa: T201 - read by who started it
    for text in sys.stdin:
        peers[:] = [(str(peer[0]), int(peer[1])) if peer else None for peer in json.loads(text)["peers"]]
    os._exit(0)  # without waiting for the threads


if __name__ == "__main__":
    raise SystemExit(main())
