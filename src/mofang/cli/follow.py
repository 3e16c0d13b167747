"""Follow a job to its end, whatever happens to the controller on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofang.cli.progress import Progress, absorb
from mofang.cli.screens import Screen
from mofang.clock import Clock
from mofang.errors import BackendError

if TYPE_CHECKING:
    from mofang.client import Client
    from mofang.domain.events import Event

__all__ = ["follow"]

_WAIT_S = 5.0  # one question lasts this long where nothing happens
_RETRY_S = 0.5
_PATIENCE_S = 120.0  # for a controller that has gone away


def follow(client: Client, job_id: str, steps: int | None, screen: Screen, clock: Clock) -> None:
    """Show a job's events as they come, and return when it has ended.

    Args:
        client: asks the controller; it starts a new one where the old one is gone.
        job_id: the job.
        steps: how many steps are planned; None: unknown.
        screen: where to show them.
        clock: to wait by while no controller answers.

    Raises:
        BackendError: no controller has answered for two minutes.
    """
    progress, cursor = Progress(steps=steps), 0
    try:
        while not progress.ended:
            events, cursor = _next(client, job_id, cursor, screen, clock)
            for event in events:
                progress, text = absorb(progress, event)
                if text:
                    screen.say(text)
            screen.show(progress)
    finally:
        screen.close()


def _next(client: Client, job_id: str, cursor: int, screen: Screen, clock: Clock) -> tuple[list[Event], int]:
    """Return the next events, over a controller's restart if need be."""
    give_up, told = clock.monotonic() + _PATIENCE_S, False
    while True:
        try:
            return client.events(job_id, after=cursor, wait_s=_WAIT_S)
        except BackendError:
            if clock.monotonic() > give_up:
                raise
        if not told:
            screen.say("the controller does not answer; trying again")
            told = True
        clock.sleep(_RETRY_S)
