from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.domain.hardware import Pool, Precision
from mofang.domain.strategy import Method, Offload, Recompute, Sharding
from mofang.matching.candidates import METHODS, OFFLOADS, PRECISIONS, RECOMPUTES, SHARDINGS, Candidates
from mofang.matching.work import Work
from mofang.units import parse_request

CODES = {
    "precision": PRECISIONS,
    "recompute": RECOMPUTES,
    "sharding": SHARDINGS,
    "method": METHODS,
    "offload": OFFLOADS,
}
ONE = {
    "nodes": 1,
    "devices": 8,
    "threads": 1,
    "dp": 1,
    "tp": 1,
    "pp": 1,
    "cp": 1,
    "ep": 1,
    "vpp": 1,
    "micro_batch": 1,
    "accumulation": 8,
    "precision": Precision.BF16,
    "recompute": Recompute.NONE,
    "sharding": Sharding.ZERO1,
    "compile": 1,
    "method": Method.FULL,
    "offload": Offload.NONE,
}


def _column(name: str, value: object) -> np.ndarray:
    codes = CODES.get(name)
    values = np.atleast_1d(value) if not isinstance(value, str | list | tuple) or codes is None else value
    values = [values] if isinstance(values, str) else values
    return np.array([codes.index(one) for one in values] if codes else list(values), dtype=np.int64)


@pytest.fixture
def candidates() -> Callable[..., Candidates]:
    """Build candidates from columns of plain values; what is left out is as in ``ONE``."""

    def build(**columns: object) -> Candidates:
        arrays = {name: _column(name, value) for name, value in (ONE | columns).items()}
        size = max(len(array) for array in arrays.values())
        return Candidates(**{name: np.broadcast_to(array, size).copy() for name, array in arrays.items()})

    return build


@cache
def _catalog() -> Catalog:
    return Catalog.load()


@pytest.fixture
def catalog() -> Catalog:
    return _catalog()


@pytest.fixture
def pool() -> Callable[[str], Pool]:
    """Return the pool that a request such as ``H100:64`` describes."""
    return lambda text: described_pool(parse_request(text), _catalog())


@pytest.fixture
def work() -> Callable[..., Work]:
    """Return the work of training one of the catalogue's models."""

    def build(name: str, sequence: int = 4096, global_batch: int = 64, **more: object) -> Work:
        return Work(model=_catalog().model(name), sequence=sequence, global_batch=global_batch, steps=1, **more)

    return build
