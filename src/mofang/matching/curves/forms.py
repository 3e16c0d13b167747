"""What every fitted curve has in common: named positive parameters, limits of a chip, and smooth maxima."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Form", "Limits", "Shapes", "smooth_maximum"]

Floats = NDArray[np.float64]
Shapes = Mapping[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The data-sheet figures that a curve is a fraction of: FLOP/s, and bytes/s of memory.

    No form moves data faster than the data sheet says: a fitted share of the bandwidth above one counts as one.
    """

    peak: float
    bandwidth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A curve's shape: all parameters are positive, so that fits work on their logarithms.

    ``start`` are values that the fit begins with and is drawn to; ``width`` says how loosely, as a standard deviation
    of the logarithm. ``seconds(parameters, limits, shapes)`` takes the parameters in the order of ``start``.
    """

    start: Mapping[str, float]
    width: Mapping[str, float]
    seconds: Callable[[Floats, Limits, Shapes], Floats]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in order."""
        return tuple(self.start)


def smooth_maximum(first: Floats, second: Floats, sharpness: float) -> Floats:
    """Return (a^p + b^p)^(1/p): the larger of two times, and a little more where they are alike.

    Two resources in use at once slow each other where neither clearly limits; a roofline's corner is not sharp
    (Williams et al., CACM 52(4), 2009, draw the bound; measured curves stay below it).
    """
    large, small = np.maximum(first, second), np.minimum(first, second)
    ratio = small / np.maximum(large, 1e-30)
    return np.asarray(large * (1.0 + ratio**sharpness) ** (1.0 / sharpness))
