"""The replica server of a node: tells what lies here, sends it, and keeps copies for others."""

from __future__ import annotations

import json
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore, Thread
from typing import Any

from mofang.clock import Clock
from mofang.errors import CheckpointError
from mofang.recovery.replica.config import Address, ServerConfig
from mofang.recovery.replica.kept import note_kept
from mofang.recovery.replica.notes import Notes
from mofang.recovery.replica.pace import Pace
from mofang.recovery.replica.partners import Partners
from mofang.recovery.replica.shelf import Busy, Shelf, stamp
from mofang.recovery.replica.transfer import send
from mofang.recovery.replica.watch import Watch
from mofang.recovery.replica.wire import Link, admit, connect
from mofang.recovery.replica.world import World
from mofang.recovery.rundir import replace_file

__all__ = ["Server"]

_CONNECTIONS = 64
_IDLE_S = 60.0
_DEPTH = 2  # nodes that may be gone before an owner's copies are kept by nobody
_RETRY_S = 0.5
_LOOK_AROUND_S = 2.0
_SAY_AGAIN_S = 60.0


class Server:
    """One node's server; its threads live as long as the process.

    Args:
        config: what it was told.
        book: where the other servers listen.
        clock: the time.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, config: ServerConfig, book: Callable[[int], Address | None], clock: Clock) -> None:
        self._config, self._book, self._clock = config, book, clock
        self._folder = Path(config.folder)
        partners = Partners(config.domains)
        self._world = World(
            node=config.node, partners=partners, copies=config.copies, dead_s=config.dead_s, clock=clock
        )
        self._candidates = partners.candidates(config.node, config.copies + _DEPTH)
        self._slots = BoundedSemaphore(_CONNECTIONS)
        self._said: dict[str, float] = {}
        self._listener = socket.create_server((config.address, 0), backlog=_CONNECTIONS)
        self.address: Address = (config.address, int(self._listener.getsockname()[1]))

    def start(self) -> None:
        """Start to serve and to keep copies; say where."""
        if self._config.publish:
            where = {"address": self.address[0], "port": self.address[1]}
            replace_file(Path(self._config.publish), json.dumps(where))
        self._run(self._accept)
        self._run(self._repeat, self._look_around, min(_LOOK_AROUND_S, self._config.dead_s / 4))
        pace, notes = Pace(self._config.rate, self._config.share), Notes(self._config, self._clock)
        for owner, before in self._candidates:
            watch = Watch(
                self._config,
                owner,
                before,
                shelf=self._shelf(),
                world=self._world,
                pace=pace,
                notes=notes,
                book=self._book,
                clock=self._clock,
            )
            self._run(self._repeat, watch.look, self._config.poll_s)

    def _shelf(self) -> Shelf:
        """A shelf is of one thread."""
        return Shelf(self._folder, self._config.prefix)

    def _run(self, what: Callable[..., None], *arguments: Any) -> None:
        Thread(target=what, args=arguments, daemon=True).start()

    def _repeat(self, what: Callable[[], None], period_s: float) -> None:
        while True:
            wait = period_s
            try:
                what()
            except (OSError, CheckpointError, Busy) as error:
                self._say(f"{type(error).__name__}: {error}")
                wait = max(wait, _RETRY_S)
            except Exception:
                self._say(traceback.format_exc())
                wait = max(wait, _RETRY_S)
            self._clock.sleep(wait)

    def _say(self, text: str) -> None:
        """Write to the log, the same thing once a minute."""
        now = self._clock.monotonic()
        if now - self._said.get(text, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said = {old: at for old, at in self._said.items() if now - at < _SAY_AGAIN_S} | {text: now}
            print(f"replica server of node {self._config.node}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - its log

    def _look_around(self) -> None:
        """See who is alive of those that are asked before this node; let go of what nobody needs."""
        for node in sorted({node for _, before in self._candidates for node in before}):
            where = self._book(node)
            if where is not None:
                with suppress(OSError), connect(where, self._config.token, self._config.node, self._clock):
                    self._world.heard(node)
        self._let_go(self._shelf())

    def _let_go(self, shelf: Shelf) -> None:
        holdings = shelf.holdings()
        own = {stamp(item.record) for item in holdings if item.kind == "snapshot"}
        newest: dict[int, tuple[int, int]] = {}
        for item in holdings:
            if item.kind == "replica":
                newest[item.rank] = max(newest.get(item.rank, (0, 0)), stamp(item.record))
        for rank, last in newest.items():
            if not self._world.is_kept(rank) and self._world.has_moved_past(last, own):
                shelf.remove(rank)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # no descriptors left, or it was gone before it was accepted
                self._say(f"{type(error).__name__}: {error}")
                self._clock.sleep(_RETRY_S)
                continue
            if self._slots.acquire(blocking=False):
                self._run(self._serve, connection)
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with admit(connection, self._config.token, self._clock) as link:
                shelf = self._shelf()
                while True:
                    self._answer(link, shelf, link.receive(_IDLE_S))
        except OSError:
            pass  # it ended, or it was nobody's business
        except Exception:
            self._say(traceback.format_exc())
        finally:
            connection.close()
            self._slots.release()

    def _answer(self, link: Link, shelf: Shelf, asked: dict[str, Any]) -> None:
        if asked.get("op") == "list":
            link.send({"holdings": [item.to_wire() for item in shelf.holdings()]})
            return
        try:
            rank, fence, step = (int(asked[name]) for name in ("rank", "fence", "step"))
        except (KeyError, ValueError, TypeError) as error:
            raise ConnectionError("the peer asks for nothing that there is") from error
        if asked.get("op") == "get":
            send(link, shelf, rank, fence, step)
        elif asked.get("op") == "kept":
            keeper = asked.get("node")
            known = isinstance(keeper, int) and 0 <= keeper < len(self._config.domains)
            if known and any(item.rank == rank for item in shelf.holdings()):
                note_kept(self._folder, self._config.prefix, rank, int(str(keeper)), (fence, step))
            link.send({"noted": known})
        else:
            raise ConnectionError("the peer asks for something unknown")
