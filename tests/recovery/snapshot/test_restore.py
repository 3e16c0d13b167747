"""What was in memory comes back into any layout, byte for byte, and nothing that is not whole ever does."""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.layout import read_slot
from mofang.recovery.snapshot.restore import Offer

from .conftest import WHOLE, Job, assert_holds


def flip(path, slot, place=-1):
    arena = Arena.open(path)
    length = arena.record(slot).length
    arena.slot(slot)[place % length] ^= 1


def slot_of(path, step):
    return next(index for index, record in Arena.open(path).records().items() if record.step == step)


@pytest.mark.parametrize("sharded", [(), ("a", "b", "c")])
def test_the_newest_snapshot_comes_back_with_everything(job, sharded):
    job.snapshot([2], [5, 6, 7], sharded=sharded)
    results, refused = job.restore([2], sharded=sharded)
    assert refused == []
    assert_holds(results, 7, sharded=sharded)
    for rank, (loaded, _) in enumerate(results):
        assert loaded.tier == "memory"
        assert (loaded.fence, loaded.world_size) == (1, 2)
        assert loaded.scalars == {"step": 7, "lr": 0.1 + 0.2}
        assert loaded.private["random"].tolist() == [700 + rank] * 3
        assert loaded.own == ({"position": [7, 0]}, {"position": [7, 1]})


def test_without_snapshots_there_is_nothing(job):
    results, refused = job.restore([2])
    assert [loaded for loaded, _ in results] == [None, None]
    assert refused == []


def test_nodes_hold_one_whole_copy_of_what_is_replicated(job):
    job.snapshot([2, 2], [1], sharded=())
    for node, ranks in ((0, (0, 1)), (1, (2, 3))):
        names = []
        for rank in ranks:
            arena = Arena.open(job.folder / f"node-{node}" / f"mofang.job.1.snapshot.r{rank:04d}")
            image = read_slot(arena.slot(0)[: arena.record(0).length])
            names += [name for name, box in image.plan.boxes.items() if box.replicated]
        assert sorted(names) == sorted(WHOLE)


@settings(max_examples=15, deadline=None)
@given(
    layouts=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    sharded=st.lists(st.sets(st.sampled_from(sorted(WHOLE)[:3])).map(tuple), min_size=4, max_size=4),
)
def test_any_layout_takes_over_from_any_other(tmp_path_factory, layouts, sharded):
    job = Job(tmp_path_factory.mktemp("job"))
    step = 0
    for fence, (size, names) in enumerate(zip(layouts, sharded, strict=False), start=1):
        if step:
            results, refused = job.restore([size], sharded=names)
            assert refused == []
            assert_holds(results, step, sharded=names)
        job.snapshot([size], [step + 1, step + 2, step + 3], fence, sharded=names)
        step += 3
        kept = sorted(path.name[-5:] for path in (job.folder / "node-0").iterdir())
        assert kept == [f"r{rank:04d}" for rank in range(size)]  # those of ranks that are no more are gone


def test_a_rank_that_was_not_there_keeps_its_own_random_state(job):
    job.snapshot([2], [3])
    results, _ = job.restore([3])
    assert [bool(loaded.private) for loaded, _ in results] == [True, True, False]
    assert results[2][0].own == ({"position": [3, 0]}, {"position": [3, 1]})


def test_a_step_that_one_node_has_not_is_not_chosen(job):
    job.snapshot([1, 1], [4, 5])
    flip_to_nothing = Arena.open(job.place(1, [1, 1]).snapshot(1))
    flip_to_nothing.invalidate(slot_of(job.place(1, [1, 1]).snapshot(1), 5))
    results, refused = job.restore([1, 1])
    assert refused == []
    assert_holds(results, 4)


def test_a_later_generation_wins_whatever_its_step(job):
    job.snapshot([2], [8, 9])
    job.snapshot([2], [7], fence=2, forget=(6, 1))
    assert_holds(job.restore([2])[0], 7)


@pytest.mark.parametrize("place", [0, 20, 300_000, -1])
def test_a_flipped_bit_is_seen_by_all_and_the_snapshot_before_is_used(job, place):
    job.snapshot([2], [5, 6])
    path = job.place(1, [2]).snapshot(1)
    flip(path, slot_of(path, 6), place)
    results, refused = job.restore([2])
    assert_holds(results, 5)
    assert {name for name, _ in refused} <= {path.name, job.place(0, [2]).snapshot(0).name}
    assert any("step 6" in why or "cannot be read" in why for _, why in refused)


def test_when_both_are_corrupt_there_is_nothing(job):
    job.snapshot([2], [5, 6])
    for slot in (0, 1):
        flip(job.place(1, [2]).snapshot(1), slot)
    results, refused = job.restore([2])
    assert [loaded for loaded, _ in results] == [None, None]
    assert len(refused) == 2


def test_a_lost_part_means_another_snapshot_or_none(job):
    job.snapshot([2], [5, 6])
    job.place(1, [2]).snapshot(1).unlink()
    assert [loaded for loaded, _ in job.restore([2])[0]] == [None, None]


def test_snapshots_of_earlier_steps_than_the_disk_has_are_left(job):
    job.snapshot([2], [5, 6])
    assert_holds(job.restore([2], from_step=6)[0], 6)
    assert [loaded for loaded, _ in job.restore([2], from_step=7)[0]] == [None, None]


def test_a_snapshot_of_another_model_is_not_used(job):
    job.snapshot([1], [5])
    arena = Arena.open(job.place(0, [1]).snapshot(0))
    results, _ = job.restore([1])
    loaded, state = results[0]
    assert loaded is not None
    state.parts.pop("d")
    from mofang.clock import SystemClock  # noqa: PLC0415
    from mofang.recovery.checkpoint.peers import Peers  # noqa: PLC0415
    from mofang.recovery.snapshot.restore import restore  # noqa: PLC0415

    refused = []
    again = restore(
        job.place(0, [1]), state, peers=Peers(), clock=SystemClock(), on_refused=lambda *words: refused.append(words)
    )
    assert again is None
    assert arena.records()


class Neighbour:
    """Brings copies of arenas from a folder, as another node's server would."""

    def __init__(self, source, place, *, silent=()):
        self.source, self.place, self.silent, self.brought = source, place, silent, []

    def offers(self):
        for path in sorted(self.source.glob("*snapshot.r*")):
            for record in Arena.open(path).records().values():
                yield Offer(rank=int(path.name[-4:]), fence=record.fence, step=record.step)

    def bring(self, offer):
        self.brought.append(offer.rank)
        if offer.rank in self.silent:
            return False
        target = self.place.replica(offer.rank)
        draft = target.with_name(f"{target.name}.{self.place.rank}.draft")
        shutil.copy(self.source / f"mofang.job.1.snapshot.r{offer.rank:04d}", draft)
        draft.replace(target)
        return True


@pytest.mark.parametrize("sharded", [(), ("a", "b", "c")])
def test_a_newcomer_s_ranks_get_their_parts_from_a_peer(job, tmp_path, sharded):
    job.snapshot([2, 2], [5, 6], sharded=sharded)
    copies = tmp_path / "copies"
    (job.folder / "node-1").rename(copies)
    neighbours = []

    def fetch(place):
        neighbours.append(Neighbour(copies, place))
        return neighbours[-1]

    results, refused = job.restore([2, 2], sharded=sharded, fetch=fetch)
    assert refused == []
    assert_holds(results, 6, sharded=sharded)
    assert [loaded.tier for loaded, _ in results] == ["peer"] * 4
    assert sorted(rank for neighbour in neighbours for rank in neighbour.brought) == [2, 3]
    assert [loaded.private["random"].tolist() for loaded, _ in results] == [[600 + rank] * 3 for rank in range(4)]


def test_a_part_that_no_peer_can_bring_means_nothing_is_used(job, tmp_path):
    job.snapshot([1, 1], [5, 6])
    copies = tmp_path / "copies"
    (job.folder / "node-1").rename(copies)
    results, refused = job.restore([1, 1], fetch=lambda place: Neighbour(copies, place, silent=(1,)))
    assert [loaded for loaded, _ in results] == [None, None]
    assert all("step" in why for _, why in refused)


def test_other_numbers_of_nodes_share_what_each_has(job):
    """Two nodes of two ranks become one of two: what is cut needs the parts of the node that is gone."""
    job.snapshot([2, 2], [5])
    copies = job.folder / "node-1"
    results, _ = job.restore([2], fetch=lambda place: Neighbour(copies, place))
    assert_holds(results, 5)
    assert torch.equal(results[0][1].parts["a"].tensor, (WHOLE["a"] + 5)[:4])
