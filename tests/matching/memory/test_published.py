"""Published device memory of training runs."""

import os
import statistics
from pathlib import Path

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_training
from mofang.matching.calibration.setting import Setting
from mofang.matching.calibration.translate import translate
from mofang.matching.memory import memory_parts

SOURCES = {"bigscience_tr11_topology": 0.10, "flagperf_paddle": 0.10}  # layouts stated in full, read from the device


@pytest.mark.parametrize("source", SOURCES)
def test_published_memory_is_near_the_prediction(source: str):
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the published measurements are not at hand")
    catalog, errors = Catalog.load(), []
    for row in load_training([Path(folder, "training_measurements.csv")], catalog).rows:
        if row.source_id != source or not row.memory_bytes:
            continue
        found = translate(row, catalog)
        assert isinstance(found, Setting)
        parts = memory_parts(found.work, found.pool, found.candidates, found.framework)
        errors.append(abs(sum(float(size[0]) for size in parts.values()) / row.memory_bytes - 1.0))
    assert len(errors) >= 15
    assert statistics.median(errors) <= SOURCES[source]
