"""Servers as real processes: copies reach the partner, a newcomer gets the same bytes back, nothing is ever wrong."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mofang.clock import seeded
from mofang.recovery.processes import find
from mofang.recovery.replica.kept import replicated
from mofang.recovery.snapshot.offers import Offer

pytestmark = pytest.mark.serial

MB = 1 << 20


def test_a_newcomer_gets_the_bytes_of_the_lost_node_from_its_peer(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    parts = {rank: noise(rank, 3 * MB + 17 + rank) for rank in (0, 1)}
    for rank, data in parts.items():
        first.commit(rank, 10, data)
    wait_until(lambda: all(second.steps(rank) == [10] for rank in parts))
    first.lose()
    newcomer = first.start()
    seen = []
    client = newcomer.client(progress=lambda offer, done, total: seen.append((offer.rank, done, total)))
    offers = list(client.offers())
    assert offers == [Offer(rank=rank, fence=1, step=10) for rank in parts]
    assert client.bring_all(offers)
    assert {rank: newcomer.data(rank, 10) for rank in parts} == parts
    assert {(rank, len(data), len(data)) for rank, data in parts.items()} <= set(seen)


def test_only_the_newest_step_that_all_ranks_have_is_copied_and_the_whole_one_stays(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    for rank in (0, 1):
        first.commit(rank, 10, noise(rank, 5000))
    wait_until(lambda: second.steps(0) == second.steps(1) == [10])
    for step in (20, 30):
        first.commit(0, step, noise(step, 5000))
    first.commit(1, 20, noise(20, 5000))
    wait_until(lambda: second.steps(1) == [10, 20])
    assert second.steps(0) == [10, 20]
    first.commit(1, 30, noise(30, 5000))
    wait_until(lambda: second.steps(0) == second.steps(1) == [20, 30])


def test_the_owner_learns_how_far_its_copies_are(cluster, wait_until, noise):
    first, *_ = cluster(("", "", ""), copies=2)
    assert replicated(first.folder, "mofang.job.1.", 0) is None
    first.commit(0, 10, noise(0, 5000), fence=7)
    wait_until(lambda: replicated(first.folder, "mofang.job.1.", 0, copies=2) == (7, 10))
    assert replicated(first.folder, "mofang.job.1.", 0, copies=3) is None


def test_what_the_owner_rolled_back_is_dropped_on_the_peer(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    for step in (10, 20, 30):
        first.commit(0, step, noise(step, 5000))
        wait_until(lambda step=step: step in second.steps(0))
    first.lose()
    first.commit(0, 20, noise(20, 5000))
    first.start()
    wait_until(lambda: second.steps(0) == [20])
    first.commit(0, 25, noise(25, 5000), fence=2)
    wait_until(lambda: second.steps(0) == [20, 25])


def test_a_larger_state_gets_a_larger_arena(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    first.commit(0, 10, noise(1, 5000))
    wait_until(lambda: second.steps(0) == [10])
    (first.folder / "mofang.job.1.snapshot.r0000").unlink()
    first.commit(0, 20, larger := noise(2, 50_000))
    wait_until(lambda: second.steps(0) == [20])
    assert second.data(0, 20) == larger


def test_the_next_node_in_order_steps_in_for_a_dead_keeper_and_lets_go_later(cluster, wait_until, noise):
    first, second, third = cluster(("a", "b", "c"))
    first.commit(0, 10, noise(1, 5000))
    wait_until(lambda: second.steps(0) == [10])
    assert third.steps(0) == []
    second.kill()
    wait_until(lambda: third.steps(0) == [10])
    second.start()
    for step in (20, 30, 40):
        for rank, node in enumerate((first, second, third)):
            node.commit(rank, step, noise(step, 5000))
        wait_until(lambda step=step: step in second.steps(0))
    wait_until(lambda: third.steps(0) == [])
    assert second.steps(0) == [30, 40]


def test_a_server_that_was_killed_finds_its_copies_again(cluster, wait_until, noise):
    first, second = cluster(("", ""))
    first.commit(0, 10, data := noise(1, 5000))
    wait_until(lambda: second.steps(0) == [10])
    first.lose()
    os.kill(second.server.process.pid, signal.SIGKILL)
    wait_until(lambda: not second.server.is_alive)
    second.kill()
    second.start()
    first.start()
    assert first.client().bring(Offer(rank=0, fence=1, step=10))
    assert first.data(0, 10) == data


def test_a_source_that_is_corrupt_is_never_taken_and_the_next_one_is_asked(cluster, wait_until, noise):
    first, second, third = cluster(("", "", ""), copies=2)
    first.commit(0, 10, data := noise(1, 5000))
    wait_until(lambda: second.steps(0) == third.steps(0) == [10])
    first.lose()
    arena, index, _ = second.shelf.find(0, (1, 10))
    arena.slot(index)[77] ^= 1
    first.start()
    assert first.client().bring(Offer(rank=0, fence=1, step=10))
    assert first.data(0, 10) == data


def test_a_step_that_nobody_has_is_not_brought(cluster, noise):
    first, second = cluster(("", ""))
    second.commit(1, 10, noise(1, 5000))
    assert not first.client().bring(Offer(rank=1, fence=1, step=11))
    assert first.shelf.holdings() == []


def test_the_server_ends_with_whoever_started_it(cluster, wait_until):
    (node,) = cluster(("",))
    process = node.server.process
    node.server._running.stdin.close()
    wait_until(lambda: find(process.pid) != process)


def test_the_rate_is_held_within_a_fifth(cluster, wait_until, noise):
    rate = 16 * MB
    first, second = cluster(("", ""), rate=float(rate))
    data = [noise(step, 16 * MB) for step in (0, 1, 2)]
    for step in (0, 1):  # both slots of both arenas have been touched
        first.commit(0, step, data[step])
        wait_until(lambda step=step: step in second.steps(0))
    began = time.monotonic()
    first.commit(0, 2, data[2])
    wait_until(lambda: 2 in second.steps(0))
    assert time.monotonic() - began == pytest.approx(1.0, abs=0.2)


def test_no_copy_is_ever_wrong_while_servers_are_killed_and_snapshots_go_on(cluster, wait_until, noise):
    """Slots are reused under the copies' feet, servers die in the middle of them; what verifies is true."""
    nodes = cluster(("", "", ""))
    chance, truth = seeded(5), {}
    checked = 0
    for step in range(1, 13):
        for rank, node in enumerate(nodes):
            data = noise(1000 * rank + step, chance.choice((40_000, 4 * MB)))
            truth[rank, step] = data
            if step == 1:
                node.commit(rank, 0, b"\0" * 4 * MB)
                truth[rank, 0] = b"\0" * 4 * MB
            node.commit(rank, step, data)
        time.sleep(chance.random() * 0.05)
        victim = chance.choice(nodes)
        os.kill(victim.server.process.pid, signal.SIGKILL)
        victim.kill()
        for node in nodes:
            checked += check(node, truth)
        victim.start()
    for rank, node in enumerate(nodes):
        wait_until(lambda rank=rank, node=node: any(12 in other.steps(rank) for other in nodes if other is not node))
    checked += sum(check(node, truth) for node in nodes)
    assert checked > 12


def check(node, truth):
    """Verify every replica the way a restore does: the sum, and that the record still stands afterwards."""
    verified = 0
    for item in node.shelf.holdings():
        if item.kind != "replica":
            continue
        found = node.shelf.find(item.rank, (1, item.record.step), item.record.sum)
        if found is None:
            continue
        arena, index, record = found
        data = bytes(arena.slot(index)[: record.length])
        if arena.record(index) == record and arena.path.exists():
            assert data == truth[item.rank, record.step]
            verified += 1
    return verified
