"""Fit the packaged risk models: ``python -m mofang.recovery.prediction.train [FOLDER]`` writes data/node_risk.json."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mofang.errors import DataError
from mofang.recovery.prediction.logs import read_fault_logs
from mofang.recovery.prediction.packaged import risks_text
from mofang.recovery.prediction.validation import packaged_from

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Fit to the logs of the folder that was named, or of the reference data."""
    root = os.environ.get("MOFANG_REFERENCE_DATA", "")
    if not words and not root:
        raise DataError("no folder was named and MOFANG_REFERENCE_DATA is not set", hint="name a folder of fault logs")
    folder = Path(words[0]) if words else Path(root, "faults")
    risks = {history.name: packaged_from(history) for history in read_fault_logs(folder)}
    target = Path(__file__).parent / "data" / "node_risk.json"
    target.write_text(risks_text(risks), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
