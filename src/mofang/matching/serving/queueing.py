"""Waiting times of queues with Poisson arrivals.

Closed forms: M/M/c by Erlang C, M/G/1 by Pollaczek and Khinchine, M/G/c by Lee and Longton's scaling of M/M/c
(doi:10.1057/jors.1959.5), and the tail of the wait as an exponential above the part that does not wait.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["erlang_c", "tail_wait", "waiting_md1", "waiting_mg1", "waiting_mgc"]

Floats = NDArray[np.float64]


def erlang_c(servers: NDArray[np.int64], offered: Floats) -> Floats:
    """Return the probability that an arrival waits in M/M/c; ``offered`` is rate x service time, below ``servers``.

    Computed by the recursion of Erlang B, B(k) = a B(k-1) / (k + a B(k-1)), then C = B / (1 - rho (1 - B)). At or above
    saturation it is 1.
    """
    blocked = np.ones_like(offered)
    for count in range(1, int(servers.max(initial=1)) + 1):
        nearer = offered * blocked / (count + offered * blocked)
        blocked = np.where(count <= servers, nearer, blocked)
    busy = offered / servers
    waits: Floats = np.where(busy < 1.0, blocked / np.maximum(1.0 - busy * (1.0 - blocked), 1e-12), 1.0)
    return waits


def waiting_mg1(busy: Floats, service: Floats, variation: Floats | float) -> Floats:
    """Return the mean wait of M/G/1 (Pollaczek-Khinchine); ``variation`` is the squared coefficient of the service.

    Infinite at or above saturation.
    """
    room = np.maximum(1.0 - busy, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        wait: Floats = np.where(room > 0.0, busy * service * (1.0 + variation) / 2.0 / room, np.inf)
    return wait


def waiting_md1(busy: Floats, service: Floats) -> Floats:
    """Return the mean wait of M/D/1: every service takes the same time."""
    return waiting_mg1(busy, service, 0.0)


def waiting_mgc(servers: NDArray[np.int64], rate: Floats, service: Floats, variation: Floats | float) -> Floats:
    """Return the mean wait of M/G/c: that of M/M/c times (1 + variation) / 2. Infinite at or above saturation."""
    offered = rate * service
    room = servers - offered
    with np.errstate(divide="ignore", invalid="ignore"):
        wait = erlang_c(servers, offered) * service / room * (1.0 + variation) / 2.0
    found: Floats = np.where(room > 0.0, wait, np.inf)
    return found


def tail_wait(probability: Floats, mean: Floats, percentile: float) -> Floats:
    """Return the wait at a percentile: exponential above the part of requests that do not wait (exact in M/M/c)."""
    late = 1.0 - percentile
    with np.errstate(divide="ignore", invalid="ignore"):
        wait = mean / probability * np.log(np.maximum(probability / late, 1.0))
    found: Floats = np.where(probability > 0.0, wait, 0.0)
    return found
