import io

from hypothesis import given
from hypothesis import strategies as st

from mofang.cli.columns import clean, fold, layout, width
from mofang.cli.output import coloured, emit, plain, print_table
from mofang.domain.estimate import Interval
from mofang.domain.reasons import Reason

cells = st.text(st.characters(codec="utf-8"), max_size=60)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=6), st.integers(25, 120))
def test_a_table_fits_and_loses_nothing(rows, limit):
    headings = ["a", "b", "c"]
    lines = layout(headings, rows, limit)
    assert all(width(text) <= limit for text in lines)
    shown = sorted(char for text in lines for char in text if char != " ")
    given_ = sorted(char for row in [headings, *rows] for cell in row for char in clean(cell) if char != " ")
    assert shown == given_


@given(cells, st.integers(2, 40))
def test_folded_lines_fit(text, limit):
    assert all(width(line) <= limit for line in fold(clean(text), limit))


def test_a_pipe_folds_nothing():
    assert layout(["x"], [["word " * 60]], None)[1] == ("word " * 60).rstrip()


def test_quantities_are_aligned_right_and_words_left():
    assert layout(["n", "what"], [["5", "a"], ["12.5k", "bb"], ["-", "c"]], 80) == [
        "    n  what",
        "    5  a",
        "12.5k  bb",
        "    -  c",
    ]


def test_wide_characters_take_two_columns():
    assert width("魔方") == 4
    assert [width(line) for line in layout(["name", "x"], [["魔方", "1"], ["ab", "2"]], 80)] == [7, 7, 7]


def test_nothing_moves_the_cursor():
    assert "\x1b" not in clean("a\x1b[31mb\r\n")


def test_colours_follow_the_terminal_and_its_variables(monkeypatch):
    stream = io.StringIO()
    assert not coloured(stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured(stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(stream)


def test_a_table_takes_the_width_that_the_environment_says(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    print_table(["what", "why"], [["x" * 10, "word " * 20]], title="T")
    assert all(len(line) <= 30 for line in capsys.readouterr().out.splitlines())


def test_domain_values_are_printed_as_plain_data(capsys):
    data = {"a": Interval(low=1.0, high=float("inf")), "b": (Reason.MEMORY, None, True)}
    assert plain(data) == {"a": {"low": 1.0, "high": None}, "b": ["memory", None, True]}
    emit(data, "yaml")
    assert "low: 1.0" in capsys.readouterr().out
