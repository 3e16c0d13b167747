"""The arena: what was committed is found by whoever comes later, and nothing torn ever is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.errors import CheckpointError
from mofang.recovery.snapshot import arena as module
from mofang.recovery.snapshot.arena import Arena, Record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "arena"


def put(arena, index, step, data, fence=1):
    arena.invalidate(index)
    arena.slot(index)[: len(data)] = data
    record = Record(step=step, fence=fence, length=len(data), sum=xxhash.xxh3_64_intdigest(data))
    arena.commit(index, record)
    return record


def test_a_later_process_finds_what_was_committed(path):
    arena = Arena.create(path, 10_000)
    assert arena.records() == {}
    first, second = put(arena, 0, 10, b"a" * 9_000), put(arena, 1, 20, b"b" * 8_000)
    found = Arena.open(path)
    assert found.records() == {1: second, 0: first}
    assert found.verify(1) == second
    assert bytes(found.slot(1)[:3]) == b"bbb"


def test_a_higher_fence_is_newer_whatever_the_step(path):
    arena = Arena.create(path, 100)
    put(arena, 0, 500, b"old", fence=1)
    put(arena, 1, 400, b"new", fence=2)
    assert next(iter(arena.records())) == 1


def test_a_slot_being_written_holds_nothing_and_the_other_one_stays(path):
    arena = Arena.create(path, 100)
    put(arena, 0, 1, b"one")
    put(arena, 1, 2, b"two")
    arena.invalidate(0)
    assert list(Arena.open(path).records()) == [1]
    with pytest.raises(CheckpointError, match="holds no snapshot"):
        arena.verify(0)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("arena") / "arena"
    arena = Arena.create(path, 300)
    record = put(arena, 0, 7, np.random.default_rng(0).bytes(300))
    raw = bytearray(path.read_bytes())
    start = data.draw(st.sampled_from([module._RECORD_AT[0], module._PAGE]))
    length = module._RECORD.size if start != module._PAGE else record.length
    place = start + data.draw(st.integers(0, length - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        Arena.open(path).verify(0)


@pytest.mark.parametrize("size", [0, 100, 4096, 20_000])
def test_a_file_that_is_no_arena_is_not_opened(path, size):
    path.write_bytes(b"x" * size)
    assert Arena.open(path) is None


def test_a_truncated_arena_is_not_opened(path):
    put(Arena.create(path, 50_000), 0, 1, b"x" * 50_000)
    os.truncate(path, 60_000)
    assert Arena.open(path) is None


def test_all_pages_are_there_from_the_start(path):
    arena = Arena.create(path, 1_000_000)
    assert path.stat().st_blocks * 512 >= module._PAGE + 2 * arena.slot_bytes


def test_too_little_shared_memory_is_said_with_what_to_do(path):
    with pytest.raises(CheckpointError) as caught:
        Arena.create(path, 1 << 50)
    assert "need" in caught.value.message
    assert "--shm-size" in caught.value.hint
    assert list(path.parent.iterdir()) == []


WRITER = """
import sys, xxhash
from pathlib import Path
from mofang.recovery.snapshot.arena import Arena, Record
arena = Arena.create(Path(sys.argv[1]), 200_000)
print("ready", flush=True)
step = 0
while True:
    step += 1
    index = step % 2
    data = bytes([step % 251]) * 200_000
    arena.invalidate(index)
    arena.slot(index)[:] = data + bytes(arena.slot_bytes - 200_000)
    arena.commit(index, Record(step=step, fence=1, length=200_000, sum=xxhash.xxh3_64_intdigest(data)))
"""


@pytest.mark.serial
def test_a_writer_killed_at_any_moment_leaves_a_whole_snapshot(path):
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.05)
            writer.send_signal(signal.SIGKILL)
        arena = Arena.open(path)
        index, record = next(iter(arena.records().items()))
        assert arena.verify(index) == record
        assert set(arena.slot(index)[: record.length]) == {record.step % 251}
