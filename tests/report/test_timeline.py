from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofang.domain.events import EventKind
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


def _recovering(found):
    return found.get(Activity.DETECTION, 0.0) + found.get(Activity.RESTART, 0.0)


def test_the_time_of_a_job_that_was_killed_once(make_events):
    events = make_events()
    start, end = events[1].time, events[-1].time
    found = shares(partition(spans(events[1:]), start, end))
    recovery = recoveries(events)[0]
    first_step = 0.14 * 2.5
    expected = (recovery.seconds - first_step) / (end - start)
    assert _recovering(found) == pytest.approx(expected, abs=0.002)
    assert found[Activity.COMPUTE] > 0.75
    assert found[Activity.CHECKPOINT] == pytest.approx(10 * 0.12 / (end - start), rel=0.01)
    assert found[Activity.REDONE] == pytest.approx(18.5 * 0.14 / (end - start), rel=0.15)


def test_a_job_without_faults_spends_no_time_on_recovery(make_events):
    events = make_events(fault=False)[1:]
    found = shares(partition(spans(events), events[0].time, events[-1].time))
    assert Activity.RESTART not in found
    assert Activity.REDONE not in found


def test_a_program_without_steps_computes_while_it_lives(make_events):
    events = [event for event in make_events()[1:] if event.source in {"control", "agent-00"}]
    found = shares(partition(spans(events), events[0].time, events[-1].time))
    assert found[Activity.COMPUTE] > 0.98
    assert _recovering(found) == pytest.approx(0.45 / (events[-1].time - events[0].time), rel=0.1)


def test_stalls_of_snapshots_lie_between_the_steps(make_events):
    events = make_events(fault=False)[1:]
    last = max((event for event in events if event.kind is EventKind.STEP), key=lambda event: event.time)
    gaps = sum(
        max(0.0, after.time - after.data["step_time_s"] - before.time)
        for before, after in pairwise([event for event in events if event.kind is EventKind.STEP])
    )
    stall = gaps / 20  # evaluations and checkpoints fill most of the gaps and go first
    told = replace(last, kind=EventKind.SNAPSHOT, sequence=10_000, data={"step": 1, "count": 3, "stall_s": stall})
    whole = events[-1].time - events[0].time
    found = shares(partition(spans([*events, told]), events[0].time, events[-1].time))
    assert 0.0 < found.get(Activity.SNAPSHOT, 0.0) * whole <= stall + 1e-6
    without = shares(partition(spans(events), events[0].time, events[-1].time))
    assert found[Activity.COMPUTE] == pytest.approx(without[Activity.COMPUTE])


def test_a_hang_began_when_the_silence_did(make_events):
    events = [event for event in make_events() if event.kind is not EventKind.FAULT_INJECTED]
    first = next(event for event in events if event.kind is EventKind.WORKER_EXITED)
    data = {"rank": 1, "silent_s": 4.0, "step": 7}
    hung = [replace(event, kind=EventKind.HANG_DETECTED, data=data) if event is first else event for event in events]
    recovery = recoveries(hung)[0]
    assert recovery.fault_at == pytest.approx(first.time - 4.0)
    assert recovery.detected_at == pytest.approx(first.time)


def test_no_events_no_spans():
    assert spans([]) == ()
    assert shares(partition([], 0.0, 0.0)) == {}
