"""Models that the catalogue does not know, from the sizes of a row alone, in the style of their family."""

from __future__ import annotations

from mofang.catalog.measurements.sizes import CLOSE, ROUNDED, Sizes, agrees, solved
from mofang.domain.model import MixtureOfExperts, ModelArchitecture

__all__ = ["is_plain", "unpublished"]


def unpublished(sizes: Sizes) -> ModelArchitecture | None:
    """Return a model that the catalogue does not know, in the style of its family; None where a size is missing."""
    if sizes.hidden is None or sizes.vocab is None or (sizes.layers is None and sizes.params is None):
        return None
    if sizes.ffn is None and sizes.expert_ffn is None and not is_plain(sizes.model):
        return None
    built = [_built(sizes, gated_ffn=gated, tied_embeddings=tied) for gated, tied in _styles(sizes.model)]
    if sizes.params is None or sizes.layers is None:
        return built[0]
    for within in (CLOSE, ROUNDED / 2):
        for one in built:
            if agrees(one, sizes, within):
                return one
    return built[0]


_PLAIN = ("gpt", "mpt", "opt", "bloom", "nemotron", "megatron", "mt-nlg", "turing", "falcon", "pythia")
_UNTIED = ("nemotron", "falcon", "pythia")


def _styles(model: str) -> tuple[tuple[bool, bool], ...]:
    """Return (gated feed-forward, tied embeddings) as the family is likeliest to have them, the likeliest first."""
    gated = not is_plain(model)
    tied = not gated and not model.casefold().startswith(_UNTIED)
    return (gated, tied), (gated, not tied), (not gated, tied), (not gated, not tied)


def is_plain(model: str) -> bool:
    """Whether the family has a feed-forward of two matrices, four times as wide as the model."""
    return model.casefold().startswith(_PLAIN) and "gpt oss" not in model.casefold()


def _built(sizes: Sizes, *, gated_ffn: bool, tied_embeddings: bool) -> ModelArchitecture:
    hidden = sizes.hidden or 0
    heads = sizes.heads or max(1, hidden // 128)
    learned = sizes.model.casefold().startswith(("gpt", "mpt"))
    built = ModelArchitecture(
        name=sizes.model,
        layers=sizes.layers or 1,
        hidden=hidden,
        heads=heads,
        kv_heads=sizes.kv_heads or heads,
        ffn=sizes.ffn or (0 if sizes.expert_ffn else 4 * hidden),
        vocab=sizes.vocab or 0,
        head_dim=max(1, hidden // heads),
        max_sequence=sizes.sequence or 2048,
        gated_ffn=gated_ffn,
        tied_embeddings=tied_embeddings,
        learned_positions=learned and not gated_ffn,
        attention_bias=learned,
        output_bias=learned,
        ffn_bias=learned,
        norm_bias=not gated_ffn,
        moe=_own_experts(sizes),
        source="sizes as the measurement states them",
    )
    return built if sizes.layers is not None else solved(built, sizes)


def _own_experts(sizes: Sizes) -> MixtureOfExperts | None:
    if sizes.num_experts is None:
        return None
    return MixtureOfExperts(
        num_experts=sizes.num_experts,
        top_k=sizes.top_k or 1,
        expert_ffn=sizes.expert_ffn or sizes.ffn or 4 * (sizes.hidden or 0),
    )
