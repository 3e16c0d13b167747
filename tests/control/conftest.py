"""A controller's loop over the memory twin, which a test can kill at chosen points and start again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from mofang.control.fleet import FleetWatch
from mofang.control.loop import Loop
from mofang.control.queue import Queue
from mofang.domain.codec import encode
from mofang.domain.hardware import Node
from mofang.domain.job import Job, JobState
from mofang.domain.plan import Plan
from mofang.domain.scenario import Scenario
from mofang.store import Store, engine, events, jobs
from mofang.store.jobs import NewJob, Stopping, Submission
from mofang.testing import ManualClock, MemoryBackend, a_node, a_plan, a_scenario, simple_launch


class Killed(BaseException):
    """The controller's process ended here; nothing after this line ran."""


class Inline(Executor):
    """Does the work at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Fragile:
    """A store or a backend whose calls count down to a kill, before or after they are carried out."""

    def __init__(self, inner: Any, world: World, calls: tuple[str, ...]) -> None:
        self._inner, self._world, self._calls = inner, world, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._calls:
            return found

        def call(*args: Any) -> Any:
            self._world.count_down()
            result = found(*args)
            self._world.count_down()
            return result

        return call


class World:
    """One home, one fleet, and a controller that comes and goes."""

    def __init__(self, home: Path, template: Path, nodes: tuple[Node, ...] = ()) -> None:
        self.home = home
        home.mkdir(exist_ok=True, parents=True)
        shutil.copy(template, home / "mofang.db")
        self.clock = ManualClock(1000.0)
        self.backend = MemoryBackend(nodes or (a_node(cores=4),), self.clock)
        self.store = Store(home / "mofang.db")
        self.kill_in: int | None = None
        self.kills = 0
        self.num_jobs = 0
        self.start()

    def start(self) -> None:
        """Start a controller, as after a kill."""
        backend = Fragile(self.backend, self, ("launch", "clear", "stop", "observe"))
        store: Any = Fragile(self.store, self, ("write", "write_all"))
        self.loop = Loop(
            store=store,
            home=self.home,
            clock=self.clock,
            fleet=FleetWatch({"memory": backend}, Inline(), {}),  # type: ignore[dict-item]
            queue=Queue(store=store, home=self.home, build=simple_launch),
            workers=Inline(),
        )
        self.loop.load()

    def count_down(self) -> None:
        if self.kill_in is None:
            return
        self.kill_in -= 1
        if self.kill_in <= 0:
            self.kill_in = None
            raise Killed

    def turn(self, seconds: float = 0.5) -> None:
        """Let time pass and the loop turn; a controller that is killed is followed by the next."""
        self.clock.advance(seconds)
        try:
            self.loop.turn()
        except Killed:
            self.kills += 1
            self.start()

    def submit(self, *plans: Plan, scenario: Scenario | None = None, to_loop: bool = True) -> str:
        """Accept a job, and return its id; the loop hears of it unless the controller is killed before."""
        self.num_jobs += 1
        job_id = f"{self.num_jobs:012x}"
        chosen = scenario or a_scenario()
        job = Job(
            id=job_id,
            name=chosen.name,
            scenario=chosen,
            plans=plans or (a_plan(),),
            user="me",
            key=job_id,
            submitted_at=self.clock.now(),
        )
        row = NewJob(
            job_id,
            job_id,
            "me",
            job.name,
            "waiting",
            "",
            chosen.priority,
            encode(chosen),
            encode(job.plans),
            job.submitted_at,
            0,
            "",
            job.plans[0].steps,
        )
        self.store.write(jobs.accept, Submission(row, len(job.plans)))
        if to_loop:
            self.loop.add(job)
        return job_id

    def stop(self, job_id: str, *, to_loop: bool = True) -> JobState:
        item = Stopping(job_id=job_id, by="me", time=self.clock.now())
        state = self.store.write(jobs.request_stop, item)
        if to_loop:
            self.loop.stopped(job_id, state)
        return state

    def job(self, job_id: str) -> Job:
        return self.store.read(jobs.load, job_id).job

    def row(self, job_id: str) -> dict[str, Any]:
        return next(row for row in self.store.read(jobs.rows, None, None) if row["id"] == job_id)

    def story(self, job_id: str) -> list[str]:
        return [row["kind"] for row in self.store.read(events.after, job_id, 0, 10_000)]

    def facts(self, job_id: str, kind: str) -> list[dict[str, Any]]:
        rows = self.store.read(events.after, job_id, 0, 10_000, [kind])
        return [json.loads(row["data"]) for row in rows]

    def until_final(self, *job_ids: str, turns: int = 400) -> list[JobState]:
        for _ in range(turns):
            states = [self.job(job_id).state for job_id in job_ids]
            if all(state.is_final for state in states):
                return states
            self.turn()
        raise AssertionError(f"not final after {turns} turns: {[self.row(job_id) for job_id in job_ids]}")

    def close(self) -> None:
        self.store.close()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once: migrating takes longer than a test."""
    path = tmp_path_factory.mktemp("template") / "mofang.db"
    Store(path).close()
    return path


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests kill is the process, not the machine."""
    monkeypatch.setattr(engine, "PRAGMAS", (*engine.PRAGMAS, "PRAGMA synchronous = OFF"))


@pytest.fixture
def world(tmp_path: Path, template: Path) -> Iterator[World]:
    made = World(tmp_path / "home", template)
    yield made
    made.close()


@pytest.fixture
def make_world(tmp_path: Path, template: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*nodes: Node) -> World:
        made.append(World(tmp_path / f"home-{len(made)}", template, nodes))
        return made[-1]

    yield make
    for each in made:
        each.close()
