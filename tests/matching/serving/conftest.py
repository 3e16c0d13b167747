"""Pools, models and scenarios that several tests of serving share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Goal, Lengths, Scenario, Serve, ServiceLevel, Traffic
from mofang.matching.serving.deployments import PRECISIONS, Deployments, Load
from mofang.units import DeviceRequest, Range


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture(scope="session")
def pool_of(catalog: Catalog) -> Callable[..., Pool]:
    def make(name: str, minimum: int = 1, maximum: int | None = 8) -> Pool:
        return described_pool(DeviceRequest(name=name, count=Range(minimum, maximum)), catalog)

    return make


@pytest.fixture(scope="session")
def llama(catalog: Catalog) -> ModelArchitecture:
    return catalog.model("llama-3.1-70b")


@pytest.fixture(scope="session")
def service(llama: ModelArchitecture) -> Callable[..., Scenario]:
    def make(goal: Goal = Goal.TIME, **changes: object) -> Scenario:
        settings: dict[str, object] = {
            "model": llama,
            "model_path": None,
            "traffic": Traffic(input=lengths(500, 1000, 2000), output=lengths(100, 250, 500), rate=4.0),
            "level": ServiceLevel(ttft_s=1.0, tpot_s=0.05),
        }
        return Scenario(name="service", task=Serve(**{**settings, **changes}), goal=goal)  # type: ignore[arg-type]

    return make


def lengths(*quantiles: float) -> Lengths:
    return Lengths(quantiles=tuple(float(value) for value in quantiles))


def cut_of(
    tp: int = 1, pp: int = 1, dp: int = 1, ep: int = 1, weights: Precision = Precision.FP8, n: int = 1
) -> Deployments:
    columns = {
        "tp": tp,
        "pp": pp,
        "dp": dp,
        "ep": ep,
        "weights": PRECISIONS.index(weights),
        "kv": PRECISIONS.index(Precision.BF16),
    }
    return Deployments(**{name: np.full(n, value) for name, value in columns.items()})


def load_with(concurrency: object, *, inputs: float = 1000.0, outputs: float = 500.0, chunk: float = 8192.0) -> Load:
    flight = np.atleast_1d(np.asarray(concurrency, dtype=np.float64))
    ones = np.ones_like(flight)
    return Load(
        input=ones * inputs,
        cached=ones * 0.0,
        output=ones * outputs,
        concurrency=flight,
        chunk=ones * chunk,
        max_requests=ones * 1024.0,
    )
