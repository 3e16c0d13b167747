"""What a service did, from the counts that its workers report."""

from __future__ import annotations

import pytest

from mofang.cli.progress import Progress, absorb, numbers_text
from mofang.domain.events import Event, EventKind
from mofang.recipes.serving.meter import Meter, Pulse
from mofang.report.recoveries import recoveries
from mofang.report.services import served
from mofang.testing import ManualClock


def event(kind: EventKind, time: float, generation: int = 1, source: str = "r0000", **data: object) -> Event:
    return Event(
        job_id="j",
        attempt=1,
        generation=generation,
        source=source,
        sequence=int(time * 10),
        time=time,
        kind=kind,
        data=data,
    )


def traffic(time: float, requests: int, tokens: int, busy: float, **more: object) -> Event:
    counts = {"requests": requests, "failed": 0, "input_tokens": 10 * requests, "output_tokens": tokens, "busy_s": busy}
    return event(EventKind.TRAFFIC, time, **(counts | {"ttft_s": 0.1, "tpot_s": 0.01} | more))


URL = {"url": "http://127.0.0.1:8000", "model": "toy"}


def test_counts_of_generations_add_up_and_of_each_the_last_one_counts() -> None:
    found = served(
        [
            event(EventKind.SERVING, 1.0, **URL),
            traffic(2.0, 1, 10, 1.0),
            traffic(3.0, 3, 30, 2.0),
            event(EventKind.SERVING, 5.0, generation=2, **URL),
            traffic(6.0, 1, 50, 2.0, generation=2, ttft_s=0.5, tpot_s=None),
        ]
    )
    assert found is not None
    assert (found.requests, found.output_tokens, found.input_tokens) == (4, 80, 40)
    assert found.tokens_per_s == pytest.approx(80 / 4.0)
    assert found.ttft_s == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert found.tpot_s == pytest.approx(0.01)


def test_replicas_answer_at_once_so_their_rates_add_up() -> None:
    found = served(
        [
            event(EventKind.SERVING, 1.0, **URL),
            traffic(3.0, 1, 30, 1.0),
            traffic(3.0, 1, 20, 2.0, source="r0001"),
        ]
    )
    assert found is not None
    assert found.tokens_per_s == pytest.approx(30 + 10)


def test_a_job_that_never_served_is_no_service_and_one_without_requests_has_no_rates() -> None:
    assert served([event(EventKind.STEP, 1.0, step=1)]) is None
    found = served([event(EventKind.SERVING, 1.0, **URL)])
    assert found is not None
    assert (found.requests, found.tokens_per_s, found.ttft_s) == (0, None, None)


def test_a_service_has_recovered_when_it_answers_again() -> None:
    story = [
        event(EventKind.GENERATION_STARTED, 0.0, workers=1),
        event(EventKind.SERVING, 4.0, **URL),
        event(EventKind.WORKER_EXITED, 10.0, rank=0, signal=9),
        event(EventKind.GENERATION_STARTED, 11.0, generation=2, workers=1),
        event(EventKind.SERVING, 15.0, generation=2, **URL),
    ]
    [recovery] = recoveries(story)
    assert recovery.seconds == pytest.approx(5.0)
    progress, lines = Progress(steps=None), []
    for each in story:
        progress, text = absorb(progress, each)
        lines.append(text)
    assert lines[1] == "toy answers at http://127.0.0.1:8000/v1/completions"
    assert lines[4] == "toy answers at http://127.0.0.1:8000/v1/completions again, 5s after the fault"
    assert progress.phase == "serving"
    progress, _ = absorb(progress, traffic(20.0, 7, 10, 1.0, tokens_per_s=12.0))
    assert numbers_text(progress) == "7 requests, 12 tokens/s"


def test_an_idle_service_lives_and_one_that_makes_no_token_of_its_requests_does_not() -> None:
    clock = ManualClock(0.0)
    meter, pulse = Meter(clock), Pulse()
    assert pulse.beats(meter.read())
    assert pulse.beats(meter.read())
    ticket = meter.arrived(5)
    clock.advance(2.0)
    assert not pulse.beats(meter.read())
    ticket.tokens(3)
    assert pulse.beats(meter.read())
    assert not pulse.beats(meter.read())
    clock.advance(1.0)
    ticket.finished()
    clock.advance(9.0)
    assert pulse.beats(meter.read())
    assert meter.read().busy_s == pytest.approx(3.0)
