"""Seconds of each operator on one chip, array-at-a-time, with what is known and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mofang.domain.hardware import Accelerator, Precision
from mofang.matching.curves.families import NUMBERS, form_of, limits_of, link_of, number_name, peak_of
from mofang.matching.curves.forms import Floats, Limits
from mofang.matching.curves.links import wire_fraction_at
from mofang.matching.curves.resolve import Curve, family_of

__all__ = ["Curves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Operators on one chip. Every method broadcasts its arrays and returns seconds.

    Times are of one operator alone, launched from a captured graph: no framework's overhead, no overlap with others.
    They are of inference kernels. In training, the two backward products are products of their own shapes and reach
    the same rates; backward attention does 2.5 times the forward's FLOP at roughly three quarters of its rate
    (FlashAttention-2, arXiv:2307.08691, and -3, arXiv:2407.08608); experts are routed evenly (``skew=0``).

    ``known`` and ``spread`` (log standard deviation of a prediction) are by number format or kind (``matmul/fp8``,
    ``attention-decode/bf16``, ``collective/all-gather``, ``stream/norm``) and by operator (``matmul``, ``attention``,
    ``experts``, ``collective``, ``stream``: that of bf16, prefill, all-reduce, add). ``basis`` is one sentence, for
    people.
    """

    accelerator: Accelerator
    known: Mapping[str, bool]
    spread: Mapping[str, float]
    basis: str
    curves: Mapping[str, Curve]

    def matmul(
        self,
        precision: str,
        m: ArrayLike,
        n: ArrayLike,
        k: ArrayLike,
        use: Literal["serving", "training"] = "serving",
    ) -> Floats:
        """Return seconds of (m x k) times (k x n).

        A format without a peak on this chip is weight-only: weights are stored in it, products run in bf16. fp8 in
        training is that of the vendor's library, which on large shapes beats the serving kernels.

        Args:
            precision: bf16, fp16, fp8, fp8-block, fp4 (nvfp4), int8, int4 (weight-only), tf32, fp32 or fp64.
            m: rows: tokens.
            n: outputs.
            k: inputs.
            use: whose kernels.

        Raises:
            UsageError: there is no such number format.
            CatalogError: the chip has no peak that serves.
        """
        name = "fp8-blas" if precision == "fp8" and use == "training" else precision
        family, limits, weight, activation = self._number("matmul", name)
        return self._seconds(family, limits, m=m, n=n, k=k, weight_bytes=weight, activation_bytes=activation)

    def attention(  # noqa: PLR0917 - sizes in the order that they are always named in
        self,
        heads: ArrayLike,
        kv_heads: ArrayLike,
        head_dim: ArrayLike,
        batch: ArrayLike,
        sequence: ArrayLike,
        kv_length: ArrayLike,
        precision: str = "bf16",
        kv_precision: str = "bf16",
        phase: Literal["prefill", "decode"] = "prefill",
    ) -> Floats:
        """Return seconds of causal attention with grouped queries on one device.

        Args:
            heads: query heads on this device.
            kv_heads: key and value heads on this device.
            head_dim: width of a head (timed at 128).
            batch: sequences.
            sequence: new positions of each sequence; 1 in decoding.
            kv_length: positions seen, the new ones included.
            precision: of the products: bf16 or fp16 (others run in bf16).
            kv_precision: of the cache: fp8, or else as the products.
            phase: ``prefill`` (also training's forward pass) or ``decode``.
        """
        number = Precision.FP16 if precision == "fp16" else Precision.BF16
        kv = "fp8" if kv_precision.startswith(("fp8", "int8")) else "bf16"
        return self._seconds(
            f"attention-{phase}/{kv}",
            limits_of(self.accelerator, number),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            batch=batch,
            sequence=sequence,
            kv_length=kv_length,
            kv_bytes=NUMBERS[kv].weight_bytes,
        )

    def experts(  # noqa: PLR0917 - sizes in the order that they are always named in
        self,
        precision: str,
        tokens: ArrayLike,
        hidden: ArrayLike,
        ffn: ArrayLike,
        num_experts: ArrayLike,
        top_k: ArrayLike,
        ep: ArrayLike = 1,
        skew: ArrayLike = 1.2,
    ) -> Floats:
        """Return seconds of the gate, up and down products of a mixture of experts on the busiest device.

        Args:
            precision: as in ``matmul``.
            tokens: of all devices that share the experts.
            hidden: the model's width.
            ffn: inner width of an expert on this device (divided by tensor parallelism).
            num_experts: of the whole layer.
            top_k: experts a token is sent to.
            ep: devices that the experts are divided among.
            skew: exponent of the power law that tokens follow (serving: about 1 to 1.2); 0 is balanced (training).
        """
        family, limits, weight, _ = self._number("experts", precision)
        return self._seconds(
            family,
            limits,
            tokens=tokens,
            hidden=hidden,
            ffn=ffn,
            num_experts=num_experts,
            top_k=top_k,
            ep=ep,
            skew=skew,
            weight_bytes=weight,
        )

    def collective(self, operation: str, size_bytes: ArrayLike, ranks: ArrayLike) -> Floats:
        """Return seconds of a collective inside one node; none at one rank.

        Args:
            operation: all-reduce, all-gather, reduce-scatter, all-to-all or send-recv, as the vendor's library runs
                them; all-reduce-custom: the faster of that and the engines' own kernels in a captured graph.
            size_bytes: of the whole tensor: what is reduced, what every rank has gathered, what one rank scatters or
                exchanges, what is sent.
            ranks: devices that take part, of one node or scale-up domain.

        Raises:
            UsageError: there is no such operation.
        """
        name = operation.replace("_", "-")
        sizes, counts = np.broadcast_arrays(np.asarray(size_bytes, dtype=np.float64), np.asarray(ranks))
        seconds = np.zeros(sizes.shape)
        several = np.flatnonzero(counts.ravel() > 1)
        found, place = np.unique(counts.ravel()[several].astype(np.int64), return_inverse=True)
        links = [link_of(self.accelerator, int(count)) for count in found]
        kinds, speeds = np.array([kind for kind, _ in links]), np.array([speed for _, speed in links])
        fractions = np.array([wire_fraction_at(name, int(count)) for count in found])
        for kind in sorted(set(kinds.tolist())):
            here = np.flatnonzero((kinds == kind)[place])
            rows, at = several[here], place[here]
            seconds.flat[rows] = self._exchange(name, kind, sizes.flat[rows] * fractions[at], found[at], speeds[at])
        return seconds

    def _exchange(self, operation: str, kind: str, wire: Floats, ranks: ArrayLike, link: Floats) -> Floats:
        shapes: dict[str, ArrayLike] = {"wire_bytes": wire, "ranks": ranks, "link": link}
        seconds = self._seconds(f"collective/{kind}/{operation}", self._memory, **shapes)
        if operation != "all-reduce-custom":
            return seconds
        return np.minimum(seconds, self._seconds(f"collective/{kind}/all-reduce", self._memory, **shapes))

    def stream(
        self,
        size_bytes: ArrayLike,
        kind: Literal["add", "norm", "activation", "rope"] = "add",
        width: ArrayLike = 0.0,
    ) -> Floats:
        """Return seconds of an operator that only moves data.

        Args:
            size_bytes: read and written altogether.
            kind: ``add`` reaches what the memory can do; the others were timed as engines ran them in 2024.
            width: elements of a row, which bounds the time of few rows from below (decoding); 0: not known.
        """
        return self._seconds(f"stream/{kind}", self._memory, bytes=size_bytes, width=width)

    @property
    def _memory(self) -> Limits:
        return Limits(peak=1.0, bandwidth=self.accelerator.memory_bandwidth)

    def _number(self, operator: str, precision: str) -> tuple[str, Limits, float, float]:
        """Return the family, the limits, and the bytes of a weight and an activation."""
        name = number_name(precision)
        number = NUMBERS[name]
        weight_only = peak_of(self.accelerator, number.peak) is None
        limits = limits_of(self.accelerator, Precision.BF16 if weight_only else number.peak)
        activation = 2.0 if weight_only else number.activation_bytes
        return family_of(operator, name, weight_only=weight_only), limits, number.weight_bytes, activation

    def _seconds(self, family: str, limits: Limits, **shapes: ArrayLike) -> Floats:
        """Return the geometric mean, by weight, of what the members of the family's curve say."""
        arrays = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in shapes.values()))
        named = dict(zip(shapes, arrays, strict=True))
        curve, form = self.curves[family], form_of(family)
        logs = sum(weight * np.log(form.seconds(values, limits, named)) for weight, values in curve.members)
        return np.asarray(np.exp(logs))
