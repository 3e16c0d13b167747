"""How good the packaged fits are, as a table: ``python -m mofang.matching.curves.quality``."""

from __future__ import annotations

import sys

from mofang.matching.curves.packaged import Fits, fits
from mofang.matching.curves.relatives import LEVELS

__all__ = ["main", "quality_tables"]


def quality_tables(packaged: Fits) -> str:
    """Return two Markdown tables: every fit with its errors, and what borrowing costs."""
    lines = [
        "| chip | operator | timings | median error | p90 | median error, held-out shapes |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for chip in packaged.kin:
        for family, found in sorted(packaged.fits.items()):
            if chip in found:
                fit = found[chip]
                figures = (fit.median_error, fit.p90_error, fit.held_out_median_error)
                errors = " | ".join(f"{100 * value:.1f} %" for value in figures)
                lines.append(f"| {chip} | {family} | {fit.points} | {errors} |")
    lines += ["", f"| operator | {' | '.join(LEVELS)} |", "|---|--:|--:|--:|"]
    for kind, levels in packaged.borrowing.items():
        lines.append(f"| {kind} | {' | '.join(f'{levels[level]:.2f}' for level in LEVELS)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the tables."""
    sys.stdout.write(quality_tables(fits()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
