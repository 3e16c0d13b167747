"""Partners: copies lie in other failure domains, evenly, and the loss of a node moves no more than it must."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.recovery.replica.partners import Keeper, Partners

clusters = st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=1, max_size=24)
copies = st.integers(1, 3)
PROPERTY = settings(max_examples=200, deadline=None)


def fails_with(domains, one, other):
    return one == other or (domains[one] != "" and domains[one] == domains[other])


def chosen(domains, num_copies, alive=None):
    partners = Partners(domains)
    living = set(range(len(domains))) if alive is None else alive
    return {owner: partners.keepers(owner, num_copies, living) for owner in range(len(domains))}


@PROPERTY
@given(clusters, copies, st.data())
def test_never_in_the_same_domain_unless_there_is_no_other_and_then_it_is_said(domains, num_copies, data):
    nodes = range(len(domains))
    alive = data.draw(st.sets(st.sampled_from(nodes)))
    for owner, keepers in chosen(domains, num_copies, alive).items():
        apart = {node for node in alive if not fails_with(domains, owner, node)}
        others = apart or alive - {owner}
        assert len(keepers) == min(num_copies, len(others))
        assert len({keeper.node for keeper in keepers}) == len(keepers)
        assert {keeper.node for keeper in keepers} <= others
        assert all(keeper.apart == bool(apart) for keeper in keepers)


@PROPERTY
@given(clusters)
def test_everybody_keeps_equally_much_where_the_domains_allow_it(domains):
    load = Counter(keeper.node for keepers in chosen(domains, 1).values() for keeper in keepers)
    largest = max(Counter(domain or node for node, domain in enumerate(domains)).values())
    others = len(domains) - largest
    most = 1 if largest <= others or others == 0 else -(-largest // others)
    assert max(load.values(), default=0) <= most


@PROPERTY
@given(clusters, copies, st.data())
def test_a_lost_node_moves_only_the_copies_that_it_kept(domains, num_copies, data):
    lost = data.draw(st.integers(0, len(domains) - 1))
    before = chosen(domains, num_copies)
    after = chosen(domains, num_copies, set(range(len(domains))) - {lost})
    for owner in range(len(domains)):
        stayed = [keeper.node for keeper in before[owner] if keeper.node != lost]
        if len(stayed) == len(before[owner]):
            assert before[owner] == after[owner]
        elif before[owner][0].apart and after[owner] and after[owner][0].apart:
            assert set(stayed) <= {keeper.node for keeper in after[owner]}


@PROPERTY
@given(clusters, st.integers(1, 5))
def test_every_node_works_out_alone_whom_it_may_have_to_serve(domains, depth):
    partners = Partners(domains)
    for keeper in range(len(domains)):
        for owner, before in partners.candidates(keeper, depth):
            assert partners.order(owner)[len(before)] == keeper
            assert partners.order(owner)[: len(before)] == before
    pairs = sum(len(partners.candidates(keeper, depth)) for keeper in range(len(domains)))
    assert pairs == len(domains) * min(depth, len(domains) - 1)


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        (["", ""], [1, 0]),
        (["r1", "r1", "r2", "r2"], [2, 3, 0, 1]),
        (["r1", "r2", "r1", "r2"], [1, 0, 3, 2]),
        (["r1", "r1", "r1", "r2"], [3, 3, 3, 0]),
    ],
)
def test_small_clusters(domains, expected):
    assert [keepers[0].node for keepers in chosen(domains, 1).values()] == expected


def test_second_copies_go_to_a_third_domain_where_there_is_one():
    domains = ["a", "a", "b", "b", "c", "c"]
    for owner, keepers in chosen(domains, 2).items():
        assert {domains[owner], *(domains[keeper.node] for keeper in keepers)} == {"a", "b", "c"}


def test_one_domain_for_all_still_means_another_node():
    assert chosen(["a", "a"], 1) == {0: (Keeper(node=1, apart=False),), 1: (Keeper(node=0, apart=False),)}


def test_a_node_alone_has_nobody():
    assert chosen([""], 2) == {0: ()}
