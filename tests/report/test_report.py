import re
from dataclasses import replace

import pytest

from mofang.domain.events import EventKind
from mofang.domain.job import JobState
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.scenario import Command, Scenario
from mofang.errors import UsageError
from mofang.report import write_report
from mofang.report.bars import draw_prediction, draw_timeline
from mofang.report.comparisons import Comparison, compare
from mofang.report.curves import draw_loss, draw_memory, draw_throughput
from mofang.report.page import page
from mofang.report.summary import summarise
from mofang.report.theme import DARK, LIGHT
from mofang.report.words import quantity, reason_text, rejection_text


@pytest.fixture
def summary(events, make_job):
    return summarise(make_job(events), events)


def test_the_summary_lays_what_was_predicted_beside_what_was_measured(summary):
    rows = {row.name: row for row in summary.comparisons}
    assert rows["step time"].measured == pytest.approx(0.144, rel=0.05)
    assert rows["step time"].inside is True
    assert rows["throughput"].low == pytest.approx(4096 / 0.188)
    assert rows["throughput"].high == pytest.approx(4096 / 0.118)
    assert rows["memory of a worker"].measured == pytest.approx(420e6, rel=0.01)
    assert rows["memory of a worker"].inside is None


def test_the_summary_holds_the_outcome(summary):
    assert summary.redone == 17
    assert summary.curve[-1].step == 600
    assert summary.final_validation_loss == pytest.approx(1.86, abs=0.01)
    assert summary.sample.startswith("def read")
    assert len(summary.checkpoints) == 10
    assert [name for _, _, name in summary.generations] == ["generation 1", "generation 2"]


def test_events_in_another_order_give_the_same_figures(events, make_job, summary):
    assert summarise(make_job(events), events[::-1]).comparisons == summary.comparisons
    assert summarise(make_job(events), events[::-1]).shares == pytest.approx(summary.shares)


def test_an_unknown_estimate_leaves_the_measured_alone(summary):
    rows = compare(replace(summary.plan, estimate=None), summary.points, 1.0)
    assert all(row.predicted is None and row.measured is not None and row.error is None for row in rows)


def test_a_comparison_says_by_how_much_it_missed():
    row = Comparison(name="x", unit="s", predicted=2.0, measured=3.0, low=1.0, high=2.5)
    assert (row.error, row.inside) == (0.5, False)


def test_one_file_holds_everything_and_fetches_nothing(tmp_path, events, make_job):
    path = write_report(make_job(events), events, tmp_path / "out")
    html = path.read_text()
    assert path.name == "report.html"
    names = {"loss", "memory", "prediction", "throughput", "timeline"}
    assert {file.stem for file in path.parent.glob("*.png")} == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in path.parent.glob("*.png"))
    assert "http" not in re.sub(r"http-equiv", "", html)
    assert all(
        source.startswith("data:image/png;base64,") for source in re.findall(r'(?:src|srcset|href)="([^"]*)"', html)
    )
    assert html.count('media="(prefers-color-scheme: dark)"') == len(names)
    assert 'name="viewport"' in html
    for words in (
        "code-gpt",
        "from the fault to the next step",
        "steps made again",
        "pre-train gpt-0.8m",
        "dp2 ddp, fp32",
    ):
        assert words in html


def test_nothing_that_a_job_says_becomes_markup(events, make_job):
    bad = "<script>alert('x')</script><img src=x onerror=y>\""
    job = replace(make_job(events, name=bad), message=bad, state=JobState.FAILED)
    hostile = [
        replace(event, data=event.data | {"text": bad, "what": bad})
        if event.kind in {EventKind.SAMPLE, EventKind.FAULT_INJECTED}
        else event
        for event in events
    ]
    html = page(job, summarise(job, hostile), [(bad, bad, "", "")])
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_a_users_own_program_gets_a_report_of_what_is_known(tmp_path, events, make_job):
    job = make_job(events)
    plan = replace(job.plans[0], estimate=None, steps=None)
    job = replace(job, scenario=Scenario(name="x", task=Command(argv=("true",))), plans=(plan,), name="own")
    quiet = [event for event in events if event.source in {"control", "agent-00"}]
    html = write_report(job, quiet, tmp_path).read_text()
    assert [file.stem for file in tmp_path.glob("*.png")] == ["timeline"]
    assert "run true with 1 worker" in html


def test_a_job_that_never_started_gets_a_page(tmp_path, make_job):
    job = replace(make_job(), attempt=None, started_at=None, state=JobState.WAITING, reason=Reason.WAITING_FOR_DEVICES)
    html = write_report(job, [], tmp_path).read_text()
    assert "its devices are in use" in html
    assert list(tmp_path.glob("*.png")) == []


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, events, make_job):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the report"):
        write_report(make_job(events), events, tmp_path / "file")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("draw", [draw_loss, draw_throughput, draw_memory, draw_timeline, draw_prediction])
def test_every_picture_has_axes_with_names_and_a_legend(draw, theme, summary):
    figure = draw(summary, theme)
    assert all(axes.get_xlabel() and axes.get_legend() is not None for axes in figure.axes)
    assert all(axes.get_ylabel() or axes.get_yticklabels() for axes in figure.axes)


def test_every_reason_has_words_and_figures_have_units():
    assert all(reason_text(reason) != reason.value or reason is Reason.COMPLETED for reason in Reason)
    text = rejection_text(Rejection(code=Reason.MEMORY, what="x", need=91e9, have=80e9))
    assert text == "it does not fit in memory: 91 GB needed, 80 GB there"
    assert quantity(None, "s") == "unknown"
    assert quantity(0.394, "fraction") == "39.4 %"
    assert quantity(27_500.0, "tokens/s") == "27.5k tokens/s"
