"""Snapshots and copies over a slow link: whenever a node is lost, its peer has a step that the others have too."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import SystemClock
from mofang.recovery.checkpoint.state import TrainingState, part_of
from mofang.recovery.replica.kept import note_kept
from mofang.recovery.replica.lag import Lag
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.snapshot.arena import Record
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.past import forget_later
from mofang.recovery.snapshot.place import Place

PREFIX = "mofang.job.1."


class Hand:
    """A clock that is set by hand."""

    now_s = 0.0

    def monotonic(self):
        return self.now_s


def record(step, fence=2):
    return Record(step=step, fence=fence, length=1000, sum=1)


def test_the_older_slot_waits_for_the_copy_of_the_newer_one(tmp_path):
    clock = Hand()
    lag = Lag(tmp_path, PREFIX, 0, ranks=1, copies=1, fence=2, clock=clock, patience_s=5.0)
    assert lag.free({0: record(1)}) == (True, False)  # the other slot is empty
    assert lag.free({0: record(2, fence=1), 1: record(1, fence=1)}) == (True, True)
    both = {1: record(2), 0: record(1)}
    assert lag.free(both) == (False, False)
    note_kept(tmp_path, PREFIX, 0, 1, (2, 1))
    assert lag.free(both) == (False, False)
    note_kept(tmp_path, PREFIX, 0, 1, (2, 2))
    assert lag.free(both) == (True, True)
    later = {0: record(3), 1: record(2)}
    assert lag.free(later) == (False, False)
    clock.now_s = 10.0
    assert lag.free(later) == (False, True)  # what the peer has stays


def test_copies_of_a_past_that_was_left_do_not_count(tmp_path):
    lag = Lag(tmp_path, PREFIX, 0, ranks=1, copies=1, fence=2, clock=Hand())
    note_kept(tmp_path, PREFIX, 0, 1, (2, 100))
    assert lag.free({1: record(85), 0: record(80)}) == (False, False)
    lag.forget()
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(events=st.lists(st.sampled_from(["take", "copy", "disk"]), max_size=60))
def test_a_rank_and_its_copies_always_have_a_step_in_common(events, tmp_path_factory):
    """Two slots on either side; a copy takes effect at the end of it, and its slot is void from its beginning."""
    folder = tmp_path_factory.mktemp("lag")
    lag = Lag(folder, PREFIX, 0, ranks=1, copies=1, fence=2, clock=Hand(), patience_s=1e9)
    own, kept, step, disk = {}, [], 0, None
    for event in events:
        order = sorted(own, key=lambda slot: own[slot].step)
        if event == "take":
            older, newer = lag.free({slot: own[slot] for slot in reversed(order)})
            spots = [slot for slot in (0, 1) if slot not in own] or [
                slot for slot, free in zip(order, (older, newer), strict=True) if free and slot != disk
            ]
            if spots:
                own.pop(spots[0], None)
                assert not kept or {item.step for item in own.values()} & set(kept)
                step += 1
                own[spots[0]] = record(step)
        elif event == "disk":
            disk = order[0] if disk is None and order else None
        elif own and step not in kept:
            shared = [item for item in kept if item in {held.step for held in own.values()}]
            kept = [max(shared or kept), step] if kept else [step]
            note_kept(folder, PREFIX, 0, 1, (2, step))
        assert not kept or {item.step for item in own.values()} & set(kept)


def test_stale_copies_are_dropped_after_a_reload_from_the_disk(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    first.commit(0, 100, noise(1, 5000), fence=1)
    wait_until(lambda: second.steps(0) == [100])
    first.lose()
    place = Place(prefix=PREFIX, rank=1, world_size=2, ranks_of_node=(1,), folder=second.folder)
    forget_later(place, 60, None)
    assert second.steps(0) == []


@pytest.mark.serial
def test_over_a_slow_link_a_lost_node_always_leaves_a_common_step(cluster):
    nodes = cluster(("", ""), rate=4e6)
    state = [{"w": torch.full((100_000,), float(rank))} for rank in (0, 1)]
    places = [
        Place(prefix=PREFIX, rank=rank, world_size=2, ranks_of_node=(rank,), folder=node.folder)
        for rank, node in enumerate(nodes)
    ]
    tiers = [MemoryTier(place, fence=2, clock=SystemClock(), replicas=1) for place in places]
    shelves = [Shelf(node.folder, PREFIX) for node in nodes]

    def of(step, rank):
        return TrainingState(step=step, parts={name: part_of(tensor) for name, tensor in state[rank].items()})

    for rank, tier in enumerate(tiers):
        tier.prepare(of(0, rank))
    taken, seen, worst, until = [], 0, 0, time.monotonic() + 4.0
    step = 0
    while time.monotonic() < until:
        step += 1
        votes = [sum(column) for column in zip(*(tier.ballot() for tier in tiers), strict=True)]
        turn = tiers[0].choose(votes)
        if turn is not None:
            for rank, tier in enumerate(tiers):
                tier.take(of(step, rank), turn)
            taken.append(step)
        for rank, shelf in enumerate(shelves):  # the other node is lost now
            kept = [item.record.step for item in shelf.holdings() if item.kind == "replica"]
            own = [item.record.step for item in shelf.holdings() if (item.kind, item.rank) == ("snapshot", rank)]
            if kept:
                seen += 1
                assert set(kept) & set(own), (kept, own)
                worst = max(worst, sum(other > max(set(kept) & set(own)) for other in taken))
        time.sleep(0.003)
    for tier in tiers:
        tier.close()
    assert seen > 100
    assert len(taken) >= 5
    assert worst <= 2
