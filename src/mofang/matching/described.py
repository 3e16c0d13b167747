"""Seconds of operators on an accelerator that nobody probed: curves fitted from published kernel timings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mofang.domain.hardware import Precision
from mofang.domain.rates import Operator, Phase
from mofang.matching.coefficients import coefficients
from mofang.matching.curves import Curves
from mofang.matching.operators import work

__all__ = ["DescribedSpeed"]

Floats = NDArray[np.float64]

# Passes over the matrix of scores where attention is not fused, bytes an element (16-bit scores): written, scaled and
# masked, softmax, dropout, read again; and the same way back (arXiv:2205.05198, section 4.1, counts what is kept).
_SCORES = {Phase.FORWARD: 13.0, Phase.BACKWARD: 20.0}
# Bytes moved to turn one activation or gradient into a narrow format: read in 16 bits, written as it is and transposed.
_NARROW = 4.0
_HALF_BYTES = 2.0  # an element of the formats that fused kernels are written for
_HALF = {Precision.FP8: Precision.BF16, Precision.FP4: Precision.BF16, Precision.INT8: Precision.BF16}


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedSpeed:
    """A chip known from its data sheet and from kernels that were timed on it or on its relatives.

    ``precision`` is that of the products; what has none of its own runs in 16 bits where products run in 8 or 4.
    """

    curves: Curves
    precision: Precision
    dispatch_s: float
    fused: bool = False
    fused_attention: bool = True
    slower_attention: float = 1.0  # over the fastest kernels that were timed
    sustained: float = 1.0  # part of the rate of kernels timed alone

    @property
    def element(self) -> float:
        """Bytes of an activation."""
        return self._half.bytes

    @property
    def _half(self) -> Precision:
        return _HALF.get(self.precision, self.precision)

    def seconds(self, operator: Operator, phase: Phase, shapes: Floats) -> Floats:
        """Return seconds at every row of ``shapes`` (Q x 3); a kernel takes at least as long as its launch."""
        if operator is Operator.LINEAR:
            busy, kernels = self._product(phase, shapes), 2.0 if phase is Phase.BACKWARD else 1.0
        elif operator is Operator.ATTENTION:
            busy, kernels = self._attention(phase, shapes), 1.0
        else:
            done = work(operator, phase, shapes, self.element, fused=self.fused)
            busy, kernels = self.curves.stream(done.bytes), done.kernels
        return np.maximum(busy, kernels * self.dispatch_s)

    def _product(self, phase: Phase, shapes: Floats) -> Floats:
        rows, outputs, inputs = shapes[:, 0], shapes[:, 1], shapes[:, 2]
        narrowed = self._narrowed(rows * (inputs if phase is Phase.FORWARD else outputs))
        if phase is Phase.FORWARD:
            return narrowed + self._matmul(rows, outputs, inputs)
        # The inputs' gradient sums over the outputs, the weights' gradient over the rows.
        data = self._matmul(rows, inputs, outputs)
        return narrowed + data + self._matmul(outputs, inputs, rows)

    def _matmul(self, rows: Floats, outputs: Floats, inputs: Floats) -> Floats:
        alone = self.curves.matmul(self.precision, rows, outputs, inputs, use="training")
        return alone / self.sustained

    def _narrowed(self, elements: Floats) -> Floats:
        """Return the seconds of casting what products read to 8 or 4 bits."""
        return self.curves.stream(_NARROW * elements) if self.precision in _HALF else np.zeros_like(elements)

    def _attention(self, phase: Phase, shapes: Floats) -> Floats:
        heads, sequence, head = shapes[:, 0], shapes[:, 1], shapes[:, 2]
        if not self.fused_attention:
            return self._unfused(phase, heads, sequence, head)
        if self.element > _HALF_BYTES:
            return self._two_products(phase, heads * sequence, sequence / 2.0, head)
        forward = self.curves.attention(
            heads=heads,
            kv_heads=heads,
            head_dim=head,
            batch=np.ones_like(heads),
            sequence=sequence,
            kv_length=sequence,
            precision=self._half,
            kv_precision=self._half,
            phase="prefill",
        )
        backward = coefficients().attention_backward if phase is Phase.BACKWARD else 1.0
        return forward * backward * self.slower_attention / self.sustained

    def _unfused(self, phase: Phase, heads: Floats, sequence: Floats, head: Floats) -> Floats:
        """Return two whole products a head (nothing is skipped for a causal mask) and the passes over their scores."""
        rows = heads * sequence
        moved = self.curves.stream(_SCORES[phase] * rows * sequence)
        return np.asarray(self._two_products(phase, rows, sequence, head) + moved)

    def _two_products(self, phase: Phase, rows: Floats, seen: Floats, head: Floats) -> Floats:
        """Return scores and mixed values as products over ``seen`` positions a row; twice as many on the way back."""
        times = 4.0 if phase is Phase.BACKWARD else 2.0
        return times * self.curves.matmul(self._half, rows, seen, head)
