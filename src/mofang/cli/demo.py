"""``mofang demo``: the whole life of a job on real input, on any machine."""

from __future__ import annotations

import argparse

from mofang.cli import session
from mofang.cli.columns import clean
from mofang.cli.jobfile import add_job_options
from mofang.cli.output import line, note
from mofang.cli.parser import examples
from mofang.cli.report import write
from mofang.cli.run import attend, launch
from mofang.cli.shipped import example
from mofang.domain.events import EventKind

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    add_job_options(parser)
    parser.epilog = examples(
        "mofang demo",
        "mofang demo --set train.duration=30s",
        exit_codes="as `mofang run`, which it calls with examples/code-gpt/job.yaml",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the example, write its report and print what the model learnt to write."""
    path = example("code-gpt/job.yaml")
    note(f"running {path}")
    wanted = argparse.Namespace(job=str(path), set=args.set, name=None, key=None, yes=True, dry_run=False)
    with session.connect() as client:
        job_id = launch(client, wanted)
        if job_id is None:
            return 0
        code = attend(client, job_id, "table")
        if code:
            return code
        samples, _ = client.events(job_id, kinds=[EventKind.SAMPLE])
        note("writing the report")
        page = write(client, job_id)
    if samples:
        line()
        line("What it writes after this training:")
        line(_indented(str(samples[-1].data.get("text", ""))))
    line()
    line(f"report: {page}")
    return 0


def _indented(text: str) -> str:
    return "\n".join(f"    {clean(row)}" for row in text.splitlines())
