"""How fast copies may be made, so that they stay out of the way of the training's own traffic. Pure."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from mofang.clock import Clock

__all__ = ["Bucket", "Pace"]

_BURST_S = 0.05  # of traffic that may come at once
_PROBE_BYTES = 64 << 20  # what is let through at full speed to learn what the link gives
_LEAST = 32e6  # bytes/s, whatever the link was measured to give
_NO_LIMIT = float("inf")


class Bucket:
    """A token bucket: over any time ``t`` at most ``rate * t`` bytes and one burst pass.

    Args:
        rate: bytes/s.
        clock: the time.
    """

    def __init__(self, rate: float, clock: Clock) -> None:
        self.rate, self._clock = rate, clock
        self._tokens = rate * _BURST_S if rate != _NO_LIMIT else 0.0
        self._at = clock.monotonic()
        self._lock = Lock()

    def take(self, num_bytes: int) -> float:
        """Count bytes that have passed; return the seconds to wait before the next ones."""
        if self.rate == _NO_LIMIT:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            self._tokens = min(self.rate * _BURST_S, self._tokens + (now - self._at) * self.rate) - num_bytes
            self._at = now
            return max(0.0, -self._tokens / self.rate)


class Pace:
    """The rate of the copies of one node: given, or a share of what the link is measured to give.

    A copy whose source was overwritten before it was whole is worth nothing. Each one that is lost so doubles the rate,
    until copies are faster than snapshots come.

    Args:
        rate: bytes/s; None: the share of the link.
        share: of the link, in (0, 1].
    """

    def __init__(self, rate: float | None, share: float) -> None:
        self._given, self._share = rate, share
        self._link: float | None = None
        self._raised = 1.0
        self._bucket: Bucket | None = None
        self._lock = Lock()

    @property
    def rate(self) -> float:
        """The rate now in bytes/s; infinite until the link has been measured."""
        if self._given is not None:
            return self._given * self._raised
        if self._link is None:
            return _NO_LIMIT
        return max(_LEAST, self._link * self._share) * self._raised

    def limiter(self, clock: Clock) -> Callable[[int], Bucket | None]:
        """Return what gives the bucket that one copy is limited by, told how many bytes of it have come.

        All copies of the node share one. The first bytes of the first copy show what the link gives.
        """
        began = clock.monotonic()

        def limit(received: int) -> Bucket | None:
            with self._lock:
                if self.rate == _NO_LIMIT and received >= _PROBE_BYTES:
                    self.measured(received, clock.monotonic() - began)
                if self._bucket is None or self._bucket.rate != self.rate:
                    self._bucket = Bucket(self.rate, clock)
                return self._bucket if self.rate != _NO_LIMIT else None

        return limit

    def measured(self, num_bytes: int, seconds: float) -> None:
        """Note how fast so many bytes came at full speed."""
        self._link = num_bytes / max(seconds, 1e-9)

    def lost(self) -> None:
        """Note that a copy was overtaken by newer snapshots."""
        self._raised *= 2.0
