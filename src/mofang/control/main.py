"""The controller process: ``python -m mofang.control --home DIR``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import get_ident

from mofang.clock import SystemClock
from mofang.control.address import log_path, socket_path
from mofang.control.driver import Driver
from mofang.control.fleet import FleetWatch
from mofang.control.journal import open_journal
from mofang.control.loop import Loop
from mofang.control.places import NAMES, make_backends
from mofang.control.process import is_alive, this_process
from mofang.control.queue import Queue, launch_from
from mofang.control.rpc import RpcServer, listen, methods_of
from mofang.control.service import Service
from mofang.control.submission import Submissions
from mofang.errors import ConflictError, MofangError, NotLeaderError
from mofang.store import leadership, measurements
from mofang.store.store import Store

__all__ = ["main"]

_log = logging.getLogger(__name__)

_LEASE_S = 15.0
_RENEW_S = 3.0
_IDLE_LOOK_S = 0.5
_CALLS = 8  # calls to backends at the same time
_SWITCH_S = 0.0005  # the event loop must not wait long for a thread that computes


def main(argv: Sequence[str] | None = None) -> int:
    """Lead until told to leave, or until nobody needs this controller any more; return the exit code."""
    args = _parse(argv)
    home = args.home.expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chdir(home)
        open_journal(log_path(home))
        return _lead(home, args)
    except MofangError as error:
        _log.error("%s", error.message, extra={"error": error.to_wire()})
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: cannot use {home}: {error.strerror}\n")
        return 4


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mofang.control", description="Mofang's controller")
    parser.add_argument("--home", type=Path, required=True, help="Mofang's folder")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without job and client before it leaves")
    parser.add_argument("--backend", action="append", choices=NAMES, help="where jobs run (default: local)")
    return parser.parse_args(argv)


def _lead(home: Path, args: argparse.Namespace) -> int:
    clock, holder = SystemClock(), this_process()
    with closing(Store(home / "mofang.db")) as store:
        try:
            fence = store.lead(holder, clock.now(), _LEASE_S, is_alive)
        except ConflictError as error:
            _log.info("%s", error.message)
            sys.stderr.write(f"{error.message}\n")
            return 0
        _log.info("leads", extra={"pid": holder.pid, "fence": fence})
        sys.setswitchinterval(_SWITCH_S)
        asyncio.run(_Controller(home, store, clock, args).run())
        with suppress(NotLeaderError):
            store.write(leadership.release, clock.now())
        _log.info("left", extra={"pid": holder.pid})
    return 0


class _Controller:
    """The parts of one leadership, and their life together."""

    def __init__(self, home: Path, store: Store, clock: SystemClock, args: argparse.Namespace) -> None:
        self._home, self._store, self._clock, self._idle_s = home, store, clock, args.idle
        self._workers = ThreadPoolExecutor(_CALLS, thread_name_prefix="backend")
        self._loop = Loop(
            store=store,
            home=home,
            clock=clock,
            fleet=FleetWatch(
                make_backends(args.backend or ["local"], home, clock),
                self._workers,
                store.read(measurements.all_rates),
            ),
            queue=Queue(store=store, home=home, build=launch_from),
            workers=self._workers,
        )
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Serve until it is time to leave."""
        events = asyncio.get_running_loop()
        self._attach(events)
        for number in (signal.SIGTERM, signal.SIGINT):
            events.add_signal_handler(number, self._leaving.set)
        driver = Driver(self._loop, partial(events.call_soon_threadsafe, self._lost))
        service = Service(
            store=self._store,
            loop=self._loop,
            home=self._home,
            clock=self._clock,
            leave=self._leaving.set,
        )
        self._loop.changed = lambda job_id: events.call_soon_threadsafe(service.pulse, job_id)
        self._loop.wake = driver.wake
        submissions = Submissions(
            store=self._store,
            home=self._home,
            clock=self._clock,
            workers=self._workers,
            accepted=self._loop.add,
        )
        rpc = RpcServer(methods_of(service), {"submit": submissions.submit})
        path = socket_path(self._home)
        listener = listen(path)
        mine = path.stat().st_ino
        server = await events.create_unix_server(rpc.connection, sock=listener)
        driver.start()
        chores = [asyncio.create_task(self._renew()), asyncio.create_task(self._watch_idle(rpc))]
        await self._leaving.wait()
        server.close()
        for task in (*chores, *rpc.tasks):
            task.cancel()
        for transport in list(rpc.connections):
            transport.close()
        await asyncio.to_thread(driver.stop)
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._store.detach()
        with suppress(FileNotFoundError):
            if path.stat().st_ino == mine:  # a controller that took over has put its own there
                path.unlink()

    def _attach(self, events: asyncio.AbstractEventLoop) -> None:
        """Let submissions be committed on the event loop, all that one turn of it has read together.

        The commit keeps the loop waiting for as long as the disk takes; whoever submits waits for it anyway, and a
        thread for it, with its hand-overs, costs more than it gives.
        """
        here = get_ident()

        def schedule(flush: Callable[[], None]) -> None:
            if get_ident() == here:
                events.call_soon(flush)
            else:
                events.call_soon_threadsafe(flush)

        def deliver(answer: Callable[[], None]) -> None:
            if get_ident() == here:
                answer()
            else:
                events.call_soon_threadsafe(answer)

        self._store.attach(schedule, deliver)

    def _lost(self) -> None:
        _log.info("another controller leads; this one leaves", extra={"pid": os.getpid()})
        self._leaving.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            try:
                await asyncio.to_thread(self._store.write, leadership.renew, self._clock.now() + _LEASE_S)
            except NotLeaderError:
                self._lost()
                return
            except MofangError as error:
                _log.warning("the lease could not be renewed: %s", error.message)

    async def _watch_idle(self, rpc: RpcServer) -> None:
        idle_since = self._clock.monotonic()
        while self._clock.monotonic() - idle_since < self._idle_s:
            await asyncio.sleep(min(_IDLE_LOOK_S, self._idle_s / 4 or _IDLE_LOOK_S))
            if self._loop.num_live or rpc.connections:
                idle_since = self._clock.monotonic()
        _log.info("nothing to do")
        self._leaving.set()
