"""Ranks are threads here: the code that saves and loads is the real one, only the collectives are not."""

import json
import random
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from mofang.clock import ManualClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts, records
from mofang.recovery.checkpoint.files import candidates, latest_checkpoint, step_dir
from mofang.recovery.checkpoint.load import load_checkpoint
from mofang.recovery.checkpoint.manifest import chunk
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.randomness import random_states, restore_random_states
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import Part, TrainingState, part_of


class ThreadPeers:
    def __init__(self, rank, world_size, shared):
        self.rank, self.world_size = rank, world_size
        self.barrier, self.values = shared

    def _gather(self, value):
        self.values[self.rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values

    def all_ok(self, ok):
        return all(self._gather(ok))

    def from_first(self, value):
        return self._gather(value)[0]


def together(world_size, action):
    """Run ``action(peers)`` on every rank at once; return results or errors in the order of ranks."""
    shared = threading.Barrier(world_size, timeout=20), [None] * world_size

    def one(rank):
        try:
            return action(ThreadPeers(rank, world_size, shared))
        except CheckpointError as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(one, range(world_size)))


def cut(whole, rank, world_size):
    start, length = chunk(whole.shape[0], world_size, rank)
    offset = (start, *(0,) * (whole.ndim - 1))
    return Part(tensor=whole[start : start + length].clone(), shape=tuple(whole.shape), offset=offset, replicated=False)


WHOLE = {
    "a": torch.arange(35.0).reshape(7, 5),
    "b": torch.arange(2, dtype=torch.int64),  # fewer rows than ranks
    "c": torch.arange(11).to(torch.bfloat16),
    "d": torch.tensor(3.5),  # no dimension at all
}


def state_of(rank, world_size, step=0, *, blank=False, sharded=("a", "b", "c")):
    source = {name: torch.zeros_like(tensor) if blank else tensor + step for name, tensor in WHOLE.items()}
    parts = {
        name: cut(tensor, rank, world_size) if name in sharded else part_of(tensor.clone())
        for name, tensor in source.items()
    }
    own = torch.full((3,), -1 if blank else rank)
    return TrainingState(step=step, parts=parts, private={"own": own}, scalars={"step": step, "lr": 0.1 + 0.2})


def save(directory, world_size, step, *, keep=3, **how):
    return together(
        world_size,
        lambda peers: save_checkpoint(
            directory, state_of(peers.rank, world_size, step, **how), keep=keep, peers=peers, clock=ManualClock()
        ),
    )


def load(directory, world_size, **how):
    refused = []

    def one(peers):
        state = state_of(peers.rank, world_size, blank=True, **how)
        note = lambda path, message: refused.append((path.name, message))  # noqa: E731
        loaded = load_checkpoint(directory, state, peers=peers, clock=ManualClock(), on_refused=note)
        return loaded, state

    return together(world_size, one), refused


def assert_holds(results, world_size, step, **how):
    for rank, (loaded, state) in enumerate(results):
        assert loaded.step == step
        expected = state_of(rank, world_size, step, **how)
        for name, part in state.parts.items():
            assert torch.equal(part.tensor, expected.parts[name].tensor), name


def test_resharding_from_4_to_2_to_3_ranks_is_exact(tmp_path):
    save(tmp_path, 4, 10)
    results, _ = load(tmp_path, 2)
    assert_holds(results, 2, 10)
    states = [replace(state, step=20) for _, state in results]
    together(2, lambda peers: save_checkpoint(tmp_path, states[peers.rank], keep=3, peers=peers, clock=ManualClock()))
    results, _ = load(tmp_path, 3)
    expected = [state_of(rank, 3, 10) for rank in range(3)]
    for (loaded, state), same in zip(results, expected, strict=True):
        assert loaded.step == 20
        assert all(torch.equal(state.parts[name].tensor, same.parts[name].tensor) for name in WHOLE)


def test_sharded_state_loads_into_replicas_and_back(tmp_path):
    save(tmp_path, 3, 10)
    assert_holds(load(tmp_path, 2, sharded=())[0], 2, 10, sharded=())
    save(tmp_path, 2, 20, sharded=())
    assert_holds(load(tmp_path, 3)[0], 3, 20)


def test_replicated_tensors_are_written_once_and_by_different_ranks(tmp_path):
    save(tmp_path, 2, 10, sharded=())
    manifest = files.read_manifest(tmp_path, 10)
    pieces = [piece.shard for name in WHOLE for piece in manifest.tensors[name].pieces]
    assert len(pieces) == len(WHOLE)
    assert set(pieces) == {0, 1}


def test_ranks_get_their_own_state_back_and_new_ones_keep_theirs(tmp_path):
    save(tmp_path, 2, 10)
    results, _ = load(tmp_path, 3)
    assert [state.private["own"].tolist() for _, state in results] == [[0] * 3, [1] * 3, [-1] * 3]


def test_scalars_come_back_exactly(tmp_path):
    save(tmp_path, 1, 10)
    (loaded, _), *_ = load(tmp_path, 1)[0]
    assert loaded.scalars == {"step": 10, "lr": 0.1 + 0.2}


def test_the_layout_on_disk_is_the_documented_one(tmp_path):
    save(tmp_path, 2, 120)
    names = {path.name for path in (tmp_path / "step-00000120").iterdir()}
    assert names == {
        "manifest.json",
        "shard-00000-of-00002.safetensors",
        "shard-00001-of-00002.safetensors",
        "commit-00000-of-00002.json",
        "commit-00001-of-00002.json",
    }
    assert (tmp_path / "latest").read_text().splitlines()[0] == "step-00000120"
    manifest = json.loads((tmp_path / "step-00000120" / "manifest.json").read_text())
    assert manifest["tensors"]["a"]["shape"] == [7, 5]
    assert [len(shard["sha256"]) for shard in manifest["shards"]] == [64, 64]


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path):
    results, refused = load(tmp_path / "absent", 2)
    assert [loaded for loaded, _ in results] == [None, None]
    assert refused == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "file", "why"),
    [
        (flip, "shard-00001-of-00002.safetensors", "is corrupt"),
        (truncate, "shard-00001-of-00002.safetensors", "is torn"),
        (lambda path: path.unlink(), "shard-00000-of-00002.safetensors", "cannot be read"),
        (truncate, "manifest.json", "torn or corrupt"),
        (lambda path: path.write_bytes(b""), "manifest.json", "torn or corrupt"),
        (lambda path: path.unlink(), "manifest.json", "cannot be read"),
        (
            lambda path: path.write_text(path.read_text().replace('"format":2', '"format":1')),
            "manifest.json",
            "its sum",
        ),
        (lambda path: path.write_text(path.read_text().split(',"sum"')[0] + "}"), "manifest.json", "its sum"),
        (
            lambda path: path.write_text(
                path.read_text().split(',"sum"')[0].replace('"format":2', '"format":99') + "}"
            ),
            "manifest.json",
            "format 99",
        ),
        (
            lambda path: path.write_bytes((path.parent.parent / "step-00000010" / path.name).read_bytes()),
            "manifest.json",
            "step 10",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_all_and_the_one_before_is_used(tmp_path, damage, file, why):
    save(tmp_path, 2, 10)
    save(tmp_path, 2, 20)
    damage(tmp_path / "step-00000020" / file)
    results, refused = load(tmp_path, 2)
    assert_holds(results, 2, 10)
    assert {name for name, _ in refused} == {"step-00000020"}
    assert why in refused[0][1]


def test_when_none_can_be_used_all_ranks_say_so(tmp_path):
    save(tmp_path, 2, 10)
    flip(tmp_path / "step-00000010" / "shard-00000-of-00002.safetensors")
    results, _ = load(tmp_path, 2)
    assert [type(error) for error in results] == [CheckpointError] * 2
    assert "none of 1 checkpoints" in str(results[0])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    save(tmp_path, 1, 10)
    other = TrainingState(step=0, parts={"a": part_of(torch.zeros(7, 6))})
    refused = []
    with pytest.raises(CheckpointError):
        load_checkpoint(
            tmp_path, other, peers=Peers(), clock=ManualClock(), on_refused=lambda _, why: refused.append(why)
        )
    assert "another model" in refused[0]


def test_a_save_that_was_cut_short_is_never_chosen_and_goes_with_the_next_one(tmp_path):
    save(tmp_path, 2, 10)
    save(tmp_path, 2, 20)
    (tmp_path / "latest").write_text("step-00000010\n")  # the crash came before the move
    (tmp_path / "step-00000020" / "manifest.json").unlink()  # or even before the manifest
    assert candidates(tmp_path) == (10,)
    assert_holds(load(tmp_path, 2)[0], 2, 10)
    save(tmp_path, 2, 15)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000010", "step-00000015"]


def test_leftovers_of_a_dead_generation_do_not_survive_into_the_same_step(tmp_path):
    stale = tmp_path / "step-00000010"
    stale.mkdir()
    (stale / "commit-00001-of-00002.json").write_text("{}")
    (stale / "shard-00003-of-00004.safetensors").write_text("old")
    save(tmp_path, 2, 10)
    assert not (stale / "shard-00003-of-00004.safetensors").exists()
    assert_holds(load(tmp_path, 2)[0], 2, 10)


@pytest.mark.parametrize("latest", [None, "", "step-", "rubbish\n", b"\xff\xfe"])
def test_without_a_readable_pointer_the_newest_complete_step_is_used(tmp_path, latest):
    save(tmp_path, 1, 10)
    save(tmp_path, 1, 20)
    if latest is None:
        (tmp_path / "latest").unlink()
    else:
        (tmp_path / "latest").write_bytes(latest if isinstance(latest, bytes) else latest.encode())
    assert latest_checkpoint(tmp_path) is None
    assert_holds(load(tmp_path, 1)[0], 1, 20)


def test_retention_keeps_the_newest(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, 1, step, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000015", "step-00000020"]


def test_a_full_disk_on_one_rank_leaves_the_last_checkpoint_and_no_rest(tmp_path, monkeypatch):
    save(tmp_path, 2, 10)
    real = parts.write_shard

    def full(path, blobs):
        if path.name.startswith("shard-00001"):
            raise OSError(28, "No space left on device")
        return real(path, blobs)

    monkeypatch.setattr(parts, "write_shard", full)
    errors = save(tmp_path, 2, 20)
    assert [type(error) for error in errors] == [CheckpointError] * 2
    assert "another rank failed" in str(errors[0])
    assert "No space left" in str(errors[1])
    assert not list(tmp_path.glob("*step-00000020*"))
    assert_holds(load(tmp_path, 2)[0], 2, 10)


def test_a_real_write_that_the_kernel_refuses_is_an_error_not_a_crash(tmp_path):
    save(tmp_path, 1, 10)
    big = TrainingState(step=20, parts={"a": part_of(torch.zeros(1 << 18))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(CheckpointError, match="could not be saved"):
            save_checkpoint(tmp_path, big, keep=3, peers=Peers(), clock=ManualClock())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert latest_checkpoint(tmp_path) == 10
    assert not (tmp_path / "step-00000020").exists()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be saved"):
        save_checkpoint(tmp_path / "file", state_of(0, 1, 5), keep=3, peers=Peers(), clock=ManualClock())


def test_random_generators_go_on_where_they_were():
    random.gauss(0, 1)  # leaves a spare number behind
    np.random.standard_normal()
    before = random_states()
    drawn = random.gauss(0, 1), random.random(), torch.rand(2).tolist(), np.random.standard_normal()
    restore_random_states(before)
    assert drawn == (random.gauss(0, 1), random.random(), torch.rand(2).tolist(), np.random.standard_normal())


def test_no_bit_of_a_record_or_of_the_pointer_flips_unseen(tmp_path):
    save(tmp_path, 1, 10, sharded=())
    target = step_dir(tmp_path, 10)
    for path, read in (
        (target / "manifest.json", records.read_manifest),
        (files.commit_path(target, 0, 1), records.read_commit),
        (tmp_path / "latest", records.read_pointer),
    ):
        whole = path.read_bytes()
        bits = len(whole) * 8
        for bit in (*range(0, bits - 700, 97), *range(max(0, bits - 700), bits, 3)):  # the sum is at the end
            path.write_bytes(bytes(byte ^ (1 << bit % 8) if at == bit // 8 else byte for at, byte in enumerate(whole)))
            try:
                assert read(path) is None
            except CheckpointError:
                continue
        path.write_bytes(whole)
        assert read(path) is not None
