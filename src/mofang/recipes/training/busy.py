"""How long a rank computes in a step before it waits for the others."""

from __future__ import annotations

import torch

from mofang.clock import Clock

__all__ = ["BusyTime"]


class BusyTime:
    """Seconds from the start of a step to its first wait for another rank.

    On the CPU that is time on the clock. On an accelerator the host runs ahead of the device, so it is the time between
    two marks in the device's own queue, known one step later.

    Args:
        clock: the time of the host.
        device: where the step is computed.
    """

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self._clock, self._on_device = clock, device.type == "cuda"
        self._started = 0.0
        self._marks: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._seconds: float | None = None

    def start(self) -> None:
        """Begin a step."""
        self._started = self._clock.monotonic()
        if not self._on_device:
            return
        if self._marks is not None and self._marks[1].query():  # type: ignore[no-untyped-call]
            self._seconds = self._marks[0].elapsed_time(self._marks[1]) / 1e3
        first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        self._marks = first, torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def stop(self) -> float | None:
        """Take note that only waiting is left; return the newest time that is known."""
        if not self._on_device:
            return self._clock.monotonic() - self._started
        if self._marks is not None:
            self._marks[1].record()
        return self._seconds
