"""Fits the packaged calibration to the packaged measurements.

    python -m mofang.matching.serving.fit [OUTPUT]

Effects of who measured are fitted too, so that they do not pass for effects of a framework or a chip; they are not
packaged, since nobody's plan was measured by them. The interval's scale is that of publishers left out.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.catalog.measurements import load_serving
from mofang.matching.serving.calibration import effects_data
from mofang.matching.serving.effects import Effects
from mofang.matching.serving.samples import Measured, measured
from mofang.matching.serving.validation import left_out_scales, sums_of

__all__ = ["fit_all", "main"]

_WHO = {"publisher", "source"}


def fit_all(found: Measured) -> dict[str, Any]:
    """Return the data of the packaged file."""
    rows = [row for row, reason in zip(found.rows, found.reasons, strict=True) if reason is None]
    return {
        "source": "fitted by python -m mofang.matching.serving.fit to the packaged serving measurements",
        "rows": len(rows),
        "chips": dict(sorted(Counter(row.accelerator for row in rows).items())),
        "time": effects_data(_fitted(found, ("throughput", "tpot"))),
        "start": effects_data(_fitted(found, ("ttft",))),
    }


def _fitted(found: Measured, targets: Sequence[str]) -> Effects:
    sums, sample, _ = sums_of(found, targets, np.ones(len(found.rows), dtype=np.bool_))
    effects = sums.effects(left_out_scales(sums, sample))
    kept = {key for key in effects.means if not _WHO & set(effects.blocks[key[0]].labels)}
    return replace(
        effects,
        means={key: value for key, value in effects.means.items() if key in kept},
        sds={key: value for key, value in effects.sds.items() if key in kept},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    path = Path(given[0]) if given else Path(__file__).parent / "data" / "calibration.json"
    catalog = Catalog.load()
    data = fit_all(measured(load_serving(None, catalog).rows, catalog))
    path.write_text(json.dumps(data, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}: {data['rows']} rows\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
