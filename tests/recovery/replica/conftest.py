"""Nodes as folders with a real server each, over loopback."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from mofang.clock import SystemClock
from mofang.recovery.replica.client import Replicas
from mofang.recovery.replica.config import ServerConfig
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.replica.start import StartedServer, start_server
from mofang.recovery.snapshot.arena import Arena, Record

PREFIX = "mofang.job.1."
TOKEN = "the attempt's token"
LIMIT_S = 20.0


class Node:
    """One node: its memory, its server, and the ranks that snapshot there."""

    def __init__(self, cluster: Cluster, index: int, folder: Path, **options: Any) -> None:
        self.cluster, self.index, self.folder = cluster, index, folder
        self.options = {"poll_s": 0.02, "dead_s": 0.5, **options}
        self.server: StartedServer | None = None
        self.address = None
        folder.mkdir()

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.folder, PREFIX)

    def start(self) -> Node:
        config = ServerConfig(
            node=self.index,
            domains=self.cluster.domains,
            prefix=PREFIX,
            token=TOKEN,
            folder=str(self.folder),
            **self.options,
        )
        self.server = start_server(config)
        self.address = self.server.address()
        self.cluster.introduce()
        return self

    def kill(self) -> None:
        self.server.stop()
        self.server = None

    def lose(self) -> None:
        """The machine is gone: so are its memory and its server."""
        self.kill()
        self.address = None
        for path in self.folder.iterdir():
            path.unlink()

    def commit(self, rank: int, step: int, data: bytes, fence: int = 1) -> Record:
        """What a rank does: into its older slot, record last."""
        path = self.folder / f"{PREFIX}snapshot.r{rank:04d}"
        arena = Arena.open(path) or Arena.create(path, len(data))
        index = ([slot for slot in (0, 1) if arena.record(slot) is None] + list(reversed(arena.records())))[0]
        arena.invalidate(index)
        arena.slot(index)[: len(data)] = data
        record = Record(step=step, fence=fence, length=len(data), sum=xxhash.xxh3_64_intdigest(data))
        arena.commit(index, record)
        return record

    def client(self, **options: Any) -> Replicas:
        addresses = {node.index: node.address for node in self.cluster.nodes if node.address is not None}
        return Replicas(self.shelf, addresses, token=TOKEN, node=self.index, clock=SystemClock(), **options)

    def steps(self, rank: int, kind: str = "replica") -> list[int]:
        """The steps of a rank that are here."""
        held = [item for item in self.shelf.holdings() if (item.kind, item.rank) == (kind, rank)]
        return sorted(item.record.step for item in held)

    def data(self, rank: int, step: int, fence: int = 1) -> bytes:
        """The bytes of a snapshot, verified."""
        arena, index, record = self.shelf.find(rank, (fence, step))
        assert arena.verify(index) == record
        return bytes(arena.slot(index)[: record.length])


class Cluster:
    """Several nodes that know each other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.domains = folder, ()
        self.nodes: list[Node] = []

    def make(self, domains: tuple[str, ...], **options: Any) -> list[Node]:
        self.domains = domains
        self.nodes = [Node(self, index, self.folder / f"n{index}", **options) for index in range(len(domains))]
        for node in self.nodes:
            node.start()
        return self.nodes

    def introduce(self) -> None:
        for node in self.nodes:
            if node.server is not None:
                node.server.tell([other.address for other in self.nodes])

    def close(self) -> None:
        for node in self.nodes:
            if node.server is not None:
                node.kill()


@pytest.fixture
def cluster() -> Iterator[Callable[..., list[Node]]]:
    """Make nodes; none of their processes is left after the test."""
    with tempfile.TemporaryDirectory(prefix="mofang-test-", dir="/dev/shm") as folder:
        made = Cluster(Path(folder))
        yield made.make
        made.close()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """Return the function that waits for something to become true."""

    def wait(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if value := what():
                return value
            time.sleep(0.005)
        raise AssertionError(f"not within {limit_s} s")

    return wait


@pytest.fixture
def noise() -> Callable[[int, int], bytes]:
    """Return what makes so many bytes that tell a seed."""
    return lambda seed, length: np.random.default_rng(seed).bytes(length)
