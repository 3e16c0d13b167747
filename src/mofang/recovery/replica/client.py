"""Bringing snapshots from other nodes to this one: what a newcomer does before it restores. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.replica.config import Address, read_address
from mofang.recovery.replica.shelf import Busy, Holding, Shelf, stamp
from mofang.recovery.replica.transfer import Overtaken, ask_for, receive
from mofang.recovery.replica.watch import ask_list
from mofang.recovery.replica.wire import connect
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.snapshot.offers import Offer

__all__ = ["Progress", "Replicas", "replicas_of_attempt"]

_SHM = "/dev/shm"  # noqa: S108 - the place where POSIX shared memory lives
_THREADS = 16
_CONNECT_S = 2.0
_PERIOD_S = 0.02

Progress = Callable[[Offer, int, int], None]  # told which part, the bytes that are there, and those of the whole part


class Replicas:
    """What the other nodes hold, and bringing it here; a ``Fetch`` for the restore.

    Args:
        shelf: where this node's arenas lie.
        addresses: where the servers of the other nodes listen, by node.
        token: what they know each other by.
        node: the index of this node.
        clock: the time.
        limit_s: after which no further source is tried for a part, in seconds. A source that stalls is left after ten.
        progress: called from whichever thread brings a part.
    """

    def __init__(
        self,
        shelf: Shelf,
        addresses: Mapping[int, Address],
        *,
        token: str,
        node: int,
        clock: Clock,
        limit_s: float = 600.0,
        progress: Progress = lambda _offer, _done, _total: None,
    ) -> None:
        self._folder, self._prefix = shelf.folder, shelf.prefix
        self._addresses = {index: where for index, where in addresses.items() if index != node}
        self._token, self._node, self._clock = token, node, clock
        self._limit_s, self._progress = limit_s, progress
        self._held: dict[int, list[Holding]] = {}

    def holdings(self) -> Mapping[int, Sequence[Holding]]:
        """Ask all other nodes at once what they hold; return it by node. Those that do not answer have nothing."""
        nodes = list(self._addresses)
        with ThreadPoolExecutor(max(1, min(_THREADS, len(nodes)))) as threads:
            self._held = dict(zip(nodes, threads.map(self._ask, nodes), strict=True))
        return self._held

    def offers(self) -> Iterable[Offer]:
        """Return every part that another node holds, each once."""
        found = {(item.rank, *stamp(item.record)) for held in self.holdings().values() for item in held}
        return [Offer(rank=rank, fence=fence, step=step) for rank, fence, step in sorted(found)]

    def bring(self, offer: Offer) -> bool:
        """Bring one part into ``replica.rNNNN`` of this node; return whether it is there, its sum verified.

        One process of the node brings it; others that ask for the same one wait for it. Sources are tried in turn.
        """
        end = self._clock.monotonic() + self._limit_s
        shelf, sources = Shelf(self._folder, self._prefix), self._sources(offer)
        while sources and self._clock.monotonic() < end:
            node, item = sources[0]
            if shelf.find(offer.rank, stamp(item.record), item.record.sum) is not None:
                return True
            try:
                self._pull(shelf, node, item, offer)
            except Busy:
                self._clock.sleep(_PERIOD_S)  # another rank brings it, or the server writes a copy
            except (OSError, Overtaken, CheckpointError):
                sources.pop(0)
            else:
                return True
        return False

    def bring_all(self, offers: Iterable[Offer]) -> bool:
        """Bring several parts at once; return whether all are there."""
        wanted = list(offers)
        with ThreadPoolExecutor(max(1, min(_THREADS, len(wanted)))) as threads:
            return all(list(threads.map(self.bring, wanted)))

    def _ask(self, node: int) -> list[Holding]:
        try:
            with connect(self._addresses[node], self._token, self._node, self._clock, _CONNECT_S) as link:
                return ask_list(link)
        except OSError:
            return []

    def _sources(self, offer: Offer) -> list[tuple[int, Holding]]:
        """Return who has a part; the ranks begin at different nodes, so that all of these send."""
        if not self._held:
            self.holdings()
        wanted = (offer.rank, offer.fence, offer.step)
        found = [
            (node, item)
            for node, held in sorted(self._held.items())
            for item in held
            if (item.rank, *stamp(item.record)) == wanted
        ]
        turn = offer.rank % len(found) if found else 0
        return found[turn:] + found[:turn]

    def _pull(self, shelf: Shelf, node: int, item: Holding, offer: Offer) -> None:
        with shelf.draft(item.rank, item.record.length, item.slot_bytes) as draft:
            total = item.record.length
            with connect(self._addresses[node], self._token, self._node, self._clock, _CONNECT_S) as link:
                ask_for(link, item)
                receive(link, draft, item, self._clock, progress=lambda done: self._progress(offer, done, total))


def replicas_of_attempt(environ: Mapping[str, str], clock: Clock) -> Replicas | None:
    """Return what the other nodes of a worker's attempt hold; None outside Mofang, or where no other node serves.

    Args:
        environ: of the worker: ``MOFANG_ATTEMPT_DIR``, ``MOFANG_SHM_PREFIX`` and ``MOFANG_NODE``.
        clock: the time.
    """
    try:
        directory, prefix = AttemptDir(Path(environ["MOFANG_ATTEMPT_DIR"])), environ["MOFANG_SHM_PREFIX"]
        node = int(environ["MOFANG_NODE"])
        token = directory.token.read_text()
    except (KeyError, ValueError, OSError):
        return None
    addresses = {}
    for path in directory.path.glob("replica-*.json"):
        index, where = path.stem.removeprefix("replica-"), read_address(path)
        if index.isdigit() and int(index) != node and where is not None:
            addresses[int(index)] = where
    if not addresses:
        return None
    return Replicas(Shelf(Path(_SHM), prefix), addresses, token=token, node=node, clock=clock)
