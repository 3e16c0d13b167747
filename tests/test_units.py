"""What people write is understood, and ``parse(str(x)) == x`` for every value."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.errors import UnitError
from mofang.units import (
    DeviceRequest,
    Range,
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    parse_bytes,
    parse_count,
    parse_duration,
    parse_range,
    parse_rate,
    parse_request,
    show_bytes,
    show_count,
    show_duration,
    show_rate,
)

GIB, MANY = 2**30, settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80GB", 80 * 10**9),
        ("24GiB", 24 * GIB),
        ("80 gb", 80 * 10**9),
        ("512", 512),
        (512, 512),
        ("1.5KiB", 1536),
        ("0.5PB", 5 * 10**14),
        ("2e3B", 2000),
        ("1EiB", 2**60),
    ],
)
def test_bytes(text: str | int, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("400Gb/s", 50e9), ("400Gbps", 50e9), ("3.35TB/s", 3.35e12), ("64GiB/s", 64.0 * GIB), (7, 7.0), (0.5, 0.5)],
)
def test_rates_tell_bits_from_bytes(text: str | float, value: float) -> None:
    assert parse_rate(text) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("250ms", 0.25),
        ("2d", 172800),
        ("1.5h", 5400),
        (3, 3),
    ],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("7B", 7 * 10**9), ("1.5M", 1_500_000), ("40k", 40_000), (600, 600), ("600", 600), (1e3, 1000)]
)
def test_counts(text: str | float, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", Range(8, 8)),
        (8, Range(8, 8)),
        ("8..64", Range(8, 64)),
        ("8 .. 64", Range(8, 64)),
        ("8..", Range(8, None)),
        ("..8", Range(0, 8)),
        ("1k..2k", Range(1000, 2000)),
    ],
)
def test_ranges(text: str | int, value: Range) -> None:
    assert parse_range(text) == value


def test_a_range_of_bytes_keeps_its_units() -> None:
    found = parse_range("24GiB..", parse_bytes)
    assert found == Range(24 * GIB, None)
    assert found.text(format_bytes) == "24GiB.."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("H100:8", DeviceRequest("H100", Range(8, 8))),
        ("H100", DeviceRequest("H100", Range(1, 1))),
        (" H100 : 8..64 ", DeviceRequest("H100", Range(8, 64))),
        ("cpu:2..", DeviceRequest("cpu", Range(2, None))),
        ("Ascend 910B:8", DeviceRequest("Ascend 910B", Range(8, 8))),
    ],
)
def test_requests(text: str, value: DeviceRequest) -> None:
    assert parse_request(text) == value


BAD = {
    parse_bytes: ["", "GB", "-1GB", "80Gb", "1.5 Gib", "80XB", "8 0GB", "1e9999GB", "9" * 50, math.nan, math.inf, None],
    parse_rate: ["400Gb", "400", "Gb/s", "-1B/s", -1, math.nan, 10**400, False],
    parse_duration: ["", "10", "1h30", "h", "10 min", "-5s", "1e9999s", -1, math.inf, 10**400, True, None],
    parse_count: ["", "1.5", "7X", "-7", 2.5, -1, math.nan, math.inf, True, None, "1e999999999"],
    parse_range: ["", "..", "8..4", "8...9", "a..b", "8..9..10", "-1..2", True],
    parse_request: ["", ":8", "H100:", "8", "H100:0", "H100:8..4", "H100:x", "H100::8", None, 8],
}  # fmt: skip


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in BAD.items() for text in texts])
def test_what_is_no_quantity_is_refused_with_a_hint(parse, text) -> None:
    with pytest.raises(UnitError) as caught:
        parse(text)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@MANY
@given(st.sampled_from(list(BAD)), st.text(max_size=12) | st.floats() | st.integers())
def test_no_text_at_all_breaks_a_parser(parse, text) -> None:
    with suppress(UnitError):  # any other exception fails the test
        parse(text)


@MANY
@given(st.integers(0, 2**70))
def test_bytes_come_back(value: int) -> None:
    assert parse_bytes(format_bytes(value)) == value


@MANY
@given(st.floats(0, allow_infinity=False, allow_nan=False) | st.integers(0, 10**21).map(float))
def test_rates_come_back(value: float) -> None:
    assert parse_rate(format_rate(value)) == value


@MANY
@given(
    st.floats(0, allow_infinity=False, allow_nan=False)
    | st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000)
    | st.fractions(0, 1000).map(float)
)
def test_durations_come_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@MANY
@given(st.integers(0, 10**18))
def test_counts_come_back(value: int) -> None:
    assert parse_count(format_count(value)) == value


ranges = st.tuples(st.integers(0, 10**6), st.none() | st.integers(0, 10**6)).map(
    lambda ends: Range(ends[0], None if ends[1] is None else ends[0] + ends[1])
)


@MANY
@given(ranges)
def test_ranges_come_back(value: Range) -> None:
    assert parse_range(str(value)) == value
    assert parse_range(value.text(format_count)) == value
    assert parse_range(value.text(format_bytes), parse_bytes) == value


@MANY
@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_ .+/()-]{0,10}[A-Za-z0-9]", fullmatch=True), ranges)
def test_requests_come_back(name: str, count: Range) -> None:
    if count.maximum != 0:
        assert parse_request(str(DeviceRequest(name, count))) == DeviceRequest(name, count)


@MANY
@given(ranges, ranges, st.integers(0, 3 * 10**6))
def test_the_common_part_of_two_ranges_holds_what_both_hold(one: Range, other: Range, value: int) -> None:
    common = one.intersect(other)
    assert (value in one and value in other) == (common is not None and value in common)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(UnitError, match=r"range 8\.\.4 is empty"):
        Range(8, 4)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (format_bytes(80 * 10**9), "80GB"),
        (format_bytes(24 * GIB), "24GiB"),
        (format_bytes(0), "0B"),
        (format_bytes(512), "512B"),
        (format_rate(3.35e12), "3.35TB/s"),
        (format_duration(5400), "1h30m"),
        (format_duration(0), "0s"),
        (format_duration(0.25), "250ms"),
        (format_count(7 * 10**9), "7B"),
        (format_count(1234), "1234"),
        (show_bytes(78.26e9), "78.3 GB"),
        (show_bytes(12), "12 B"),
        (show_bytes(0), "0 B"),
        (show_rate(3.35e12), "3.35 TB/s"),
        (show_count(1_240_000), "1.24M"),
        (show_count(12), "12"),
        (show_duration(3900), "1h 05m"),
        (show_duration(12.34), "12.3s"),
        (show_duration(0.045), "45ms"),
        (show_duration(59.99), "60s"),
        (show_duration(3599.9), "1h 00m"),
        (show_duration(200_000), "2d 07h"),
    ],
)
def test_what_is_printed(text: str, wanted: str) -> None:
    assert text == wanted
