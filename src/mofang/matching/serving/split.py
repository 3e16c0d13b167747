"""Separate prefill and decode: two pools of replicas, a cache that travels, and one closed loop through both.

DistServe (arXiv:2401.09670) and Splitwise (arXiv:2311.18677). Prompts queue for the prefill replicas; the rate is the
one at which requests in flight equal rate x time (Little's law), found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Pool
from mofang.matching.serving.deployments import PRECISIONS, Load
from mofang.matching.serving.passes import Iteration, Passes
from mofang.matching.serving.queueing import waiting_md1
from mofang.matching.serving.sizes import kv_bytes_per_token
from mofang.matching.serving.steady import Steady

__all__ = ["PrefillPool", "Reading", "reading", "split_loop", "transfer_seconds"]

Floats = NDArray[np.float64]

_ROUNDS = 24
_BUSIEST = 0.98  # of the prefill pool: beyond it the queue has no end


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One prefill replica: seconds from the start of a prompt to its first token, and prompts a second at most."""

    seconds: Floats
    rate: Floats


def reading(passes: Passes, load: Load) -> Reading:
    """Return how fast a replica that only reads prompts does so."""
    none = np.zeros_like(load.input)
    read = load.read
    prompt = np.minimum(read, load.chunk) * passes.deployments.dp.astype(np.float64)
    prompts = np.maximum(prompt / read, 1.0)
    reach = load.input - np.maximum(read - load.chunk, 0.0) / 2.0
    once = passes.total(Iteration(decoding=none, context=load.input, prompt=prompt, prompts=prompts, reach=reach))
    seconds = once * np.maximum(read / load.chunk, 1.0)
    return Reading(seconds=seconds, rate=passes.deployments.dp / seconds)


def transfer_seconds(passes: Passes, load: Load, link: Pool) -> Floats:
    """Return the seconds that one prompt's cache travels: every device of the replica sends its part."""
    token = np.array([kv_bytes_per_token(passes.model, precision) for precision in PRECISIONS])[passes.deployments.kv]
    devices = (passes.deployments.tp * passes.deployments.pp).astype(np.float64)
    seconds: Floats = link.inter.latency_s + load.input * token / devices / max(link.inter.bandwidth, 1.0)
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPool:
    """The replicas that read prompts: what one does, how many there are for how many that decode, the cache's way."""

    first: Reading
    prefills: Floats
    decoders: Floats
    transfer_s: Floats


def split_loop(decode: Passes, load: Load, pool: PrefillPool, most: Floats) -> Steady:
    """Return the steady state of one decode replica, with its part of the prefill pool.

    Args:
        decode: the decode replica's passes.
        load: the load of one decode replica.
        pool: the prefill side.
        most: requests that one decode replica holds.
    """
    steps, context, first = load.steps, load.context, pool.first
    none = np.zeros_like(load.input)
    share = first.rate * pool.prefills / pool.decoders  # prompts a second for each decode replica
    service = first.seconds / np.maximum(pool.prefills * decode.deployments.dp, 1.0)
    there = np.minimum(load.concurrency, 1e9)
    low, high = np.zeros_like(there), share * _BUSIEST

    def state(rate: Floats) -> tuple[Floats, Floats, Floats]:
        ttft = first.seconds + waiting_md1(rate / share, service) + pool.transfer_s
        batch = np.clip(there - rate * ttft, 1e-3, most)
        seconds = decode.total(Iteration(decoding=batch, context=context, prompt=none, prompts=none, reach=load.input))
        return ttft, batch, seconds

    for _ in range(_ROUNDS):
        rate = (low + high) / 2.0
        ttft, batch, seconds = state(rate)
        faster = batch / (steps * seconds) > rate
        low, high = np.where(faster, rate, low), np.where(faster, high, rate)
    rate = (low + high) / 2.0
    ttft, batch, seconds = state(rate)
    held = rate * steps * seconds
    queued = np.where(np.isfinite(load.concurrency), np.maximum(there / rate - steps * seconds, ttft), ttft)
    return Steady(
        batch=np.minimum(batch, held),
        in_flight=rate * (queued + steps * seconds),
        requests_per_s=rate,
        ttft_s=queued,
        tpot_s=seconds,
        decode_s=seconds,
        mixed_s=seconds,
        mixed_part=none,
        prefill_s=first.seconds,
    )
