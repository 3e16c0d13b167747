"""What a distribution of document lengths does to training: how full packed sequences are, how long padded ones."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

from mofang.domain.scenario import Lengths

__all__ = ["mean_length", "packed_fraction", "padded_length"]

Floats = NDArray[np.float64]

_GRID = 1025  # evenly spaced quantiles that lengths are read at
_DOCUMENTS = 2048  # packed to see how full sequences get


def packed_fraction(lengths: Lengths, sequence: int) -> float:
    """Return the part of packed sequences that is data, under best-fit packing (arXiv:2404.10830, section 3).

    Documents at evenly spaced quantiles, those longer than a sequence first cut into pieces of it, are put, longest
    first, where they leave the least room.
    """
    pieces = _pieces(lengths, sequence)
    rooms: list[int] = []  # left in open sequences, rising
    opened = 0
    for piece in pieces:
        place = bisect_left(rooms, piece)
        fits = place < len(rooms)
        opened += not fits
        left = (rooms.pop(place) if fits else sequence) - piece
        if left:
            insort(rooms, left)
    return sum(pieces) / (opened * sequence)


def _pieces(lengths: Lengths, sequence: int) -> list[int]:
    """Return the lengths of documents after cutting, longest first."""
    middles = (np.arange(_DOCUMENTS) + 0.5) / _DOCUMENTS
    points = np.linspace(0.0, 1.0, len(lengths.quantiles))
    documents = np.maximum(1, np.round(np.interp(middles, points, lengths.quantiles))).astype(np.int64)
    whole, rest = np.divmod(documents, sequence)
    return [sequence] * int(whole.sum()) + sorted((int(size) for size in rest if size), reverse=True)


def padded_length(lengths: Lengths, sequence: int, micro_batch: int) -> float:
    """Return the mean length of the longest of ``micro_batch`` documents, to which the others are padded.

    With quantile function Q it is the integral of Q(u) k u^(k-1) over 0..1, exact for a piecewise linear Q. Documents
    are cut at ``sequence`` tokens.
    """
    u = np.linspace(0.0, 1.0, _GRID)
    known = np.linspace(0.0, 1.0, len(lengths.quantiles))
    values = np.minimum(np.interp(u, known, lengths.quantiles), float(sequence))
    slope = np.diff(values) / np.diff(u)
    start = values[:-1] - slope * u[:-1]
    k = float(micro_batch)
    return float((start * np.diff(u**k) + slope * k / (k + 1.0) * np.diff(u ** (k + 1.0))).sum())


def mean_length(lengths: Lengths, sequence: int) -> float:
    """Return the mean length of documents cut at ``sequence`` tokens."""
    return padded_length(lengths, sequence, 1)
