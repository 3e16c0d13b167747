"""The methods of the controller, as ARCHITECTURE.md lists them; each takes and returns what JSON can hold."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mofang import __version__
from mofang.clock import Clock
from mofang.control.experience import OwnMeasurements
from mofang.control.explain import explain
from mofang.control.loop import Loop
from mofang.control.output import read_output
from mofang.control.planning import make_plans, render_plan
from mofang.domain.codec import from_data, to_data
from mofang.domain.hardware import Pool
from mofang.domain.job import Job, JobState
from mofang.domain.plan import Plan
from mofang.domain.rates import HostRates
from mofang.domain.scenario import Scenario
from mofang.errors import StoreError, UsageError
from mofang.store import events, jobs, measurements
from mofang.store.store import Store
from mofang.units import parse_request

__all__ = ["Service"]

T = TypeVar("T")

_LONGEST_WAIT_S = 60.0


class Service:
    """Answers requests on the event loop; whatever may take long runs on threads.

    Args:
        store: led by this process.
        loop: what happens to jobs.
        home: Mofang's folder.
        clock: the time.
        leave: makes the controller leave.
    """

    def __init__(self, *, store: Store, loop: Loop, home: Path, clock: Clock, leave: Callable[[], None]) -> None:
        self._store = store
        self._loop = loop
        self._home = home
        self._clock = clock
        self._leave = leave
        self._own = OwnMeasurements(store, home)
        self._pulses: dict[str, asyncio.Future[None]] = {}

    def pulse(self, job_id: str) -> None:
        """Wake whoever waits for events of this job."""
        waiter = self._pulses.pop(job_id, None)
        if waiter is not None:
            waiter.set_result(None)

    async def hello(self) -> dict[str, Any]:
        """Say who answers."""
        return {"version": __version__, "pid": os.getpid(), "fence": self._store.fence}

    async def shutdown(self) -> None:
        """Leave; jobs go on."""
        self._leave()

    async def fleet(self) -> Any:
        """Return every cluster."""
        await self._fleet_known()
        return to_data(self._loop.fleet.fleet())

    async def record_rates(self, rates: dict[str, Any]) -> None:
        """Keep what probing a host measured."""
        found = _parsed(HostRates, rates, "rates")
        await asyncio.to_thread(self._store.write, measurements.record_rates, found)
        self._loop.fleet.learn(found)

    async def measurements(self) -> list[dict[str, Any]]:
        """Return what finished jobs measured, oldest first."""
        return await self._read(measurements.rows)

    async def plan(
        self,
        scenario: dict[str, Any],
        hardware: list[str] | None = None,
        num_plans: int = 8,
        pools: list[dict[str, Any]] | None = None,
        explain: bool = False,
    ) -> Any:
        """Rank plans, and say what would change the best one where that is asked for."""
        wanted = _parsed(Scenario, scenario, "scenario")
        requests = None if hardware is None else [parse_request(text) for text in hardware]
        given = None if pools is None else [_parsed(Pool, pool, "pools") for pool in pools]
        if requests is None and given is None:
            await self._fleet_known()
        result = await asyncio.to_thread(
            make_plans,
            wanted,
            requests,
            max(1, num_plans),
            self._loop.fleet,
            self._home,
            own=self._own,
            pools=given,
            explain=explain,
        )
        return to_data(result)

    async def jobs(self, states: list[JobState] | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """List jobs, newest first."""
        names = None if states is None else [state.value for state in states]
        return await self._read(jobs.rows, names, limit)

    async def job(self, ref: str) -> Any:
        """Return a job."""
        return to_data(await self._job(ref))

    async def events(
        self, ref: str, after: int = 0, limit: int = 1000, wait_s: float = 0.0, kinds: list[str] | None = None
    ) -> dict[str, Any]:
        """Return events behind a cursor, waiting for one where there is none."""
        job_id = await self._read(jobs.find, ref)
        clock = asyncio.get_running_loop()
        give_up = clock.time() + min(wait_s, _LONGEST_WAIT_S)
        while True:
            waiter = self._pulses.get(job_id) or self._pulses.setdefault(job_id, clock.create_future())
            found, final = await self._read(_events_and_end, job_id, after, limit, kinds)
            left = give_up - clock.time()
            if found or final or left <= 0:
                break
            await asyncio.wait({waiter}, timeout=left)
        if final:  # nobody will be woken for this job any more
            self._pulses.pop(job_id, None)
        rows = [row | {"data": json.loads(row["data"])} for row in found]
        return {"events": rows, "cursor": rows[-1]["cursor"] if rows else after}

    async def logs(
        self,
        ref: str,
        *,
        rank: int = 0,
        attempt: int | None = None,
        generation: int | None = None,
        offset: int = 0,
        limit: int = 65536,
    ) -> dict[str, Any]:
        """Return what a worker printed."""
        job = await self._job(ref)
        run_dir = self._home / "runs" / job.id
        found = await asyncio.to_thread(
            read_output,
            run_dir,
            job,
            rank=rank,
            attempt=attempt,
            generation=generation,
            offset=offset,
            limit=limit,
        )
        return asdict(found)

    async def stop(self, ref: str) -> dict[str, str]:
        """Ask a job to end."""
        job_id = await self._read(jobs.find, ref)
        item = jobs.Stopping(job_id=job_id, by="user", time=self._clock.now())
        state = await asyncio.to_thread(self._store.write, jobs.request_stop, item)
        self._loop.stopped(job_id, state)
        self.pulse(job_id)
        return {"state": state.value}

    async def explain(self, ref: str) -> dict[str, Any]:
        """Say why a job waits, or what happened to it."""
        job = await self._job(ref)
        wait = self._loop.queue.waits.get(job.id) if job.state is JobState.WAITING else None
        return await self._read(explain, job, wait)

    async def render(self, scenario: dict[str, Any], plan: dict[str, Any]) -> Any:
        """Return what starting a plan would write and execute."""
        await self._fleet_known()
        artefacts = await asyncio.to_thread(
            render_plan,
            _parsed(Scenario, scenario, "scenario"),
            _parsed(Plan, plan, "plan"),
            self._loop.fleet,
            self._home,
            self._loop.queue.build,
        )
        return [asdict(artefact) for artefact in artefacts]

    async def _job(self, ref: str) -> Job:
        return await self._read(_find_and_load, ref)

    async def _read(self, query: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(self._store.read, query, *args)

    async def _fleet_known(self) -> None:
        while not self._loop.fleet.is_known:
            await asyncio.sleep(0.02)


def _find_and_load(connection: Any, ref: str) -> Job:
    return jobs.load(connection, jobs.find(connection, ref)).job


def _events_and_end(
    connection: Any, job_id: str, after: int, limit: int, kinds: list[str] | None
) -> tuple[list[dict[str, Any]], bool]:
    final = jobs.state_of(connection, job_id).is_final
    return events.after(connection, job_id, after, limit, kinds), final


def _parsed(kind: type[T], data: Any, what: str) -> T:
    try:
        return from_data(kind, data)
    except StoreError as error:
        raise UsageError(
            f"the {what} cannot be understood: {error.message}", hint="is the client of this version?"
        ) from (error)
