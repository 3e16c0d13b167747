"""What a service did: counts since its start, and latencies of the last while."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

from mofang.clock import Clock

__all__ = ["Meter", "Pulse", "Ticket", "Traffic"]

_RECENT = 512  # requests that latencies are averaged over


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counts since the start; latencies are means over recent requests, None before the first."""

    requests: int
    failed: int
    running: int
    input_tokens: int
    output_tokens: int
    busy_s: float  # with a request at least
    ttft_s: float | None
    tpot_s: float | None


@dataclass(slots=True)
class Pulse:
    """Whether a service lives: it has nothing to do, or has done something since the last look.

    One that has requests and makes no token of them hangs, however well its other threads are.
    """

    _tokens: int = -1

    def beats(self, traffic: Traffic) -> bool:
        """Return whether there is a sign of life in these counts."""
        before, self._tokens = self._tokens, traffic.output_tokens
        return traffic.running == 0 or traffic.output_tokens != before


@dataclass(slots=True)
class Ticket:
    """One request on its way."""

    meter: Meter
    start: float
    first: float = 0.0
    last: float = 0.0
    count: int = 0
    done: bool = False

    def tokens(self, number: int) -> None:
        """Note that so many tokens came just now."""
        if number:
            self.last = self.meter.now()
            self.first = self.first or self.last
            self.count += number
            self.meter.generated(number)

    def finished(self) -> None:
        """Note that all tokens came."""
        self.done = True
        tpot = (self.last - self.first) / (self.count - 1) if self.count > 1 else None
        self.meter.left(ttft=self.first - self.start if self.count else None, tpot=tpot, failed=False)

    def failed(self) -> None:
        """Note that the request ended without an answer."""
        self.done = True
        self.meter.left(ttft=None, tpot=None, failed=True)


@dataclass(slots=True)
class Meter:
    """Counts what passes, from many threads."""

    clock: Clock
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _requests: int = 0
    _failed: int = 0
    _running: int = 0
    _input: int = 0
    _output: int = 0
    _busy: float = 0.0  # until the last moment without a request
    _busy_since: float = 0.0
    _ttft: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _tpot: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def now(self) -> float:
        """Return seconds of a clock that never goes back."""
        return self.clock.monotonic()

    def arrived(self, tokens: int) -> Ticket:
        """Count a request with a prompt of so many tokens."""
        with self._lock:
            self._busy_since = self._busy_since if self._running else self.now()
            self._requests += 1
            self._running += 1
            self._input += tokens
        return Ticket(self, self.now())

    def generated(self, tokens: int) -> None:
        """Count new tokens."""
        with self._lock:
            self._output += tokens

    def left(self, *, ttft: float | None, tpot: float | None, failed: bool) -> None:
        """Count a request that ended."""
        with self._lock:
            self._running -= 1
            self._failed += failed
            if self._running == 0:
                self._busy += self.now() - self._busy_since
            if ttft is not None:
                self._ttft.append(ttft)
            if tpot is not None:
                self._tpot.append(tpot)

    def read(self) -> Traffic:
        """Return the counts."""
        with self._lock:
            return Traffic(
                requests=self._requests,
                failed=self._failed,
                running=self._running,
                input_tokens=self._input,
                output_tokens=self._output,
                busy_s=self._busy + (self.now() - self._busy_since if self._running else 0.0),
                ttft_s=fmean(self._ttft) if self._ttft else None,
                tpot_s=fmean(self._tpot) if self._tpot else None,
            )
