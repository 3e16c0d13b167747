import json
import threading

import pytest
import torch

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.checkpoint.state import TrainingState

WHOLE = {
    "w": torch.arange(24.0).reshape(6, 4),
    "v": torch.arange(7).to(torch.bfloat16),
    "n": torch.tensor(5, dtype=torch.int64),
    "e": torch.arange(10, dtype=torch.float64),
}


def state_of(ranks, rank, world_size, step, *, sharded=False):
    tensors = {name: tensor + step for name, tensor in WHOLE.items()}
    boxes = {}
    if sharded:
        rows = 6 // world_size
        boxes["w"] = ((rank * rows, 0), (rows, 4))
    private = {"random": torch.full((3 + rank,), rank + step)}
    return TrainingState(
        step=step,
        parts=ranks.cut_boxes(tensors, boxes),
        private=private,
        scalars={"lr": 0.1 + 0.2, "step": step},
        own={"position": 100 * rank + step},
    )


class Job:
    """Some ranks, each with an arena and a saver."""

    def __init__(self, ranks, directory, shm, world_size, *, ranks_of_node=None, run=1, **how):
        self.ranks, self.directory, self.shm, self.world_size = ranks, directory, shm, world_size
        self.ranks_of_node = ranks_of_node or world_size
        nodes = world_size // self.ranks_of_node
        self.told = [ranks.Told() for _ in range(world_size)]
        self.savers = [
            ranks.saver_of(
                directory,
                rank,
                self.told[rank],
                run=run,
                share=Share(copy=rank // self.ranks_of_node, copies=nodes),
                **how,
            )
            for rank in range(world_size)
        ]

    def slot(self, rank, step, **how):
        state = state_of(self.ranks, rank, self.world_size, step, **how)
        path = self.shm / f"snapshot.r{rank:04d}"
        found = self.ranks.put_in_slot(path, state, rank, self.world_size, ranks_of_node=self.ranks_of_node)
        return self.told[rank].slot(*found)

    def save(self, step, *, only=None, **how):
        slots = {rank: self.slot(rank, step, **how) for rank in range(self.world_size)}
        for rank in range(self.world_size) if only is None else only:
            self.savers[rank].submit(slots[rank])
        return [self.savers[rank].flush(20) for rank in (range(self.world_size) if only is None else only)]

    def close(self):
        for saver in self.savers:
            saver.close(20)


@pytest.fixture
def job(ranks, tmp_path):
    made = []

    def make(world_size=2, **how):
        (tmp_path / "shm").mkdir(exist_ok=True)
        made.append(Job(ranks, tmp_path / "ckpt", tmp_path / "shm", world_size, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def assert_loads(ranks, directory, step, world_size=2, **how):
    states = [ranks.blank(state_of(ranks, rank, world_size, step, **how)) for rank in range(world_size)]
    results, refused = ranks.load_all(directory, states)
    assert [loaded.step for loaded in results] == [step] * world_size
    for rank, state in enumerate(states):
        assert ranks.same(state, state_of(ranks, rank, world_size, step, **how))
    return results, refused


@pytest.mark.parametrize("sharded", [False, True])
def test_slots_become_a_checkpoint(ranks, job, tmp_path, sharded):
    two = job()
    assert two.save(10, sharded=sharded) == [True, True]
    size = sum(path.stat().st_size for path in (tmp_path / "ckpt/step-00000010").glob("shard-*"))
    assert two.told[0].saved == [(10, size)]
    assert [told.released for told in two.told] == [1, 1]
    results, refused = assert_loads(ranks, tmp_path / "ckpt", 10, sharded=sharded)
    assert refused == []
    assert results[0].scalars == {"lr": 0.1 + 0.2, "step": 10}
    assert [loaded.private["random"].tolist() for loaded in results] == [[10] * 3, [11] * 4]
    assert results[1].own == ({"position": 10}, {"position": 110})
    assert (results[0].world_size, results[0].tier) == (2, "disk")


def test_nodes_that_hold_the_same_tensors_divide_the_writing(ranks, job, tmp_path):
    four = job(4, ranks_of_node=2)
    assert all(four.save(10))
    commits = [json.loads(path.read_text()) for path in sorted((tmp_path / "ckpt/step-00000010").glob("commit-*"))]
    written = [name for commit in commits for name in commit["tensors"] if not name.startswith("rank-")]
    assert sorted(written) == sorted(WHOLE)
    assert_loads(ranks, tmp_path / "ckpt", 10, world_size=4)


def test_nodes_of_different_sizes_leave_it_to_the_first(ranks):
    peers = [ranks.ThreadPeers(rank, 3, (threading.Barrier(3), [None] * 3)) for rank in range(3)]
    shared = peers[0].barrier, peers[0].values
    sizes = (2, 2, 1)
    for peer in peers:
        peer.barrier, peer.values = shared
    found = ranks.together(3, lambda p: Share.agree(p, p.rank // 2, 2, sizes[p.rank]))
    assert found == [Share(copy=0, copies=1), Share(copy=0, copies=1), Share(copy=1, copies=1)]
    assert ranks.together(4, lambda p: Share.agree(p, p.rank // 2, 2, 2))[3] == Share(copy=1, copies=2)


def test_later_steps_replace_earlier_ones(ranks, job, tmp_path):
    two = job(keep=2)
    for step in (10, 20, 30):
        assert two.save(step) == [True, True]
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == [
        ".run", "latest", "step-00000020", "step-00000030",
    ]  # fmt: skip
    assert_loads(ranks, tmp_path / "ckpt", 30)


def test_a_rank_that_does_not_come_is_waited_for_and_then_told(ranks, job, tmp_path):
    two = job(patience_s=0.2)
    two.save(10)
    assert two.save(20, only=[0]) == [False]
    ((step, why),) = two.told[0].failed
    assert step == 20
    assert "rank 1" in why
    assert not list((tmp_path / "ckpt").glob("*20*"))
    assert_loads(ranks, tmp_path / "ckpt", 10)
    assert two.save(30) == [True, True]


@pytest.mark.parametrize("broken", [0, 1])
def test_one_full_disk_is_told_once_and_the_next_step_is_saved(ranks, job, tmp_path, monkeypatch, broken):
    two = job()
    two.save(10)
    real = parts.write_shard

    def full(path, blobs):
        if path.name.startswith(f"shard-{broken:05d}"):
            raise OSError(28, "No space left on device")
        return real(path, blobs)

    monkeypatch.setattr(parts, "write_shard", full)
    assert two.save(20)[0] is False
    monkeypatch.undo()
    assert [step for step, _ in two.told[0].failed] == [20]
    assert "No space left" in two.told[0].failed[0][1]
    assert two.told[1].failed == []
    assert [told.released for told in two.told] == [2, 2]
    assert_loads(ranks, tmp_path / "ckpt", 10)
    assert two.save(30) == [True, True]
    assert_loads(ranks, tmp_path / "ckpt", 30)


def test_what_a_dead_generation_left_is_neither_used_nor_kept(ranks, job, tmp_path):
    old = job(run=1)
    old.save(10)
    old.savers[1].submit(old.slot(1, 20))
    assert old.savers[1].flush(20)  # rank 1 has committed its part, rank 0 never will
    assert list((tmp_path / "ckpt").glob(".step-00000020.1.draft/commit-00001*"))
    assert_loads(ranks, tmp_path / "ckpt", 10)
    new = job(run=2, patience_s=0.2)
    assert new.save(20, only=[0]) == [False]  # the old rank's commit does not count for the new generation
    assert not list((tmp_path / "ckpt").glob(".step*"))
    assert new.save(20) == [True, True]
    assert_loads(ranks, tmp_path / "ckpt", 20)


def test_a_generation_that_was_replaced_completes_nothing(ranks, job, tmp_path):
    old, new = job(run=1), job(run=2)
    old.save(10)
    new.save(20)
    assert old.save(30)[0] is False
    assert "taken over" in old.told[0].failed[0][1]
    assert files.latest_checkpoint(tmp_path / "ckpt") == 20


@pytest.mark.parametrize("damage", ["flip", "overwrite", "empty"])
def test_a_slot_that_is_not_as_it_was_committed_is_not_written_out(job, tmp_path, damage):
    two = job()
    two.save(10)
    slots = [two.slot(rank, 20) for rank in range(2)]
    if damage == "flip":
        slots[0].arena.slot(0)[slots[0].record.length - 1] ^= 1
    elif damage == "overwrite":
        two.slot(0, 25)
    else:
        slots[0].arena.invalidate(0)
    for saver, slot in zip(two.savers, slots, strict=True):
        saver.submit(slot)
    assert not two.savers[0].flush(20)
    assert files.latest_checkpoint(tmp_path / "ckpt") == 10
    assert [step for step, _ in two.told[0].failed] == [20]
    assert two.told[0].released == 2


def test_a_slot_overwritten_while_it_is_written_out_is_noticed(job, monkeypatch):
    one = job(1)
    slot = one.slot(0, 20)
    real = parts.write_contribution

    def slow(target, part):
        written = real(target, part)
        slot.arena.invalidate(0)
        return written

    monkeypatch.setattr(parts, "write_contribution", slow)
    one.savers[0].submit(slot)
    assert not one.savers[0].flush(20)
    assert "while it was written" in one.told[0].failed[0][1]


def test_the_slot_is_free_again_before_the_others_have_written_theirs(job):
    two = job()
    slots = [two.slot(rank, 10) for rank in range(2)]
    two.savers[0].submit(slots[0])
    assert two.told[0].let_go.wait(10)
    assert not two.savers[0].idle
    assert not two.savers[0].flush(0.05)
    two.savers[1].submit(slots[1])
    assert two.savers[0].flush(20)
    assert two.savers[0].idle


def test_a_saver_that_was_closed_ends_its_thread(job):
    one = job(1)
    one.savers[0].submit(one.slot(0, 10))
    assert one.savers[0].close(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "mofang-checkpoint"]
    one.savers[0].submit(one.slot(0, 20))  # and it starts again where it is needed
    assert one.savers[0].close(20)
    assert [step for step, _ in one.told[0].saved] == [10, 20]


def test_boxes_that_several_ranks_hold_are_read_once(ranks, tmp_path, job):
    """Hybrid sharding: ranks 0 and 2 hold the same rows, as do 1 and 3."""
    four = job(4)
    for rank in range(4):
        parts = ranks.cut_boxes({"w": WHOLE["w"]}, {"w": ((rank % 2 * 3, 0), (3, 4))})
        state = TrainingState(step=10, parts=parts)
        found = ranks.put_in_slot(tmp_path / f"hsdp{rank}", state, rank, 4)
        four.savers[rank].submit(four.told[rank].slot(*found))
    assert [saver.flush(20) for saver in four.savers] == [True] * 4
    assert len(files.read_manifest(tmp_path / "ckpt", 10).tensors["w"].pieces) == 2
    whole = TrainingState(step=0, parts=ranks.cut_boxes({"w": torch.zeros(6, 4)}, {}))
    ranks.load_all(tmp_path / "ckpt", [whole])
    assert torch.equal(whole.parts["w"].tensor, WHOLE["w"])


def test_parts_that_leave_a_hole_make_no_checkpoint(job, ranks, tmp_path):
    one = job(1)
    state = TrainingState(step=10, parts=ranks.cut_boxes({"w": WHOLE["w"]}, {"w": ((0, 0), (3, 4))}))
    one.savers[0].submit(one.told[0].slot(*ranks.put_in_slot(tmp_path / "hole", state, 0, 1)))
    assert not one.savers[0].flush(20)
    assert "do not tile" in one.told[0].failed[0][1]
    with pytest.raises(CheckpointError):
        files.read_manifest(tmp_path / "ckpt", 10)
