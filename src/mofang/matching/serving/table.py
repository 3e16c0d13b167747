"""Each deployment of a space at a grid of loads, calibrated: what operating points are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Traffic
from mofang.matching.serving.calibration import calibration
from mofang.matching.serving.capacity import cache_tokens, most_requests, static_memory
from mofang.matching.serving.deployments import PRECISIONS, Deployments, Load
from mofang.matching.serving.effects import REGIME, Sample
from mofang.matching.serving.passes import Passes
from mofang.matching.serving.points import operating_point, regimes
from mofang.matching.serving.samples import model_kind
from mofang.matching.serving.space import Space
from mofang.matching.serving.steady import Steady, closed_loop

__all__ = ["Calibrated", "Table", "calibrated", "load_of", "passes_of", "table_of"]

Floats = NDArray[np.float64]

_GRID: Floats = np.exp2(np.arange(13, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Log factors: on the time of iterations, and on the time to the first token.

    Their standard deviations are those below and above (rows x 2).
    """

    time: Floats
    time_sd: Floats
    start: Floats
    start_sd: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A space's deployments (rows) at ``grid`` requests in flight (columns of the two-dimensional arrays), calibrated.

    ``most`` is how many requests a replica serves at once, ``cache`` the tokens its caches hold (negative: the weights
    do not fit), ``longest`` whether the longest request fits.
    """

    space: Space
    cut: Deployments
    memory: Mapping[str, Floats]
    cache: Floats
    most: Floats
    fits: NDArray[np.bool_]
    grid: Floats
    requests_per_s: Floats
    tpot_s: Floats
    spread_s: Floats  # standard deviation of a request's mean time per token
    decode_s: Floats
    prefill_s: Floats
    ttft_s: Floats
    occupied_s: Floats  # time that one prompt keeps the engine from decoding
    time_sd: Floats  # log standard deviations below and above (rows x grid x 2) of an iteration
    start_sd: Floats  # and of the time to the first token

    def __len__(self) -> int:
        return len(self.most)


def load_of(traffic: Traffic, space: Space, concurrency: Floats) -> Load:
    """Return the load of replicas with this many requests in flight each."""
    ones = np.ones_like(concurrency)
    return Load(
        input=ones * traffic.input.mean,
        cached=ones * traffic.input.mean * traffic.prefix_hit,
        output=ones * traffic.output.mean,
        concurrency=concurrency,
        chunk=ones * space.settings.chunk,
        max_requests=ones * space.settings.max_requests,
    )


def passes_of(model: ModelArchitecture, space: Space, cut: Deployments) -> Passes:
    """Return the passes of deployments of a space."""
    return Passes(model=model, pool=space.pool, deployments=cut, settings=space.settings)


def table_of(model: ModelArchitecture, traffic: Traffic, space: Space) -> Table:
    """Return the table of a space. ``longest`` requests must fit into the cache."""
    cut, one = space.cut, np.ones(len(space.cut))
    full = load_of(traffic, space, one * np.inf)
    cache = cache_tokens(model, space.pool, cut, full, space.settings)
    most = np.floor(most_requests(full, cache, cut, space.settings))
    longest = (traffic.input.quantiles[-1] + traffic.output.quantiles[-1]) * cut.dp
    highest = 2.0 * max(float(most.max(initial=1.0)), 1.0)
    grid = _GRID[highest > _GRID]
    rows = np.repeat(np.arange(len(cut)), len(grid))
    served = np.maximum(np.minimum(np.tile(grid, len(cut)), np.maximum(most, 1.0)[rows]), 1.0)
    load, wide = load_of(traffic, space, served), cut.where(rows)
    passes = passes_of(model, space, wide)
    state = closed_loop(passes, load, served)
    factors = calibrated(passes, load, state, space, model)
    slower, later = np.exp(factors.time), np.exp(factors.start)
    shape = (len(cut), len(grid))
    marginal = np.maximum(state.mixed_s - state.decode_s, 0.0) * state.prefill_s / np.maximum(state.mixed_s, 1e-12)
    return Table(
        space=space,
        cut=cut,
        memory=static_memory(model, cut, full),
        cache=cache,
        most=most,
        fits=(cache >= longest) & (most >= 1.0),
        grid=grid,
        requests_per_s=(state.requests_per_s / slower).reshape(shape),
        tpot_s=(state.tpot_s * slower).reshape(shape),
        spread_s=(_spread(state, load) * slower).reshape(shape),
        decode_s=(state.decode_s * slower).reshape(shape),
        prefill_s=(state.prefill_s * later).reshape(shape),
        ttft_s=(state.ttft_s * later).reshape(shape),
        occupied_s=(marginal / _together(state, load) * slower).reshape(shape),
        time_sd=factors.time_sd.reshape(*shape, 2),
        start_sd=factors.start_sd.reshape(*shape, 2),
    )


def _together(state: Steady, load: Load) -> Floats:
    """Return how many prompts an iteration reads together."""
    return np.maximum(state.batch * load.read / load.steps / np.maximum(load.read, 1.0), 1.0)


def _spread(state: Steady, load: Load) -> Floats:
    """Return how far requests' mean times per token lie apart: prompts that came in between, and a batch that varies.

    Of ``steps`` iterations a random number is mixed (binomial), and the batch varies as a Poisson number does.
    """
    part, steps = state.mixed_part, load.steps
    prompts = (state.mixed_s - state.decode_s) * np.sqrt(part * (1.0 - part) / steps)
    slope = 0.5 * state.decode_s / np.maximum(state.batch, 1.0)
    return np.sqrt(prompts**2 + slope**2 * state.batch / np.maximum(steps / 10.0, 1.0))


def calibrated(
    passes: Passes, load: Load, state: Steady, space: Space, model: ModelArchitecture, *, divided: bool = False
) -> Calibrated:
    """Return what measurements add to the model's own predictions of these states, and how sure that is.

    ``divided``: the replicas do prefill or decode only.
    """
    features = operating_point(passes, load, state)
    size, chip = len(state.batch), space.option.pool.accelerator
    own = None if space.option.known is None else space.option.known.services
    version = space.framework.version.split("-")[0]
    texts = {
        "framework": space.framework.name,
        "chip": chip.name,
        "vendor": chip.vendor,
        "generation": chip.architecture,
        "kind": model_kind(model),
        "model": model.name,
        "version": ".".join(version.split(".")[:2]),
        "publisher": "" if own is None else own.publisher_on(chip.name),
        "source": "",
        "mode": "0",
        "target": "tpot",
    }
    labels = {name: np.full(size, text) for name, text in texts.items()}
    labels[REGIME] = regimes(features, np.full(size, divided))
    labels["precision"] = np.array([precision.value for precision in PRECISIONS])[passes.deployments.weights]
    sample = Sample(labels=labels, features=features)
    known = calibration() if own is None else own.calibration
    time, time_sd = known.time.predict(sample)
    start, start_sd = known.start.predict(sample)
    return Calibrated(time=time, time_sd=time_sd, start=start, start_sd=start_sd)
