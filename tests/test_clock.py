"""Time and chance come in through one door."""

from __future__ import annotations

import re

from mofang.clock import Clock, ManualClock, SystemClock, new_token, seeded, utc_text


def test_a_manual_clock_moves_only_when_told_to() -> None:
    clock: Clock = ManualClock(100.0)
    assert (clock.now(), clock.monotonic()) == (100.0, 100.0)
    clock.sleep(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 102.5)


def test_the_system_clock_goes_on() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.0)
    assert clock.monotonic() >= before
    assert clock.now() > 1.7e9


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert [seeded(7).random() for _ in range(2)] == [seeded(7).random() for _ in range(2)]
    assert seeded(7).random() != seeded(8).random()


def test_tokens_are_fresh_hexadecimal() -> None:
    tokens = {new_token(4) for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[0-9a-f]{8}", token) for token in tokens)


def test_instants_are_printed_in_utc() -> None:
    assert utc_text(0) == "1970-01-01T00:00:00Z"
    assert utc_text(1_700_000_000.9) == "2023-11-14T22:13:20Z"
