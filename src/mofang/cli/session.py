"""A command's way to the controller, and the clock it waits by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofang.cli.settings import home
from mofang.clock import Clock, SystemClock

if TYPE_CHECKING:
    from mofang.client import Client
    from mofang.domain.events import Event

__all__ = ["all_events", "clock", "connect"]

_PAGE = 5000


def connect() -> Client:
    """Return a client of this home's controller, which is started where none answers.

    Raises:
        BackendError: it cannot be reached or started.
    """
    from mofang.client import Client  # noqa: PLC0415 - tests put theirs in place of this function

    return Client.connect(home())


def clock() -> Clock:
    """Return the machine's clock."""
    return SystemClock()


def all_events(client: Client, ref: str) -> list[Event]:
    """Return every event of a job, from the first to the newest."""
    found: list[Event] = []
    cursor = 0
    while True:
        page, cursor = client.events(ref, after=cursor, limit=_PAGE)
        if not page:
            return found
        found += page
