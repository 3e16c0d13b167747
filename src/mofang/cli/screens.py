"""Where progress is drawn: a live line at the foot of a terminal, or plain lines now and then."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from mofang.cli.columns import clean
from mofang.cli.output import note
from mofang.cli.progress import Progress, numbers_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["LiveScreen", "PlainScreen", "Screen", "open_screen"]

_EVERY_S = 5.0  # between two plain lines; a log that nobody watches stays short


class Screen(Protocol):
    """A place that shows how a job goes on."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def show(self, progress: Progress) -> None:
        """Show the numbers of the moment."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def open_screen() -> Screen:
    """Return a live screen where stderr is a terminal, and plain lines elsewhere."""
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return LiveScreen() if live else PlainScreen()


class PlainScreen:
    """Lines on stderr: at a new phase, and every few seconds by the job's own time."""

    def __init__(self) -> None:
        self._told: tuple[str, int] = ("", -1)
        self._time = float("-inf")

    def say(self, text: str) -> None:
        """Write the line."""
        note(clean(text))

    def show(self, progress: Progress) -> None:
        """Write the numbers, unless the last ones are only moments old."""
        told = (progress.phase, progress.step)
        last = progress.step == progress.steps and told != self._told
        new_phase = progress.phase not in {"train", "validate", self._told[0]}
        if new_phase or last or progress.time - self._time >= _EVERY_S:
            self._told, self._time = told, progress.time
            note(clean(_plain_text(progress)))

    def close(self) -> None:
        """Nothing to tidy up."""


def _plain_text(progress: Progress) -> str:
    if progress.phase == "serving":
        return f"serving: {numbers_text(progress) or 'no request yet'}"
    if progress.phase not in {"train", "validate"}:
        part = f" {progress.done:g}/{progress.total:g}" if progress.done and progress.total else ""
        return f"{progress.phase}{part} ..."
    steps = f"/{progress.steps}" if progress.steps else ""
    return f"step {progress.step}{steps}: {numbers_text(progress)}"


class LiveScreen:
    """A bar that is redrawn in place; lines that stay scroll past above it."""

    def __init__(self) -> None:
        # rich is imported here: it takes longer than most commands.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, SpinnerColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Live  # noqa: PLC0415

        console = Console(stderr=True, highlight=False)
        columns: list[Any] = [
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}", markup=False),
        ]
        self._bar: Bar = Live(*columns, console=console, transient=True)
        self._task: TaskID = self._bar.add_task("starting", total=None, numbers="")
        self._bar.start()

    def say(self, text: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(clean(text), markup=False)

    def show(self, progress: Progress) -> None:
        """Redraw the bar."""
        training = progress.phase in {"train", "validate", "recovering"} and progress.steps
        steps = f" {progress.step}/{progress.steps}" if training else ""
        self._bar.update(
            self._task,
            description=clean(f"{progress.phase}{steps}"),
            total=progress.steps if training else progress.total or None,
            completed=progress.step if training else progress.done or 0,
            numbers=numbers_text(progress) if training or progress.phase == "serving" else "",
        )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
