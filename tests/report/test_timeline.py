from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofang.report.recoveries import recoveries
from mofang.report.timeline import Activity, Span, partition, shares, spans

times = st.floats(0, 100, allow_nan=False)
any_spans = st.lists(
    st.builds(
        lambda activity, a, b: Span(activity=activity, start=min(a, b), end=max(a, b)),
        st.sampled_from(list(Activity)),
        times,
        times,
    ),
    max_size=12,
)


@given(any_spans, times, times)
def test_every_second_belongs_to_exactly_one_activity(found, a, b):
    start, end = min(a, b), max(a, b)
    pieces = partition(found, start, end)
    if start == end:
        assert pieces == ()
        return
    assert (pieces[0].start, pieces[-1].end) == (start, end)
    assert all(left.end == right.start and left.activity is not right.activity for left, right in pairwise(pieces))
    assert sum(shares(pieces).values()) == pytest.approx(1.0)


@given(any_spans)
def test_the_activity_of_the_highest_rank_counts(found):
    ranks = list(Activity)
    for piece in partition(found, 0.0, 100.0):
        middle = (piece.start + piece.end) / 2
        if not piece.start < middle < piece.end:
            continue
        there = [span.activity for span in found if span.start <= middle < span.end]
        assert piece.activity is min(there, key=ranks.index, default=Activity.OTHER)


def test_the_time_of_a_job_that_was_killed_once(make_events):
    events = make_events()
    start, end = events[1].time, events[-1].time
    found = shares(partition(spans(events[1:]), start, end))
    recovery = recoveries(events)[0]
    first_step = 0.14 * 2.5
    expected = (recovery.seconds - first_step) / (end - start)
    assert found[Activity.RECOVERY] == pytest.approx(expected, abs=0.002)
    assert found[Activity.COMPUTE] > 0.75
    assert found[Activity.CHECKPOINT] == pytest.approx(10 * 0.12 / (end - start), rel=0.01)
    assert found[Activity.REDONE] == pytest.approx(18.5 * 0.14 / (end - start), rel=0.15)


def test_a_job_without_faults_spends_no_time_on_recovery(make_events):
    events = make_events(fault=False)[1:]
    found = shares(partition(spans(events), events[0].time, events[-1].time))
    assert Activity.RECOVERY not in found
    assert Activity.REDONE not in found


def test_a_program_without_steps_computes_while_it_lives(make_events):
    events = [event for event in make_events()[1:] if event.source in {"control", "agent-00"}]
    found = shares(partition(spans(events), events[0].time, events[-1].time))
    assert found[Activity.COMPUTE] > 0.98
    assert found[Activity.RECOVERY] == pytest.approx(0.45 / (events[-1].time - events[0].time), rel=0.1)


def test_no_events_no_spans():
    assert spans([]) == ()
    assert shares(partition([], 0.0, 0.0)) == {}
