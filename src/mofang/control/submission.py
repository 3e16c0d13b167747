"""Taking jobs for good: the hot path of the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mofang.clock import Clock, new_token
from mofang.control import baggage, presence
from mofang.control.rpc import Reply
from mofang.control.wire import to_wire
from mofang.domain.codec import decode, from_data
from mofang.domain.job import Job
from mofang.domain.plan import Plan
from mofang.domain.scenario import Scenario
from mofang.errors import InfeasibleError, MofangError, StoreError, UsageError
from mofang.launchers.program import check_alike
from mofang.spec.material import check_material
from mofang.store import jobs
from mofang.store.jobs import Accepted, NewJob, Submission
from mofang.store.store import Store

__all__ = ["Submissions"]

_ID_BYTES = 6
_IDS_AT_ONCE = 128


class _Request(NamedTuple):
    """A submission, understood; the texts are what is stored."""

    scenario: Scenario
    scenario_text: str
    plans: tuple[Plan, ...]
    plans_text: str
    key: str
    user: str
    secrets: Mapping[str, str]


class Submissions:
    """Accepts jobs: decodes a request once, and answers after the commit that holds the job.

    Args:
        store: led by this process.
        home: Mofang's folder.
        clock: the time.
        workers: where files are written, for the jobs that bring some.
        accepted: told each new job, on the event loop.
    """

    def __init__(
        self, *, store: Store, home: Path, clock: Clock, workers: Executor, accepted: Callable[[Job], None]
    ) -> None:
        self._store = store
        self._home = home
        self._clock = clock
        self._workers = workers
        self._accepted = accepted
        self._ids = _fresh_ids()

    def submit(self, params: Mapping[str, Any], reply: Reply) -> None:
        """Take a job.

        Args:
            params: scenario, plans, key, user and secrets.
            reply: answered with job_id and created.

        Raises:
            UsageError: the request cannot be understood.
            InfeasibleError: it has no plan, one of several parts, or its framework is not installed.
        """
        found = _parsed(params)
        job = Job(
            id=next(self._ids),
            name=found.scenario.name,
            scenario=found.scenario,
            plans=found.plans,
            user=found.user,
            key=found.key,
            submitted_at=self._clock.now(),
        )
        item = Submission(_row(job, found), len(job.plans))
        if not (baggage.is_needed(job) or presence.is_needed(job)):
            self._store.put(jobs.accept, item, _Acceptance(self, job, reply))
            return
        events = asyncio.get_running_loop()
        self._workers.submit(self._with_baggage, item, _Acceptance(self, job, reply), found.secrets, events)

    def _with_baggage(
        self, item: Submission, acceptance: _Acceptance, secrets: Mapping[str, str], events: asyncio.AbstractEventLoop
    ) -> None:
        """Check and write what the job needs, then the job: so that no accepted job ever lacks it."""
        try:
            presence.check(acceptance.job, self._home)
            baggage.pack(self._home, acceptance.job, secrets)
        except MofangError as error:
            events.call_soon_threadsafe(acceptance.set_exception, error)
            return
        self._store.put(jobs.accept, item, acceptance)

    def settle(self, job: Job, accepted: Accepted) -> None:
        """Hand a new job over to the loop; drop what came with one that was there already."""
        if accepted.created:
            self._accepted(job)
        elif baggage.is_needed(job):
            self._workers.submit(baggage.drop, self._home, job.id)

    def give_up(self, job: Job) -> None:
        """Drop what came with a job that could not be stored."""
        if baggage.is_needed(job):
            self._workers.submit(baggage.drop, self._home, job.id)


class _Acceptance:
    """What the store's writer answers to, in place of a future."""

    __slots__ = ("_reply", "_submissions", "job")

    def __init__(self, submissions: Submissions, job: Job, reply: Reply) -> None:
        self._submissions = submissions
        self._reply = reply
        self.job = job

    def set_result(self, accepted: Accepted) -> None:
        self._submissions.settle(self.job, accepted)
        self._reply.set_result({"job_id": accepted.job_id, "created": accepted.created})

    def set_exception(self, error: Exception) -> None:
        self._submissions.give_up(self.job)
        self._reply.set_exception(error)


def _fresh_ids() -> Iterator[str]:
    """Yield unguessable ids; randomness is fetched for many at once."""
    size = 2 * _ID_BYTES
    while True:
        digits = new_token(_ID_BYTES * _IDS_AT_ONCE)
        yield from (digits[at : at + size] for at in range(0, len(digits), size))


def _parsed(params: Mapping[str, Any]) -> _Request:
    # Stored as they come, once they are understood: encoding the values again would cost as much as decoding them.
    plans_text = to_wire(params.get("plans")).decode()
    try:
        scenario = from_data(Scenario, params.get("scenario"))
        plans = _known_plans(plans_text)
    except StoreError as error:
        raise UsageError(
            f"the submission cannot be understood: {error.message}", hint="are client and controller of one version?"
        ) from error
    found = _Request(
        scenario=scenario,
        scenario_text=to_wire(params["scenario"]).decode(),
        plans=plans,
        plans_text=plans_text,
        key=_text(params, "key"),
        user=_text(params, "user"),
        secrets=_secrets(params),
    )
    _check(found)
    return found


@lru_cache(maxsize=256)
def _known_plans(text: str) -> tuple[Plan, ...]:
    """Decode plans; the jobs of a sweep bring the same ones again and again."""
    return decode(tuple[Plan, ...], text)


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"a submission needs its {name}", hint="are client and controller of one version?")
    return value


def _secrets(params: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the secrets; no error ever quotes a value."""
    found = params.get("secrets") or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError("secrets are text by name", hint="are client and controller of one version?")
    return found


def _check(found: _Request) -> None:
    if not found.plans:
        raise InfeasibleError("a job needs at least one feasible plan", hint="`mofang plan` says what does not fit")
    if not all(plan.placement.cluster for plan in found.plans):
        raise UsageError(
            "a plan for hardware that is only described cannot run", hint="plan for the fleet: leave --hardware out"
        )
    for plan in found.plans:
        check_alike(plan)
    check_material(found.scenario)
    missing = [secret.name for secret in found.scenario.environment.secrets if secret.name not in found.secrets]
    if missing:
        raise UsageError(f"no value came with the secret {missing[0]}", hint="the client sends the values of secrets")


def _row(job: Job, found: _Request) -> NewJob:
    return NewJob(
        id=job.id,
        key=job.key,
        user=job.user,
        name=job.name,
        state=job.state.value,
        message="",
        priority=job.scenario.priority,
        scenario=found.scenario_text,
        plans=found.plans_text,
        submitted_at=job.submitted_at,
        retries=0,
        devices="",
        steps=job.plans[0].steps,
    )
