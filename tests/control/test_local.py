"""The real controller, agents and workers of this machine, some of them killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mofang.client import Client
from mofang.domain.job import JobState
from mofang.errors import MofangError
from mofang.testing import a_scenario, until

pytestmark = pytest.mark.serial


def submit(client: Client, name: str, program: str) -> str:
    scenario = a_scenario(name, argv=("/bin/sh", "-c", program))
    return client.submit(scenario, client.plan(scenario).plans).job_id


def test_a_job_goes_on_while_its_controller_is_killed_and_the_agent_starts_the_next(home: Path) -> None:
    ledger = home / "ledger"
    with Client.connect(home) as client:
        job_id = submit(client, "steady", f"echo began >> {ledger}; sleep 5; echo done >> {ledger}; echo bye")
        until(ledger.exists)
        first = client.hello()
    os.kill(first["pid"], signal.SIGKILL)
    os.waitpid(first["pid"], 0)

    def next_controller() -> Any:
        try:
            with Client.connect(home, start=False) as found:
                return found.hello()
        except MofangError:
            return None

    assert until(next_controller)["fence"] == first["fence"] + 1
    with Client.connect(home, start=False) as client:
        until(lambda: client.job(job_id).state.is_final)
        assert client.job(job_id).state is JobState.SUCCEEDED
        assert client.job(job_id).attempt.number == 1  # type: ignore[union-attr]
        assert client.logs(job_id).text == "bye\n"
        events, _ = client.events(job_id)
    assert ledger.read_text() == "began\ndone\n"
    numbers = [(event.attempt, event.generation, event.source, event.sequence) for event in events]
    assert len(numbers) == len(set(numbers))


def test_a_killed_agent_is_started_again_by_the_controller(home: Path) -> None:
    ledger = home / "ledger"
    with Client.connect(home) as client:
        job_id = submit(client, "steady", f"echo began >> {ledger}; sleep 3; echo done >> {ledger}")
        until(ledger.exists)
        lock = home / "runs" / job_id / "attempt-0001" / "agent-00.lock"
        os.kill(int(lock.read_text()), signal.SIGKILL)
        until(lambda: client.job(job_id).state.is_final)
        assert client.job(job_id).state is JobState.SUCCEEDED
        restarts, _ = client.events(job_id, kinds=["agent-restarted"])
    assert len(restarts) == 1
    assert ledger.read_text() == "began\ndone\n"
