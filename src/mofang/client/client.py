"""What can be asked of the controller, one method each."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from mofang.client.connection import Connection
from mofang.clock import new_token

if TYPE_CHECKING:
    from mofang.backends.protocol import Artefact
    from mofang.domain.events import Event
    from mofang.domain.hardware import Fleet, Pool
    from mofang.domain.job import Job
    from mofang.domain.plan import MatchResult, Plan
    from mofang.domain.rates import HostRates
    from mofang.domain.scenario import Scenario
    from mofang.units import DeviceRequest

__all__ = ["Client", "LogText", "Submitted"]

T = TypeVar("T")


class Submitted(NamedTuple):
    """The job that a submission made, or found under its key."""

    job_id: str
    created: bool


class LogText(NamedTuple):
    """A piece of a worker's output. ``offset`` is where to read on; ``end``: nothing more will come."""

    text: str
    offset: int
    end: bool


class Client:
    """The controller of one home.

    Every request is safe to repeat, so one that meets a controller on its way out is sent again to the next one.

    Args:
        home: Mofang's folder, as in ``$MOFANG_HOME``.
        start: whether to start a controller where none answers.

    Example:
        ``with Client.connect(Path.home() / ".mofang") as client: print(client.jobs())``
    """

    def __init__(self, home: Path, *, start: bool = True) -> None:
        self._connection = Connection(home, start=start)

    @classmethod
    def connect(cls, home: Path, start: bool = True) -> Self:
        """Return a client that has reached its controller.

        Raises:
            BackendError: no controller answers, and none could be started.
        """
        client = cls(home, start=start)
        client.hello()
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the controller goes on."""
        self._connection.close()

    def hello(self) -> dict[str, Any]:
        """Return the controller's version, process id and fence number."""
        return dict(self._call("hello"))

    def fleet(self) -> Fleet:
        """Return every cluster with its nodes as they are now."""
        from mofang.domain.hardware import Fleet  # noqa: PLC0415 - domain values cost pydantic, which `ps` never needs

        return _decoded(Fleet, self._call("fleet"))

    def record_rates(self, rates: HostRates) -> None:
        """Keep what probing a host measured; matching uses it from now on."""
        self._call("record_rates", rates=_data(rates))

    def measurements(self) -> list[dict[str, Any]]:
        """Return what finished jobs measured, oldest first: rows for ``catalog.measurements.from_jobs``."""
        return list(self._call("measurements"))

    def plan(
        self,
        scenario: Scenario,
        hardware: Sequence[DeviceRequest | str] | None = None,
        num_plans: int = 8,
        *,
        pools: Sequence[Pool] | None = None,
        explain: bool = False,
    ) -> MatchResult:
        """Return ranked plans.

        Args:
            scenario: what is wanted.
            hardware: described devices (``H100:8..64``); None plans for the fleet.
            num_plans: how many plans at most.
            pools: all hardware, from a fleet file; ``hardware`` is then left out.
            explain: also vary the best plan's hardware and strategy (``MatchResult.sensitivities``).
        """
        from mofang.domain.plan import MatchResult  # noqa: PLC0415 - domain values cost pydantic

        requests = None if hardware is None else [str(request) for request in hardware]
        given = None if pools is None else [_data(pool) for pool in pools]
        parameters = {"scenario": _data(scenario), "hardware": requests, "num_plans": num_plans, "pools": given}
        parameters |= {"explain": True} if explain else {}
        return _decoded(MatchResult, self._call("plan", **parameters))

    def submit(
        self,
        scenario: Scenario,
        plans: Sequence[Plan],
        *,
        key: str | None = None,
        user: str | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Hand a job over for good: when this returns, it is on disk.

        Args:
            scenario: what is wanted.
            plans: its feasible plans, best first.
            key: submitting twice with one key makes one job; None takes a fresh key.
            user: whose job it is; None: the user of this process.
            secrets: values of the scenario's secrets by name.
        """
        result = self._call(
            "submit",
            scenario=_data(scenario),
            plans=[_data(plan) for plan in plans],
            key=key or new_token(),
            user=getpass.getuser() if user is None else user,
            secrets=dict(secrets or {}),
        )
        return Submitted(str(result["job_id"]), bool(result["created"]))

    def jobs(self, states: Sequence[str] | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Return plain rows, newest first: id, name, state, reason, message, devices, step, steps, loss and times."""
        wanted = None if states is None else [str(state) for state in states]
        return list(self._call("jobs", states=wanted, limit=limit))

    def job(self, ref: str) -> Job:
        """Return a job by its id, a unique prefix of it, or its name (the newest of that name)."""
        from mofang.domain.job import Job  # noqa: PLC0415 - domain values cost pydantic

        return _decoded(Job, self._call("job", ref=ref))

    def events(
        self,
        ref: str,
        after: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> tuple[list[Event], int]:
        """Return events behind a cursor, and the cursor to go on from.

        Args:
            ref: the job.
            after: the last cursor seen; 0: from the start.
            limit: how many events at most.
            wait_s: wait this many seconds for one to come where there is none; at most 60.
            kinds: only these kinds.
        """
        from mofang.domain.events import Event, EventKind  # noqa: PLC0415 - the rows of `ps` need no events

        wanted = None if kinds is None else [str(kind) for kind in kinds]
        found = self._call("events", wait_s, ref=ref, after=after, limit=limit, wait_s=wait_s, kinds=wanted)
        return [Event(**row | {"kind": EventKind(row["kind"])}) for row in found["events"]], int(found["cursor"])

    def logs(
        self,
        ref: str,
        *,
        rank: int = 0,
        attempt: int | None = None,
        generation: int | None = None,
        offset: int = 0,
        limit: int = 65536,
    ) -> LogText:
        """Return what a worker printed.

        Args:
            ref: the job.
            rank: the worker.
            attempt: None: the latest.
            generation: None: the worker's newest in that attempt.
            offset: bytes from the start, or from the end where negative.
            limit: how many bytes at most.
        """
        found = self._call(
            "logs", ref=ref, rank=rank, attempt=attempt, generation=generation, offset=offset, limit=limit
        )
        return LogText(found["text"], found["offset"], found["end"])

    def stop(self, ref: str) -> str:
        """Ask a job to end, with grace, and return the state it is in now."""
        return str(self._call("stop", ref=ref)["state"])

    def explain(self, ref: str) -> dict[str, Any]:
        """Return why a job waits, or what happened to it: reason, position, blockers, attempts, plans."""
        return dict(self._call("explain", ref=ref))

    def render(self, scenario: Scenario, plan: Plan) -> list[Artefact]:
        """Return everything that starting this plan would write and execute."""
        from mofang.backends.protocol import Artefact  # noqa: PLC0415 - only for this question

        return [Artefact(**row) for row in self._call("render", scenario=_data(scenario), plan=_data(plan))]

    def shutdown(self) -> None:
        """Ask the controller to leave; its jobs go on, and the next request starts another one."""
        self._connection.send_once("shutdown")

    def _call(self, method: str, patience_s: float = 0.0, **params: Any) -> Any:
        return self._connection.call(method, params, patience_s)


def _data(value: object) -> Any:
    from mofang.domain.codec import to_data  # noqa: PLC0415 - it costs pydantic

    return to_data(value)


def _decoded(kind: type[T], data: Any) -> T:
    from mofang.domain.codec import from_data  # noqa: PLC0415 - it costs pydantic

    return from_data(kind, data)
