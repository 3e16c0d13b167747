"""Strangers, liars and broken lines: nobody without the token is served, and nothing wrong is committed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mofang.clock import SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.replica import wire
from mofang.recovery.replica.client import Replicas
from mofang.recovery.replica.config import ServerConfig
from mofang.recovery.replica.shelf import Busy, Holding, Shelf
from mofang.recovery.replica.start import start_server
from mofang.recovery.replica.transfer import Overtaken, receive
from mofang.recovery.replica.watch import ask_list
from mofang.recovery.replica.wire import Link, admit, connect
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.offers import Offer

CLOCK = SystemClock()
TOKEN, PREFIX = "s3cret of the attempt", "mofang.job.1."
GOOD = Record(step=5, fence=1, length=11, sum=0xD447B1EA40E6988B)  # XXH3 of "hello world"


@pytest.fixture
def served() -> Iterator[Callable[..., tuple[str, int]]]:
    """Be a server: one connection, handled by a function."""
    opened = []

    def serve(handle: Callable[[socket.socket], None]) -> tuple[str, int]:
        listener = socket.create_server(("127.0.0.1", 0))

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    handle(connection)
                except OSError:
                    return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        opened.append((listener, thread))
        return listener.getsockname()

    yield serve
    for listener, thread in opened:
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


def test_both_ends_show_that_they_know_the_token(served):
    def handle(connection: socket.socket) -> None:
        link = admit(connection, TOKEN, CLOCK)
        link.send({"got": link.receive()["ask"]})

    with connect(served(handle), TOKEN, 3, CLOCK) as link:
        link.send({"ask": "x"})
        assert link.receive() == {"got": "x"}


def test_a_server_without_the_token_is_refused(served):
    with pytest.raises(ConnectionError, match=r"closed|reset|token"):
        connect(served(lambda connection: admit(connection, "guess", CLOCK)), TOKEN, 0, CLOCK)

    told = []

    def pretend(connection: socket.socket) -> None:
        link = Link(connection, CLOCK)
        link.send({"nonce": "0"})
        said = link.receive()
        told.append(str(said))
        link.send({"proof": said["proof"]})  # what the client said itself is no proof of the server

    with pytest.raises(ConnectionError, match="does not know the token"):
        connect(served(pretend), TOKEN, 0, CLOCK)
    assert told
    assert TOKEN not in told[0]


def test_proofs_differ_by_role_nonce_node_and_token():
    said = {
        wire._proof(token, role, one, other, node)
        for token in ("a", "b")
        for role in ("client", "server")
        for one in ("1", "2")
        for other in ("1", "2")
        for node in (0, 1)
    }
    assert len(said) == 32
    assert all(len(proof) == 64 for proof in said)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x04nope", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_garbage_is_an_error_at_once(garbage):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(garbage)
        with pytest.raises(ConnectionError):
            _plain(ours).receive()


def test_a_peer_that_says_nothing_or_too_slowly_is_left():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            _plain(ours).receive(0.05)
        theirs.sendall(b"\0\0")
        with pytest.raises(TimeoutError):
            _plain(ours).receive(0.05)


def _plain(connection: socket.socket) -> Link:
    link = Link.__new__(Link)  # a socket pair has no TCP to set options of
    link.socket, link._clock = connection, CLOCK
    return link


def chunk(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


END = b"\0\0\0\0"
WHOLE = chunk(b'{"whole":true}')


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (chunk(b"hello world") + END + WHOLE, None),
        (chunk(b"hello ") + chunk(b"world") + END + WHOLE, None),
        (chunk(b"hello worle") + END + WHOLE, CheckpointError),
        (chunk(b"hello") + END + WHOLE, Overtaken),
        (chunk(b"hello world") + END + chunk(b'{"whole":false}'), Overtaken),
        (END + chunk(b'{"whole":false}'), Overtaken),
        (chunk(b"hello world!") + END + WHOLE, ConnectionError),
        (chunk(b"hello world") + chunk(b"!") + END + WHOLE, ConnectionError),
        (b"\xff\xff\xff\xff" + b"x" * 100, ConnectionError),
        (chunk(b"hello world")[:9], ConnectionError),
        (chunk(b"hello world"), ConnectionError),
        (chunk(b"hello world") + END, ConnectionError),
        (b"", ConnectionError),
    ],
)
def test_only_what_is_whole_and_right_is_committed_whatever_the_peer_sends(tmp_path, sent, error):
    ours, theirs = socket.socketpair()
    shelf = Shelf(tmp_path, PREFIX)
    holding = Holding(kind="snapshot", rank=0, record=GOOD, slot_bytes=4096)
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with shelf.draft(0, GOOD.length, 4096) as draft:
            if error is None:
                receive(_plain(ours), draft, holding, CLOCK)
            else:
                with pytest.raises(error):
                    receive(_plain(ours), draft, holding, CLOCK)
    assert [item.record for item in shelf.holdings()] == ([GOOD] if error is None else [])


@pytest.mark.parametrize(
    "listed",
    [
        None,
        [[]],
        [["snapshot", 0, 1, 5, 11, "not hex", 4096]],
        [["snapshot", -1, 1, 5, 11, "0", 4096]],
        [["secret", 0, 1, 5, 11, "0", 4096]],
        [["snapshot", 0, 1, 5, 9999, "0", 4096]],
        [["../x", 0, 1, 5, 11, "0", 4096]],
    ],
)
def test_a_list_that_makes_no_sense_is_an_error(listed):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        _plain(theirs).send({"holdings": listed})
        with pytest.raises(ConnectionError):
            ask_list(_plain(ours))


def test_the_older_slot_is_overwritten_but_never_the_one_that_is_to_stay(tmp_path):
    shelf = Shelf(tmp_path, PREFIX)
    for step in (1, 2):
        with shelf.draft(0, 11, 4096) as draft:
            draft.arena.slot(draft.index)[:11] = b"hello world"
            draft.commit(Record(step=step, fence=1, length=11, sum=GOOD.sum))
    with shelf.draft(0, 11, 4096, spare=(1, 1)):
        assert [item.record.step for item in shelf.holdings()] == [1]
        with pytest.raises(Busy), shelf.draft(0, 11, 4096):
            pass


def test_a_larger_arena_takes_the_place_of_the_small_one_only_when_it_is_whole(tmp_path):
    shelf = Shelf(tmp_path, PREFIX)
    with shelf.draft(0, 11, 4096) as draft:
        draft.arena.slot(draft.index)[:11] = b"hello world"
        draft.commit(GOOD)
    with shelf.draft(0, 9000, 9000):
        assert [item.record for item in shelf.holdings()] == [GOOD]
    with shelf.draft(0, 9000, 9000) as draft:
        draft.commit(Record(step=6, fence=1, length=9000, sum=draft.arena.sum(draft.index, 9000)))
    assert [item.record.step for item in shelf.holdings()] == [6]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[tuple[str, int], Path]]:
    """A real server with one snapshot of rank 0."""
    arena = Arena.create(tmp_path / f"{PREFIX}snapshot.r0000", 4096)
    arena.slot(0)[:11] = b"hello world"
    arena.commit(0, GOOD)
    started = start_server(ServerConfig(node=0, domains=("",), prefix=PREFIX, token=TOKEN, folder=str(tmp_path)))
    yield started.address(), tmp_path
    started.stop()


@pytest.mark.serial
def test_strangers_do_not_keep_others_from_being_served(server):
    address, _ = server
    idle = [socket.create_connection(address) for _ in range(20)]
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, os.urandom(5000), chunk(b'{"node":0,"proof":"guess"}')):
        with socket.create_connection(address, timeout=10) as stranger:
            stranger.sendall(text)
            said = b""
            while piece := _received(stranger):
                said += piece
        assert b"holdings" not in said
        assert TOKEN.encode() not in said
    with connect(address, TOKEN, 1, CLOCK) as link:
        assert [item.record for item in ask_list(link)] == [GOOD]
    with pytest.raises(ConnectionError):
        connect(address, "wrong", 1, CLOCK)
    for connection in idle:
        connection.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


@pytest.mark.serial
@pytest.mark.parametrize("asked", [{}, {"op": "get"}, {"op": "get", "rank": "x", "fence": 1, "step": 1}, {"op": "rm"}])
def test_a_request_that_makes_no_sense_ends_the_connection_only(server, asked):
    address, _ = server
    with connect(address, TOKEN, 1, CLOCK) as link:
        link.send(asked)
        with pytest.raises(ConnectionError):
            link.receive()
    with connect(address, TOKEN, 1, CLOCK) as link:
        assert len(ask_list(link)) == 1


@pytest.mark.serial
def test_ranks_of_a_node_bring_the_same_part_once(server, tmp_path_factory):
    address, _ = server
    folder = tmp_path_factory.mktemp("newcomer")
    clients = [Replicas(Shelf(folder, PREFIX), {0: address}, token=TOKEN, node=1, clock=CLOCK) for _ in range(4)]
    done = []
    threads = [
        threading.Thread(target=lambda item=item: done.append(item.bring(Offer(rank=0, fence=1, step=5))))
        for item in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [True] * 4
    (path,) = [path for path in folder.iterdir() if "lock" not in path.name]
    assert path.name == f"{PREFIX}replica.r0000"
    arena = Arena.open(path)
    assert bytes(arena.slot(next(iter(arena.records())))[:11]) == b"hello world"


@pytest.mark.serial
def test_nobody_there_is_known_soon(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Replicas(Shelf(tmp_path, PREFIX), {1: silent.getsockname()}, token=TOKEN, node=0, clock=CLOCK)
        began = time.monotonic()
        assert list(client.offers()) == []
        assert time.monotonic() - began < 5.0


def test_the_token_does_not_show(tmp_path):
    config = ServerConfig(node=0, domains=("",), prefix=PREFIX, token="s3cret", folder=str(tmp_path))
    assert "s3cret" not in repr(config)
    assert ServerConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="not a configuration"):
        ServerConfig.from_json("{}")
