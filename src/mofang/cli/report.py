"""``mofang report``: one HTML file and its pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofang.cli import session
from mofang.cli.output import line, note
from mofang.cli.parser import examples
from mofang.cli.settings import home
from mofang.report import write_report

if TYPE_CHECKING:
    from mofang.client import Client

__all__ = ["configure", "execute", "write"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", help="id, the start of an id, or name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the job's run directory)")
    parser.add_argument("--open", choices=("yes", "no"), default="no", help="show it in the browser (default: no)")
    parser.epilog = examples("mofang report code-gpt", "mofang report 7f3a --out ./report --open yes")


def execute(args: argparse.Namespace) -> int:
    """Write a job's report and print where it is."""
    with session.connect() as client:
        path = write(client, args.job, args.out)
    line(str(path))
    if args.open == "yes":
        import webbrowser  # noqa: PLC0415 - seldom wanted

        if not webbrowser.open(path.as_uri()):
            note("no browser was found; open the file yourself")
    return 0


def write(client: Client, ref: str, out: Path | None = None) -> Path:
    """Write a job's report into ``out``, or into its run directory, and return the path of the page."""
    job = client.job(ref)
    folder = out if out is not None else home() / "runs" / job.id / "report"
    return write_report(job, session.all_events(client, job.id), folder.absolute())
