"""What workers printed, read from the files in the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mofang.domain.job import Job
from mofang.errors import NotFoundError
from mofang.recovery.rundir import AttemptDir

__all__ = ["Output", "read_output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of output. ``offset`` is where to read on; ``end``: nothing more will come."""

    text: str
    offset: int
    end: bool


def read_output(
    run_dir: Path, job: Job, *, rank: int, attempt: int | None, generation: int | None, offset: int, limit: int
) -> Output:
    """Return up to ``limit`` bytes of a worker's output from ``offset``, or from the end where that is negative.

    Raises:
        NotFoundError: the job never had such a worker, attempt or generation.
    """
    latest = 0 if job.attempt is None else job.attempt.number
    number = latest if attempt is None else attempt
    if number > latest or (attempt is not None and attempt < 1):
        raise NotFoundError(f"job {job.id} has no attempt {attempt}", hint=f"it has {latest}")
    folder = AttemptDir(run_dir / f"attempt-{number:04d}").log(0, 0).parent
    files = sorted(folder.glob(f"r{rank:04d}-g*.log"))
    chosen = folder / f"r{rank:04d}-g{generation:04d}.log" if generation is not None else next(reversed(files), None)
    if chosen not in files:
        if generation is not None or any(folder.glob("*.log")):
            raise NotFoundError(f"job {job.id} has no output of worker {rank} there", hint="ranks count from 0")
        return Output(text="", offset=0, end=job.state.is_final)
    newest = chosen == files[-1] and number == latest
    return _piece(chosen, offset, limit, over=job.state.is_final or not newest)


def _piece(path: Path, offset: int, limit: int, *, over: bool) -> Output:
    """Return whole characters; ``over`` says that nobody writes to the file any more."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        file.seek(start)
        data = file.read(limit)
    at_end = start + len(data) >= size
    kept = data if over and at_end else _whole_characters(data)
    return Output(text=kept.decode(errors="replace"), offset=start + len(kept), end=over and at_end)


def _whole_characters(data: bytes) -> bytes:
    """Return the data without the beginning of a character that is cut off at its end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if needed > back and back < len(data) else data
    return data
