"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mofang.client import Client
from mofang.testing import until

LIVE = ["waiting", "running", "stopping"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A user's home, in which nothing runs any more when the test is over."""
    home = tmp_path / "home"
    home.mkdir()
    yield home
    with Client(home) as client:
        for row in client.jobs(LIVE):
            client.stop(row["id"])
        until(lambda: not client.jobs(LIVE))
        client.shutdown()
