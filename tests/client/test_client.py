from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mofang.client import Client
from mofang.client.start import start_controller
from mofang.control.address import log_path, socket_path
from mofang.domain.events import EventKind
from mofang.errors import BackendError, NotFoundError, StoreError
from mofang.store import Store
from mofang.testing import ManualClock, a_plan, a_scenario


class FakeController:
    """Answers each request with the next of its answers; None hangs up in place of answering."""

    def __init__(self, home: Path, *answers: dict[str, object] | None) -> None:
        self.requests: list[dict[str, object]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(socket_path(home)))
        self._listener.listen()
        self._answers = list(answers)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._answers:
            line, _ = self._listener.accept()
            with line, line.makefile("rb") as requests:
                self._answer(line, requests)
        self._listener.close()

    def _answer(self, line: socket.socket, requests: object) -> None:
        for text in requests:  # type: ignore[attr-defined]
            self.requests.append(json.loads(text))
            answer = self._answers.pop(0)
            if answer is None:
                return
            line.sendall(json.dumps({"jsonrpc": "2.0", "id": self.requests[-1]["id"], **answer}).encode() + b"\n")
            if not self._answers:
                return


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose controller, if a test starts one, is ended after it."""
    yield tmp_path
    Client(tmp_path, start=False).shutdown()


def test_importing_the_client_is_cheap() -> None:
    program = "import sys, mofang.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pydantic", "sqlalchemy", "numpy", "torch", "asyncio", "subprocess", "alembic", "yaml", "rich"}
    assert not heavy & set(loaded)


def test_rows_and_events_need_no_pydantic(tmp_path: Path) -> None:
    row = {"cursor": 3, "job_id": "a", "attempt": 0, "generation": 0, "source": "control", "sequence": 1}
    page = {"events": [row | {"time": 1.0, "kind": "submitted", "data": {"plans": 1}}], "cursor": 3}
    FakeController(tmp_path, {"result": [{"id": "a"}]}, {"result": page})
    program = """
import sys
from pathlib import Path
from mofang.client import Client
client = Client(Path(sys.argv[1]), start=False)
print(client.jobs(), client.events("a"), "pydantic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[{'id': 'a'}] ([Event(")
    assert done.stdout.rstrip().endswith("3) False")


def test_without_a_controller_and_without_starting_one(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no controller is running"):
        Client.connect(tmp_path, start=False)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(socket_path(tmp_path)))
    dead.close()  # a stale socket: its owner was killed
    with pytest.raises(BackendError, match="no controller is running"):
        Client.connect(tmp_path, start=False)


def test_errors_come_back_as_what_they_were(tmp_path: Path) -> None:
    wire = NotFoundError("there is no job 'x'", hint="look", data={"ref": "x"}).to_wire()
    FakeController(
        tmp_path, {"error": {"code": -32000, "message": "m", "data": wire}}, {"result": {"state": "stopped"}}
    )
    with Client(tmp_path, start=False) as client:
        with pytest.raises(NotFoundError, match="there is no job 'x'") as caught:
            client.job("x")
        assert (caught.value.hint, caught.value.data, caught.value.exit_code) == ("look", {"ref": "x"}, 2)
        assert client.stop("y") == "stopped"


def test_a_request_that_is_cut_off_is_sent_once_more(tmp_path: Path) -> None:
    fake = FakeController(tmp_path, None, {"result": {"job_id": "a", "created": False}})
    with Client(tmp_path, start=False) as client:
        assert client.submit(a_scenario(), [a_plan()]) == ("a", False)
    first, second = (request["params"] for request in fake.requests)
    assert first == second  # one key, therefore one job


def test_a_controller_that_hangs_up_again_is_given_up(tmp_path: Path) -> None:
    FakeController(tmp_path, None, None)
    with Client(tmp_path, start=False) as client, pytest.raises(BackendError, match="went away while answering jobs"):
        client.jobs()


def test_values_of_events_are_typed(tmp_path: Path) -> None:
    row = {"cursor": 3, "job_id": "a", "attempt": 1, "generation": 1, "source": "r0000", "sequence": 1}
    answer = {"events": [row | {"time": 1.0, "kind": "step", "data": {"step": 1}}], "cursor": 3}
    fake = FakeController(tmp_path, {"result": answer})
    with Client(tmp_path, start=False) as client:
        (event,), cursor = client.events("a", kinds=[EventKind.STEP])
    assert (event.kind, event.data["step"], cursor) == (EventKind.STEP, 1, 3)
    assert fake.requests[0]["params"]["kinds"] == ["step"]  # type: ignore[index]


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot start the controller") as caught:
        Client.connect(tmp_path / "file" / "home")
    assert "MOFANG_HOME" in caught.value.hint


def test_a_controller_that_never_answers_is_given_up(home: Path) -> None:
    def never() -> None:
        raise FileNotFoundError

    with pytest.raises(BackendError, match="has not answered for 30 s"):
        start_controller(home, never, ManualClock())
    deadline = time.monotonic() + 30
    while not socket_path(home).exists() and time.monotonic() < deadline:
        time.sleep(0.05)  # it does come up: the fixture ends it


def test_why_a_controller_cannot_start_reaches_the_user(home: Path) -> None:
    Store(home / "mofang.db").close()
    raw = sqlite3.connect(home / "mofang.db")
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match="written by a newer Mofang") as caught:
        Client.connect(home)
    assert "update Mofang" in caught.value.hint


def test_the_first_client_starts_a_controller_that_outlives_it_and_a_killed_one_is_replaced(home: Path) -> None:
    with Client.connect(home) as client:
        first = client.hello()
        assert os.getsid(first["pid"]) == first["pid"]  # a session of its own: closing the terminal does not reach it
        os.kill(first["pid"], signal.SIGKILL)
        os.waitpid(first["pid"], 0)
        second = client.hello()
        assert second["pid"] != first["pid"]
        assert second["fence"] == first["fence"] + 1
    with Client.connect(home) as client:
        assert client.hello() == second
    assert log_path(home).stat().st_mode & 0o077 == 0
