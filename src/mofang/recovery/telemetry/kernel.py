"""The kernel's log as a probe: faults that drivers report there, counted since the agent began."""

from __future__ import annotations

from collections.abc import Mapping

from mofang.recovery.kernel_log import KernelLog

__all__ = ["KernelLogProbe"]


class KernelLogProbe:
    """Columns ``xid``, ``kernel.disk_errors`` and ``kernel.machine_checks``; none where the log may not be read.

    Args:
        log: the agent's, which explains the ends of workers by it too.
    """

    def __init__(self, log: KernelLog) -> None:
        self._log = log

    def sample(self) -> Mapping[str, float]:
        """Return the counts until now."""
        self._log.look()
        return self._log.counts
