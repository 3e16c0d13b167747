"""The tier itself: two slots, of which one is always whole, and what it does where there is no room."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.state import Part, TrainingState, part_of
from mofang.recovery.snapshot import memory as module
from mofang.recovery.snapshot import place as rooms
from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.memory import MemoryTier, Turn, generation_fence
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.restore import restore

from .conftest import Job, assert_holds, state_of


def alone(folder, fence=1):
    return MemoryTier(Place(prefix="mofang.one.", folder=folder), fence=fence, clock=SystemClock())


def filled(step, size=5000):
    return TrainingState(step=step, parts={"w": part_of(torch.full((size,), float(step)))})


def read_back(folder, size=5000):
    state = filled(0, size)
    refused = []
    loaded = restore(
        Place(prefix="mofang.one.", folder=folder),
        state,
        peers=Peers(),
        clock=SystemClock(),
        on_refused=lambda *words: refused.append(words),
    )
    return loaded, state, refused


def test_a_tier_is_made_in_the_background_and_gives_no_turn_until_it_is_there(tmp_path, monkeypatch):
    go = threading.Event()
    real = Arena.create
    monkeypatch.setattr(module.Arena, "create", lambda *given: (go.wait(10), real(*given))[1])
    tier = alone(tmp_path)
    tier.prepare(filled(0))
    assert not tier.ready
    assert tier.choose(tier.ballot()) is None
    go.set()
    assert tier.take(filled(1)) >= 0.0  # waits
    assert tier.wait(5)
    assert tier.choose(tier.ballot()) is Turn.OLDER
    tier.close()
    assert read_back(tmp_path)[0].step == 1


def test_a_held_slot_is_not_written_and_the_other_one_is(tmp_path):
    tier = alone(tmp_path)
    releases = []
    tier.on_commit(lambda slot, record: releases.append(tier.hold(slot)) if record.step in {1, 4} else None)
    tier.prepare(filled(0))
    for step in (1, 2, 3):
        tier.take(filled(step))
        assert tier.wait(5)
    assert {record.step for record in tier.arena.records().values()} == {1, 3}
    assert tier.choose(tier.ballot()) is Turn.NEWER
    tier.take(filled(4))
    assert tier.wait(5)
    assert tier.choose(tier.ballot()) is None
    with pytest.raises(CheckpointError, match="in use"):
        tier.take(filled(5))
    releases[0]()
    assert tier.choose(tier.ballot()) is Turn.OLDER
    tier.close()


def test_a_rank_that_is_not_ready_or_holds_keeps_all_from_writing(tmp_path):
    tier = alone(tmp_path)
    tier.prepare(filled(0))
    assert tier.wait(5)
    assert tier.choose((0.0, 0.0, 0.0)) is Turn.OLDER
    assert tier.choose((0.0, 2.0, 0.0)) is Turn.NEWER
    assert tier.choose((1.0, 0.0, 0.0)) is None
    assert tier.choose((0.0, 1.0, 1.0)) is None
    tier.close()


def test_too_little_memory_is_one_clear_line_and_no_snapshots(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "available_memory", lambda: 1_000_000)
    tier = alone(tmp_path)
    tier.prepare(filled(0))
    assert not tier.wait(5)
    assert "need" in tier.problem
    assert "free" in tier.problem
    assert "\n" not in tier.problem
    assert tier.choose(tier.ballot()) is None
    with pytest.raises(CheckpointError, match="no snapshot can be taken"):
        tier.take(filled(1))
    tier.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("limit", "used", "left"), [("1000", "300", 750), ("max", "5", None), ("10", "100", 0)])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit, used, left):
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    assert rooms._left_in(tmp_path) == left


def test_an_arena_that_is_there_is_used_again(tmp_path):
    for fence in (1, 2):
        tier = alone(tmp_path, fence)
        tier.prepare(filled(0))
        tier.take(filled(fence))
        tier.close()
        inode = tier.arena.path.stat().st_ino
        if fence == 1:
            first = inode
    assert inode == first
    assert {record.step for record in tier.arena.records().values()} == {1, 2}


def test_an_arena_that_has_become_too_small_stays_until_there_is_something_newer(tmp_path):
    small = alone(tmp_path)
    small.prepare(filled(0))
    small.take(filled(1))
    small.close()
    size = 3_000_000
    tier = alone(tmp_path, 2)
    tier.prepare(filled(0, size))
    assert tier.wait(10)
    assert len(list(tmp_path.iterdir())) == 2
    assert read_back(tmp_path)[0].step == 1
    for step in (2, 3):
        tier.take(filled(step, size))
    tier.close()
    assert [path.name for path in tmp_path.iterdir()] == ["mofang.one.snapshot.r0000"]
    assert read_back(tmp_path, size)[0].step == 3


def test_tensors_that_are_not_contiguous_and_new_private_ones_are_kept(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    part = Part(tensor=whole.t(), shape=(6, 4), offset=(0, 0), replicated=True)
    tier = alone(tmp_path)
    tier.prepare(TrainingState(step=0, parts={"w": part}, private={"r": torch.zeros(3)}))
    later = {"r": torch.ones(5), "numpy": torch.full((2,), 7, dtype=torch.int64)}
    tier.take(TrainingState(step=1, parts={"w": part}, private=later))
    tier.close()
    state = TrainingState(step=0, parts={"w": part_of(torch.zeros(6, 4))})
    loaded = restore(
        Place(prefix="mofang.one.", folder=tmp_path),
        state,
        peers=Peers(),
        clock=SystemClock(),
        on_refused=lambda *words: pytest.fail(str(words)),
    )
    assert torch.equal(state.parts["w"].tensor, whole.t())
    assert loaded.private.keys() == later.keys()
    assert all(torch.equal(loaded.private[name], tensor) for name, tensor in later.items())


def test_a_state_that_outgrew_its_slot_ends_the_tier_and_keeps_what_is_there(tmp_path):
    tier = alone(tmp_path)
    tier.prepare(filled(0))
    tier.take(filled(1))
    with pytest.raises(CheckpointError, match="outgrown"):
        tier.take(filled(2, 3_000_000))
    assert "outgrown" in tier.problem
    tier.close()
    assert read_back(tmp_path)[0].step == 1


def test_what_is_later_than_a_rollback_is_dropped(tmp_path):
    tier = alone(tmp_path, 3)
    tier.prepare(filled(0))
    for step in (4, 6):
        tier.take(filled(step))
    tier.forget(5)
    assert read_back(tmp_path)[0].step == 4
    tier.close()


def test_fences_grow_with_attempts_and_generations():
    order = [(1, 1), (1, 2), (1, 1000), (2, 1), (3, 4)]
    fences = [generation_fence(*pair) for pair in order]
    assert fences == sorted(set(fences))


@settings(max_examples=12, deadline=None)
@given(
    rounds=st.lists(
        st.tuples(
            st.sampled_from(["none", "half-copied", "no record"]), st.integers(0, 1), st.integers(0, 1), st.booleans()
        ),
        min_size=1,
        max_size=5,
    )
)
def test_ranks_that_die_at_any_point_of_a_snapshot_never_lose_the_one_before(tmp_path_factory, rounds):
    """Each round takes a snapshot on both ranks; where a rank dies, a new generation goes on from what is there."""
    job = Job(tmp_path_factory.mktemp("job"))
    job.snapshot([2], [1])
    fence, step, held = 1, 1, {1}
    for death, who, other_done, twice in rounds:
        fence, step = fence + 1, step + 1
        if death == "none":
            job.snapshot([2], [step, step + 1] if twice else [step], fence)
            step += twice
            held = {step}
        else:
            for rank in (0, 1):
                if rank != who and other_done:
                    job_tier = job.tier(rank, [2], fence)
                    job_tier.take(state_of(rank, 2, step))
                    job_tier.close()
                elif rank == who:
                    tear(job.tier(rank, [2], fence), state_of(rank, 2, step), death)
        results, refused = job.restore([2])
        assert refused == []
        assert_holds(results, max(held))
        # As the next generation does before it trains.
        for rank, (loaded, _) in enumerate(results):
            tier = job.tier(rank, [2], fence)
            tier.forget(loaded.step, loaded.fence)
            tier.close()
        step = max(step, loaded.step)


def tear(tier, state, death):
    """Do what a rank does that is killed in the middle of a snapshot."""
    arena = tier.arena
    older, _ = tier._order()
    arena.invalidate(older)
    if death == "half-copied":
        arena.slot(older)[: arena.slot_bytes // 2] = b"\xff" * (arena.slot_bytes // 2)
    tier.close()


_WRITER = """
import sys
from pathlib import Path
import torch
from mofang.clock import SystemClock
from mofang.recovery.checkpoint.state import TrainingState, part_of
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.place import Place

torch.set_num_threads(1)
tier = MemoryTier(Place(prefix="mofang.one.", folder=Path(sys.argv[1])), fence=int(sys.argv[2]), clock=SystemClock())
weights = [torch.zeros(60_000) for _ in range(8)]
def state(step):
    return TrainingState(
        step=step, parts={f"w{i}": part_of(w) for i, w in enumerate(weights)}, scalars={"step": step}
    )
tier.prepare(state(0))
step = int(sys.argv[3])
while True:
    step += 1
    for weight in weights:
        weight.fill_(step)
    tier.take(state(step))
    if step % 20 == 0:
        print(step, flush=True)
"""


@pytest.mark.serial
def test_a_process_killed_at_any_moment_leaves_a_whole_step(tmp_path):
    last = 0
    for round_number in range(3):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(round_number + 1), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            told = int(writer.stdout.readline())
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.017 * (round_number + 1))
            writer.send_signal(signal.SIGKILL)
        state = TrainingState(step=0, parts={f"w{i}": part_of(torch.zeros(60_000)) for i in range(8)})
        loaded = restore(
            Place(prefix="mofang.one.", folder=tmp_path),
            state,
            peers=Peers(),
            clock=SystemClock(),
            on_refused=lambda *words: pytest.fail(str(words)),
        )
        assert loaded.step >= told - 1
        assert loaded.scalars == {"step": loaded.step}
        assert all(set(part.tensor.tolist()) == {float(loaded.step)} for part in state.parts.values())
        last = loaded.step
