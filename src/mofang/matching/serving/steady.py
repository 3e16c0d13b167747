"""The steady state of a replica with continuous batching: how many requests decode together, and how fast.

Requests wait, have their prompt read (prefill) and then decode; prompts are read in chunks inside the iterations that
decode (Orca, OSDI'22; Sarathi-Serve, arXiv:2403.02310). The fixed point below holds Little's law exactly: requests in
flight = request rate x (time to first token + decode time).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mofang.matching.serving.deployments import Load
from mofang.matching.serving.passes import Iteration, Passes

__all__ = ["Steady", "closed_loop", "static_batch"]

Floats = NDArray[np.float64]

_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """One replica at its steady state (arrays of one length).

    ``batch`` requests decode together, ``in_flight`` are in the system, waiting included; ``requests_per_s`` leave it.
    ``decode_s`` is an iteration that only decodes, ``mixed_s`` one with prompt tokens too, ``mixed_part`` how many are
    mixed; ``prefill_s`` the time to read one prompt once its turn has come.
    """

    batch: Floats
    in_flight: Floats
    requests_per_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    decode_s: Floats
    mixed_s: Floats
    mixed_part: Floats
    prefill_s: Floats

    def tokens_per_s(self, load: Load) -> Floats:
        """Return the output tokens a second of the replica."""
        return self.requests_per_s * load.output


def closed_loop(passes: Passes, load: Load, most: Floats, *, rounds: int = _ROUNDS) -> Steady:
    """Return the steady state with ``load.concurrency`` requests always in flight, at most ``most`` of them served."""
    room = _room(passes, load)
    served = np.minimum(np.maximum(most, 1e-6), load.concurrency)
    batch = np.minimum(served, room * load.steps / (load.read + load.steps))
    state = _step(passes, load, batch, served)
    for _ in range(rounds):
        decode_time = load.steps * state.tpot_s
        wanted = served * decode_time / (decode_time + state.ttft_s)
        wanted = np.minimum(wanted, room * load.steps / (load.read + load.steps))
        batch = np.sqrt(batch * wanted)
        state = _step(passes, load, batch, served)
    return _with_queue(load, state)


def _room(passes: Passes, load: Load) -> Floats:
    """Return the tokens that an iteration of the replica may hold."""
    tokens: Floats = load.chunk * passes.deployments.dp
    return tokens


def _step(passes: Passes, load: Load, batch: Floats, served: Floats) -> Steady:
    """Return the state in which ``batch`` requests decode."""
    context, read = load.context, load.read
    idle = np.zeros_like(batch)
    decode = passes.total(Iteration(decoding=batch, context=context, prompt=idle, prompts=idle, reach=load.input))
    wanted = batch * read / load.steps  # prompt tokens an iteration must read on average
    space = np.maximum(_room(passes, load) - batch, 1.0)
    prompt = np.minimum(np.maximum(read, wanted), space)
    prompts = prompt / read
    reach = np.where(prompts < 1.0, load.input - (read - prompt) / 2.0, load.input)
    together = np.maximum(prompts, 1.0)
    mixed = passes.total(Iteration(decoding=batch, context=context, prompt=prompt, prompts=together, reach=reach))
    part = np.minimum(wanted / prompt, 1.0)
    each = (1.0 - part) * decode + part * mixed
    reading = mixed * np.maximum(read / prompt, 1.0)
    rate = batch / (load.steps * each)
    ahead = np.maximum(served - batch, 0.0) * np.minimum(1.0, rate * reading / together)
    return Steady(
        batch=batch,
        in_flight=served,
        requests_per_s=rate,
        ttft_s=reading + each / 2.0 + ahead * reading / together / 2.0,
        tpot_s=each,
        decode_s=decode,
        mixed_s=mixed,
        mixed_part=part,
        prefill_s=reading,
    )


def _with_queue(load: Load, state: Steady) -> Steady:
    """Return the state with the wait of requests that no slot was free for, by Little's law."""
    there = np.where(np.isfinite(load.concurrency), load.concurrency, state.in_flight)
    ttft = np.maximum(there / state.requests_per_s - load.steps * state.tpot_s, 0.0)
    return replace(state, in_flight=there, ttft_s=ttft)


def static_batch(passes: Passes, load: Load) -> Steady:
    """Return what a fixed batch does: all prompts are read, then all answers written to their end together."""
    batch, idle, read = load.concurrency, np.zeros_like(load.concurrency), load.read
    prompt = np.minimum(batch * read, _room(passes, load))
    prompts = np.maximum(prompt / read, 1.0)
    reach = np.where(prompt < read, load.input - (read - prompt) / 2.0, load.input)
    reading = passes.total(Iteration(decoding=idle, context=load.input, prompt=prompt, prompts=prompts, reach=reach))
    reading = reading * batch * read / prompt
    decode = passes.total(Iteration(decoding=batch, context=load.context, prompt=idle, prompts=idle, reach=load.input))
    return Steady(
        batch=batch,
        in_flight=batch,
        requests_per_s=batch / (reading + load.steps * decode),
        ttft_s=reading,
        tpot_s=decode,
        decode_s=decode,
        mixed_s=reading,
        mixed_part=idle,
        prefill_s=reading,
    )
