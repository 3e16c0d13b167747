"""The sizes of a model that a measurement's row states."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mofang.catalog.measurements.cells import BrokenRowError, Cells
from mofang.domain.model import ModelArchitecture

__all__ = ["CLOSE", "ROUNDED", "Sizes", "agrees", "read_sizes", "solved"]

CLOSE = 0.03  # a computed count of parameters this far from the stated one is the same model
ROUNDED = 0.15  # and this far where the stated one is a name's round number (7B for 6.74B, 8B for 8.54B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a row states of a model; None: nothing."""

    model: str
    params: float | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    expert_ffn: int | None = None
    vocab: int | None = None
    num_experts: int | None = None
    top_k: int | None = None
    sequence: int | None = None
    pp: int | None = None  # an unstated number of layers is a multiple of the stages


def read_sizes(cells: Cells) -> Sizes:
    """Return what the row's columns state.

    Raises:
        BrokenRowError: a cell cannot be read.
    """
    ffn, expert_ffn = _feed_forward(cells)
    return Sizes(
        model=cells.required("model"),
        params=cells.scaled("params_b", 1e9),
        layers=cells.whole("layers"),
        hidden=cells.whole("hidden"),
        heads=cells.whole("heads"),
        kv_heads=cells.whole("kv_heads"),
        ffn=ffn,
        expert_ffn=expert_ffn,
        vocab=cells.whole("vocab"),
        num_experts=cells.whole("moe_experts"),
        top_k=cells.whole("moe_topk"),
        sequence=cells.whole("seq_len"),
        pp=cells.whole("pp"),
    )


def _feed_forward(cells: Cells) -> tuple[int | None, int | None]:
    """Return the dense and the expert feed-forward size: ``768 per expert`` is the latter."""
    written = cells.text("ffn_hidden").casefold()
    number, _, unit = written.partition(" ")
    if not written:
        return None, None
    if not number.isdigit() or unit not in {"", "per expert"} or int(number) < 1:
        raise BrokenRowError(f"ffn_hidden: {written[:40]!r} is not a whole number, or one 'per expert'")
    return (int(number), None) if not unit else (None, int(number))


def agrees(built: ModelArchitecture, sizes: Sizes, within: float = CLOSE) -> bool:
    """Whether the computed count of parameters is the stated one, or none is stated."""
    return sizes.params is None or abs(built.params / sizes.params - 1) < within


def solved(built: ModelArchitecture, sizes: Sizes) -> ModelArchitecture:
    """Return it with the number of layers that comes nearest to the stated count of parameters."""
    params, step = sizes.params or 0.0, sizes.pp or 1
    first = built.moe.dense_layers + 1 if built.moe is not None else 1
    counts = range(step * -(-first // step), 400, step)
    return min((replace(built, layers=count) for count in counts), key=lambda one: abs(one.params - params))
