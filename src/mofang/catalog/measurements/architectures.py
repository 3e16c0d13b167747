"""The architecture that a measurement ran: the sizes its row states, completed from the catalogue.

A row may state sizes that differ from the published model (fewer layers, a padded vocabulary): they count. Sizes that
neither states make the architecture unknown, except the number of layers where the count of parameters fixes it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from mofang.catalog.measurements.cells import BrokenRowError
from mofang.catalog.measurements.families import is_plain, unpublished
from mofang.catalog.measurements.sizes import ROUNDED, Sizes, agrees, solved
from mofang.domain.model import MixtureOfExperts, ModelArchitecture
from mofang.errors import SpecError

__all__ = ["architecture_of"]


@lru_cache(maxsize=4096)
def architecture_of(sizes: Sizes, published: ModelArchitecture | None) -> ModelArchitecture | None:
    """Return the architecture, or None where an essential size is unknown.

    Args:
        sizes: what the row states.
        published: the catalogue's model of that name, if it has one.

    Raises:
        BrokenRowError: the sizes contradict each other.
    """
    try:
        if published is None or not _same_shape(sizes, published):
            return unpublished(sizes)
        built = _completed(sizes, published)
        return built if agrees(built, sizes) else _nearer(built, unpublished(sizes), sizes)
    except SpecError as error:
        raise BrokenRowError(error.message) from error


def _nearer(built: ModelArchitecture, stated: ModelArchitecture | None, sizes: Sizes) -> ModelArchitecture:
    """Return the architecture from the row alone where only that one has the stated count of parameters."""
    return stated if stated is not None and is_plain(sizes.model) and agrees(stated, sizes) else built


def _same_shape(sizes: Sizes, published: ModelArchitecture) -> bool:
    """Whether the row means this model, perhaps with fewer layers: its width is the same, or not stated."""
    if sizes.hidden is not None:
        return sizes.hidden == published.hidden
    return agrees(published, sizes, ROUNDED)


def _completed(sizes: Sizes, published: ModelArchitecture) -> ModelArchitecture:
    stated = {
        name: value
        for name in ("layers", "heads", "kv_heads", "ffn", "vocab")
        if (value := getattr(sizes, name)) is not None and value != getattr(published, name)
    }
    if "heads" in stated and published.latent is None:
        stated["head_dim"] = published.hidden // stated["heads"]
    experts = published.moe
    if experts is not None:
        stated.pop("ffn", None)  # what a source states of such a model is seldom the dense layers' size
        experts = _experts(sizes, experts)
    sequence = _positions(sizes, published) if published.learned_positions else published.max_sequence
    built = replace(published, moe=experts, max_sequence=sequence, **stated)
    reduced = sizes.hidden is not None and sizes.layers is None and sizes.params is not None
    return solved(built, sizes) if reduced and not agrees(built, sizes, ROUNDED) else built


def _positions(sizes: Sizes, published: ModelArchitecture) -> int:
    return max(sizes.sequence or 0, published.max_sequence)


def _experts(sizes: Sizes, published: MixtureOfExperts) -> MixtureOfExperts:
    return replace(
        published,
        num_experts=sizes.num_experts or published.num_experts,
        top_k=sizes.top_k or published.top_k,
        expert_ffn=sizes.expert_ffn or published.expert_ffn,
    )
