"""Uploads in the background: the newest complete checkpoint, one at a time. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.chores import Chores
from mofang.recovery.checkpoint.remote import Remote

__all__ = ["Uploader"]


class Uploader:
    """Sends complete checkpoints away; rank 0's work.

    A step that is due while another is on its way waits; a still newer one takes its place.

    Args:
        directory: of the checkpoints.
        remote: where they go.
        failed: told the step and the reason, from the background thread; the next step tries again.
    """

    def __init__(self, directory: Path, remote: Remote, *, failed: Callable[[int, str], None]) -> None:
        self._directory, self._remote, self._tell = directory, remote, failed
        self._chores = Chores("mofang-upload", self._upload, most=1)

    def submit(self, step: int) -> None:
        """Upload a complete step; returns at once."""
        self._chores.put(step)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the last step submitted is there; return whether it is."""
        return self._chores.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Flush and end the thread; return what ``flush`` did."""
        return self._chores.close(timeout_s)

    def _upload(self, step: int) -> bool:
        try:
            self._remote.upload(self._directory, step)
        except (OSError, CheckpointError) as error:
            if not self._chores.waiting:  # a newer checkpoint that waits says more than the end of this one
                self._tell(step, str(error))
            return False
        return True
