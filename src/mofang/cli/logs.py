"""``mofang logs``: what a worker printed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mofang.cli import session
from mofang.cli.output import note
from mofang.cli.parser import examples
from mofang.domain.events import Event, EventKind

if TYPE_CHECKING:
    from mofang.client import Client

__all__ = ["configure", "execute"]

_POLL_S = 0.3


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("job", help="id, the start of an id, or name")
    parser.add_argument("--rank", type=int, default=0, help="which worker (default: 0)")
    parser.add_argument("--attempt", type=int, help="default: the latest")
    parser.add_argument("--generation", type=int, help="default: the latest; they start anew after a fault")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more comes, over restarts too")
    parser.epilog = examples(
        "mofang logs code-gpt", "mofang logs -f 7f3a --rank 1", "mofang logs 7f3a --generation 1   # before the fault"
    )


def execute(args: argparse.Namespace) -> int:
    """Print a worker's output."""
    with session.connect() as client:
        if not args.follow:
            _copy(client, args, args.attempt, args.generation, 0)
            return 0
        try:
            _follow(client, args)
        except KeyboardInterrupt:
            note(f"\nno longer following; the job is not touched. `mofang logs -f {args.job}` goes on")
            return 130
    return 0


def _copy(client: Client, args: argparse.Namespace, attempt: int | None, generation: int | None, offset: int) -> int:
    """Print all there is from ``offset`` and return where it ended."""
    while True:
        found = client.logs(args.job, rank=args.rank, attempt=attempt, generation=generation, offset=offset)
        sys.stdout.write(found.text)
        sys.stdout.flush()
        if not found.text:
            return found.offset
        offset = found.offset


def _follow(client: Client, args: argparse.Namespace) -> None:
    """Print one generation after the other until the job has ended."""
    clock, cursor, ended = session.clock(), 0, False
    current, offset = (args.attempt, args.generation), 0
    while not ended:
        news, cursor = client.events(args.job, after=cursor, kinds=[EventKind.GENERATION_STARTED, EventKind.JOB_ENDED])
        # What was said before the news goes first: the old generation's last words are why there is a new one.
        if current != (None, None):
            offset = _copy(client, args, *current, offset)
        newest = _newest(news, args)
        if newest is not None and newest != current:
            if current != (None, None):
                note(f"--- attempt {newest[0]}, generation {newest[1]}")
            current, offset = newest, _copy(client, args, *newest, 0)
        ended = any(event.kind is EventKind.JOB_ENDED for event in news)
        if not ended:
            clock.sleep(_POLL_S)


def _newest(news: list[Event], args: argparse.Namespace) -> tuple[int, int] | None:
    started = [
        (event.attempt, event.generation)
        for event in news
        if event.kind is EventKind.GENERATION_STARTED
        and args.attempt in {None, event.attempt}
        and args.generation in {None, event.generation}
    ]
    return max(started, default=None)
