"""Who this process is among the ranks of a program, and where its snapshots lie; with or without Mofang's agents."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

from mofang.clock import Clock
from mofang.errors import ConflictError
from mofang.recovery.agreement import Agreement
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.claim import Claim, collect_dead, run_name
from mofang.recovery.neighbours import Neighbours, copies_of_attempt
from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.memory import generation_fence
from mofang.recovery.snapshot.place import Place
from mofang.recovery.worker import Worker

__all__ = ["Session", "open_session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One rank's part of a running program.

    Attributes:
        peers: all ranks, on a process group of their own.
        agreement: how they agree between steps, on another one.
        worker: how it reports to Mofang, if at all.
        clock: the time.
        place: where this rank's snapshots lie, None without a memory tier.
        claim: its right to them, None where an agent takes care of that.
        fence: of its snapshots.
        node: the index of its node.
        nodes: their number.
        replicas: on how many other nodes each snapshot is kept too.
        neighbours: what keeps them, None without any.
    """

    peers: Peers
    agreement: Agreement
    worker: Worker
    clock: Clock
    place: Place | None
    claim: Claim | None
    fence: int
    node: int
    nodes: int
    replicas: int = 0
    neighbours: Neighbours | None = None

    def share(self) -> Share:
        """Return what this rank writes of the replicated tensors that its node holds; collective."""
        ranks = self.place.ranks_of_node if self.place is not None else (self.peers.rank,)
        return Share.agree(self.peers, self.node, self.nodes, len(ranks))

    def close(self, *, clean: bool) -> None:
        """Give up what this process holds; ``clean``: nobody will go on from what is in memory."""
        if self.neighbours is not None:
            self.neighbours.close(remove=clean)
        if self.claim is not None:
            self.claim.release(remove=clean)


def open_session(name: str | None, clock: Clock, replicas: int = 0) -> Session:
    """Join the other ranks; collective.

    Args:
        name: of the run, "" for the one that torchrun or the program gives; None: no memory tier.
        clock: the time.
        replicas: on how many other nodes each snapshot is to be; agents have their own number.

    Raises:
        ConflictError: another program has the snapshots of that name in use, on any rank.
    """
    environ = os.environ
    worker = Worker.from_environment(clock=clock)
    peers, agreement = _groups()
    ranks = _numbers(environ, peers)
    place = claim = None
    if name is not None:
        place, claim = _place(name, environ | ranks, peers, clock)
    size = int(ranks["LOCAL_WORLD_SIZE"])
    node, nodes = peers.rank // size, -(-peers.world_size // size)
    copies = min(copies_of_attempt(environ) if claim is None else replicas, nodes - 1) if place is not None else 0
    neighbours = None
    if place is not None and copies > 0:
        agents = claim is None
        neighbours = (
            Neighbours(place, clock)
            if agents
            else Neighbours.start(place, peers, clock, node=node, nodes=nodes, copies=copies)
        )
    return Session(
        peers=peers,
        agreement=agreement,
        worker=worker,
        clock=clock,
        place=place,
        claim=claim,
        fence=_fence(worker, place, peers, clock),
        node=node,
        nodes=nodes,
        replicas=copies,
        neighbours=neighbours,
    )


def _groups() -> tuple[Peers, Agreement]:
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return Peers(), Agreement(None)
    return Peers(distributed.new_group(backend="gloo")), Agreement(distributed.new_group(backend="gloo"))


def _numbers(environ: Mapping[str, str], peers: Peers) -> dict[str, str]:
    """Return torchrun's numbers; where nobody gave them, all ranks are on this node."""
    known = environ.get("WORLD_SIZE") == str(peers.world_size) and "LOCAL_WORLD_SIZE" in environ
    size = environ["LOCAL_WORLD_SIZE"] if known else str(peers.world_size)
    local = environ.get("LOCAL_RANK", str(peers.rank)) if known else str(peers.rank)
    return {
        "RANK": str(peers.rank),
        "WORLD_SIZE": str(peers.world_size),
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": size,
    }


def _place(name: str, environ: Mapping[str, str], peers: Peers, clock: Clock) -> tuple[Place | None, Claim | None]:
    given = Place.from_environment(environ)
    if given is not None:
        return given, None
    claim, problem = None, None
    try:
        claim = Claim(run_name(name, environ) + _node_name(environ, peers), peers.rank, clock)
    except ConflictError as error:
        problem = error
    if not peers.all_ok(claim is not None) or claim is None:
        raise problem or ConflictError("another program has the snapshots of another rank in use")
    place = Place.from_environment({**environ, "MOFANG_SHM_PREFIX": claim.prefix})
    if place is not None and place.local_rank == 0:
        collect_dead(clock, but=claim.prefix)
    return place, claim


def _node_name(environ: Mapping[str, str], peers: Peers) -> str:
    """Return what tells nodes apart that share a machine's memory, such as containers; "" where none do; collective."""
    node = peers.rank // int(environ["LOCAL_WORLD_SIZE"])
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    rows = [text.split() for text in peers.gather_text(f"{node} {machine}")]
    return f"-n{node:02d}" if len({row[0] for row in rows}) > len({row[1] for row in rows}) else ""


def _fence(worker: Worker, place: Place | None, peers: Peers, clock: Clock) -> int:
    """Return a number above that of every snapshot there is, alike on all ranks."""
    if worker.attempt:
        return generation_fence(worker.attempt, worker.generation)
    arenas = [Arena.open(path) for path in place.arenas()] if place is not None else []
    held = [record.fence for arena in arenas if arena is not None for record in arena.records().values()]
    rows = peers.gather([max([int(clock.now() * 1000), *(fence + 1 for fence in held)])])
    return max(row[0] for row in rows)
