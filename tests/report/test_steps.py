from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mofang.domain.events import Event, EventKind
from mofang.report.curves import running_mean
from mofang.report.steps import curve, median_of, redone_steps, step_points, validation_curve


def step_event(generation: int, step: int, time: float, **data: float) -> Event:
    return Event(
        job_id="j",
        attempt=1,
        generation=generation,
        source="r0000",
        sequence=step,
        time=time,
        kind=EventKind.STEP,
        data={"step": step, "loss": float(step), "step_time_s": 1.0} | data,
    )


@st.composite
def lives(draw):
    """Generations that each go on from a checkpoint at or before the last completed step."""
    events, time, begin, expected = [], 0.0, 1, 0
    reached = 0
    for generation in range(1, draw(st.integers(1, 4)) + 1):
        end = begin + draw(st.integers(0, 12))
        for step in range(begin, end + 1):
            time += 1.0
            events.append(step_event(generation, step, time))
            expected += step <= reached
        reached = max(reached, end)
        begin = draw(st.integers(1, end + 1))
    return events, expected


@given(lives(), st.randoms(use_true_random=False))
def test_steps_made_twice_are_counted_and_shown_once_in_any_order_of_events(life, rng):
    events, expected = life
    rng.shuffle(events)
    points = step_points(events)
    assert redone_steps(points) == expected
    shown = [point.step for point in curve(points)]
    assert shown == sorted({event.data["step"] for event in events})
    assert len(points) == len(events)


@given(lives())
def test_the_curve_shows_the_newest_generation_of_a_step(life):
    events, _ = life
    newest = {}
    for event in events:
        newest[event.data["step"]] = max(event.generation, newest.get(event.data["step"], 0))
    assert {point.step: point.generation[1] for point in curve(step_points(events))} == newest


def test_ranks_that_report_the_same_step_count_once():
    events = [step_event(1, step, step + 0.1 * rank) for step in (1, 2) for rank in (0, 1)]
    assert [point.step for point in step_points(events)] == [1, 2]


def test_steps_that_were_not_reported_are_counted_where_they_were_loaded_from_a_checkpoint():
    loaded = Event(
        job_id="j",
        attempt=1,
        generation=2,
        source="r0000",
        sequence=0,
        time=2.5,
        kind=EventKind.CHECKPOINT_LOADED,
        data={"step": 6},
    )
    events = [step_event(1, 5, 1.0), step_event(1, 10, 2.0), loaded, step_event(2, 10, 3.0), step_event(2, 15, 4.0)]
    points = step_points(events)
    assert [point.count for point in points] == [1, 5, 4, 5]
    assert redone_steps(points) == 4


def test_each_generations_first_step_is_left_out_of_the_median():
    events = [step_event(1, step, step, step_time_s=100.0 if step == 1 else 2.0) for step in range(1, 4)]
    assert median_of(step_points(events), "step_time_s") == 2.0
    assert median_of(step_points(events[:1]), "step_time_s") == 100.0
    assert median_of((), "step_time_s") is None


def test_values_that_are_no_finite_numbers_are_left_out():
    events = [step_event(1, 1, 1.0, loss=float("nan"), mfu=True), step_event(1, 2, 2.0, loss="x")]
    assert [point.loss for point in step_points(events)] == [None, None]
    assert step_points(events)[0].mfu is None


def test_validation_of_a_step_made_twice_counts_once(make_events):
    steps = [step for step, _ in validation_curve(make_events())]
    assert steps == list(range(60, 601, 60))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(1, 9))
def test_a_running_mean_stays_between_its_values(values, window):
    means = running_mean(values, window)
    assert len(means) == len(values)
    assert all(min(values) - 1e-6 <= mean <= max(values) + 1e-6 for mean in means)
    if window == 1:
        assert all(abs(mean - value) < 1e-6 for mean, value in zip(means, values, strict=True))


def test_time_goes_on_within_the_points(make_events):
    points = step_points(make_events())
    assert all(before.time < after.time for before, after in pairwise(points))
