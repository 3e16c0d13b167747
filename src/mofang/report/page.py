"""The HTML of a report: one file, nothing fetched, light and dark, readable on a phone.

Whatever comes from a job (names, messages, generated text) passes through ``escape``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from mofang.clock import utc_text
from mofang.domain.job import Job, JobState
from mofang.report.layouts import batch_text, hardware_text, layout_text
from mofang.report.summary import Summary
from mofang.report.timeline import Activity
from mofang.report.words import asked_text, difference, plural, quantity, reason_text
from mofang.units import show_count, show_duration

__all__ = ["Picture", "page"]

Picture = tuple[str, str, str, str]  # heading, caption, light and dark PNG in base64

_CSS = """
:root { color-scheme: light dark; --ink:#1f2328; --muted:#59636e; --line:#d9dee3; --card:#ffffff; --page:#f4f6f8;
  --good:#0f7b3f; --bad:#c4232b; }
@media (prefers-color-scheme: dark) { :root { --ink:#e6edf3; --muted:#9aa4af; --line:#30363d; --card:#161b22;
  --page:#0d1117; --good:#4cc38a; --bad:#ff7b72; } }
* { box-sizing: border-box }
body { margin:0; background:var(--page); color:var(--ink); font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif }
main { max-width:60rem; margin:0 auto; padding:1.25rem 1rem 3rem }
h1 { font-size:1.6rem; margin:.5rem 0 .2rem; overflow-wrap:anywhere }
h2 { font-size:1.05rem; margin:0 0 .6rem }
p { margin:.3rem 0 } .muted { color:var(--muted) }
section { background:var(--card); border:1px solid var(--line); border-radius:.6rem; padding:1rem; margin:1rem 0 }
.figures { display:grid; grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr)); gap:.8rem; margin:1rem 0 }
.figure { background:var(--card); border:1px solid var(--line); border-radius:.6rem; padding:.7rem .9rem }
.figure b { display:block; font-size:1.35rem; font-variant-numeric:tabular-nums }
.figure span { color:var(--muted); font-size:.85rem }
.state { font-weight:600 } .succeeded { color:var(--good) } .failed { color:var(--bad) }
.wide { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
th,td { text-align:left; padding:.35rem .9rem .35rem 0; border-bottom:1px solid var(--line); vertical-align:top }
th { color:var(--muted); font-weight:500; white-space:nowrap } tr:last-child td, tr:last-child th { border-bottom:0 }
img { display:block; width:100%; min-width:30rem; height:auto }
pre { overflow-x:auto; margin:0; padding:.8rem; background:var(--page); border-radius:.4rem;
  font:13px/1.45 ui-monospace,"SF Mono",Menlo,Consolas,monospace }
"""


def page(job: Job, summary: Summary, pictures: Sequence[Picture]) -> str:
    """Return the whole document."""
    title = escape(job.name or job.id)
    body = "\n".join(
        part
        for part in (
            _head(job, title),
            _figures(summary),
            _facts(job, summary),
            _comparison(summary),
            *(_picture(picture) for picture in pictures),
            _recoveries(summary),
            _shares(summary),
            _sample(summary),
        )
        if part
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} - Mofang</title>
<style>{_CSS}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""


def _head(job: Job, title: str) -> str:
    state = escape(job.state.value)
    why = "" if job.state is JobState.SUCCEEDED else escape(job.message or reason_text(job.reason))
    ended = f", ended {utc_text(job.ended_at)}" if job.ended_at else ""
    return (
        f'<h1>{title}</h1>\n<p><span class="state {state}">{state}</span>{f": {why}" if why else ""}</p>\n'
        f'<p class="muted">job {escape(job.id)}, submitted {utc_text(job.submitted_at)}{ended}</p>'
    )


def _figures(summary: Summary) -> str:
    """Return the handful of numbers that people look for first."""
    recovered = [recovery.seconds for recovery in summary.recoveries if recovery.seconds is not None]
    figures = {
        "time on its devices": show_duration(summary.end - summary.start),
        "steps": f"{summary.curve[-1].step:,}" if summary.curve else "",
        "final training loss": _loss(summary.final_loss),
        "final validation loss": _loss(summary.final_validation_loss),
        "validation accuracy": "" if summary.accuracy is None else quantity(summary.accuracy, "fraction"),
        "requests": f"{summary.served.requests:,}" if summary.served else "",
        "tokens answered": show_count(summary.served.output_tokens) if summary.served else "",
        f"from the fault to the next {_next(summary)}": show_duration(max(recovered)) if recovered else "",
        "steps made again": f"{summary.redone:,}" if summary.recoveries else "",
        "goodput: time in steps that counted": _goodput(summary),
    }
    cards = [f'<div class="figure"><b>{escape(v)}</b><span>{k}</span></div>' for k, v in figures.items() if v]
    return f'<div class="figures">{"".join(cards)}</div>'


def _goodput(summary: Summary) -> str:
    return quantity(summary.shares.get(Activity.COMPUTE, 0.0), "fraction") if summary.recoveries else ""


def _next(summary: Summary) -> str:
    if summary.served is not None:
        return "answer"
    return "step" if summary.points else "start"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _facts(job: Job, summary: Summary) -> str:
    plan = summary.plan
    facts = {"asked": asked_text(job.scenario)}
    if plan is not None:
        facts["ran on"] = hardware_text(plan)
        facts["layout"] = layout_text(plan)
        facts |= {"batch": f"{batch_text(plan)} sequences"} if plan.steps else {}
        facts["chosen from"] = plural(len(job.plans), "feasible plan")
    facts |= _served_facts(summary) if summary.served else _result_facts(summary.result)
    return _section("What was asked, and how it ran", _rows(facts))


def _served_facts(summary: Summary) -> dict[str, str]:
    service = summary.served
    if service is None:
        return {}
    failed = f", {service.failed:,} of them failed" if service.failed else ""
    return {
        "answered at": service.url,
        "requests": f"{service.requests:,}{failed}",
        "tokens": f"{show_count(service.input_tokens)} in, {show_count(service.output_tokens)} out",
    }


def _result_facts(result: Mapping[str, object]) -> dict[str, str]:
    tokens, params = result.get("tokens"), result.get("params")
    facts = {}
    if isinstance(params, int | float):
        facts["parameters"] = show_count(params)
    if isinstance(tokens, int | float):
        facts["tokens trained on"] = show_count(tokens)
    return facts


def _comparison(summary: Summary) -> str:
    if not summary.comparisons:
        return ""
    rows = [["", "predicted", "90 % interval", "measured", "difference"]]
    for row in summary.comparisons:
        known = row.low is not None and row.high is not None
        between = f"{quantity(row.low, row.unit)} to {quantity(row.high, row.unit)}" if known else ""
        rows.append(
            [
                row.name,
                quantity(row.predicted, row.unit),
                between,
                quantity(row.measured, row.unit),
                difference(row.error),
            ]
        )
    how = "the median over all steps but each generation's first; memory: the most seen."
    if summary.served is not None:
        how = "while there was something to answer, under the requests that came; predicted: for those expected."
    note = f'<p class="muted">Measured: {escape(how)}</p>'
    return _section("Predicted beside measured", _table(rows) + note)


def _recoveries(summary: Summary) -> str:
    if not summary.recoveries:
        return ""
    rows = [["fault", "cause", "at step", "noticed", "went on", "loaded", "back where it was"]]
    for recovery in summary.recoveries:
        source = f" from {recovery.loaded_from}" if recovery.loaded_from else ""
        loaded = f"step {recovery.loaded_step}{source}" if recovery.loaded_step else "nothing yet"
        rows.append(
            [
                recovery.what,
                reason_text(recovery.reason),
                str(recovery.step),
                _after(recovery.fault_at, recovery.detected_at),
                _after(recovery.fault_at, recovery.resumed_at) or "never",
                loaded,
                _after(recovery.fault_at, recovery.caught_up_at),
            ]
        )
    return _section("Faults and recoveries", _table(rows))


def _after(start: float, end: float | None) -> str:
    return "" if end is None else f"after {show_duration(max(0.0, end - start))}"


def _shares(summary: Summary) -> str:
    total = summary.end - summary.start
    facts = {
        activity.value: f"{quantity(share, 'fraction')} ({show_duration(share * total)})"
        for activity, share in summary.shares.items()
    }
    return _section("Where the time went", _rows(facts)) if facts else ""


def _sample(summary: Summary) -> str:
    if not summary.sample:
        return ""
    return _section("What the model writes", f"<pre>{escape(summary.sample)}</pre>")


def _picture(picture: Picture) -> str:
    heading, caption, light, dark = picture
    source = f'<source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
    shown = f'<img alt="{escape(heading)}" src="data:image/png;base64,{light}">'
    image = f'<div class="wide"><picture>{source}{shown}</picture></div>'
    return _section(heading, f'{image}<p class="muted">{escape(caption)}</p>')


def _section(heading: str, inside: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{inside}</section>"


def _rows(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<div class="wide"><table>{rows}</table></div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    first = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    rest = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="wide"><table><tr>{first}</tr>{rest}</table></div>'
