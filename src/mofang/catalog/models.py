"""The columns of models, and how they become architectures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mofang.catalog.schema import Column, Schema, count, flag, name, names, text
from mofang.catalog.table import Kind
from mofang.domain.model import Attention, MixtureOfExperts, ModelArchitecture, MultiHeadLatent
from mofang.errors import CatalogError

__all__ = ["MODELS", "PublishedModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A model with the parameter counts that its makers published; the architecture computes its own."""

    name: str
    architecture: ModelArchitecture
    published_params: int | None = None
    published_active_params: int | None = None  # some count the input embedding among these, some do not
    aliases: tuple[str, ...] = ()
    notes: str = ""


_SIZES = (
    Column("layers", count, ...),
    Column("hidden", count, ...),
    Column("heads", count, ...),
    Column("kv_heads", count),  # empty: as many as heads
    Column("head_dim", count),  # empty: hidden / heads
    Column("ffn", count, ...),
    Column("vocab", count, ...),
    Column("max_sequence", count, ...),
)
_OPTIONS = (
    Column("gated_ffn", flag, True),
    Column("tied_embeddings", flag, False),
    Column("learned_positions", flag, False),
    Column("extra_positions", count, 0),
    Column("embedding_norm", flag, False),
    Column("attention_bias", flag, False),
    Column("output_bias", flag, False),
    Column("ffn_bias", flag, False),
    Column("norm_bias", flag, False),
    Column("norms_per_layer", count, 2),
    Column("qk_norm", flag, False),
    Column("qk_norm_wide", flag, False),
    Column("attention_sinks", flag, False),
    Column("final_norm", flag, True),
    Column("lm_head_bias", flag, False),
)
_LATENT = (
    Column("kv_lora_rank", count),
    Column("q_lora_rank", count),
    Column("qk_nope_head_dim", count),
    Column("qk_rope_head_dim", count),
    Column("v_head_dim", count),
)
_EXPERTS = (
    Column("num_experts", count),
    Column("top_k", count),
    Column("expert_ffn", count),
    Column("num_shared", count, 0),
    Column("shared_ffn", count, 0),
    Column("dense_layers", count, 0),
    Column("every", count, 1),
    Column("router_bias", flag, False),
    Column("shared_gate", flag, False),
)


def _model(row: dict[str, Any]) -> PublishedModel:
    latent = _group(row, "kv_lora_rank", _LATENT, optional={"q_lora_rank"})
    experts = _group(row, "num_experts", _EXPERTS)
    sizes = {column.name: row[column.name] for column in (*_SIZES, *_OPTIONS)}
    sizes["kv_heads"] = row["kv_heads"] if row["kv_heads"] is not None else row["heads"]
    sizes["head_dim"] = row["head_dim"] if row["head_dim"] is not None else _head_dim(row)
    architecture = ModelArchitecture(
        name=row["name"],
        attention=Attention.LATENT if latent else Attention.GROUPED,
        latent=MultiHeadLatent(**latent) if latent else None,
        moe=MixtureOfExperts(**experts) if experts else None,
        source=row["source"],
        **sizes,
    )
    return PublishedModel(
        name=row["name"],
        architecture=architecture,
        published_params=row["params"],
        published_active_params=row["active_params"],
        aliases=row["aliases"],
        notes=row["notes"],
    )


def _head_dim(row: dict[str, Any]) -> int:
    hidden, heads = row["hidden"], row["heads"]
    if heads < 1 or hidden % heads:
        raise CatalogError(
            f"model {row['name']}: hidden must be a multiple of heads: {hidden} / {heads}",
            hint="or give head_dim",
        )
    return int(hidden // heads)


def _group(
    row: dict[str, Any], first: str, columns: tuple[Column, ...], optional: frozenset[str] | set[str] = frozenset()
) -> dict[str, Any]:
    """Return the columns that belong together, or nothing where the first of them is empty."""
    found = {column.name: row[column.name] for column in columns}
    given = [column.name for column in columns if row[column.name] != column.default]
    if row[first] is None:
        if given:
            raise CatalogError(f"model {row['name']}: {given[0]} is given, but not {first}", hint=f"give {first} too")
        return {}
    missing = [column for column, value in found.items() if value is None and column not in optional]
    if missing:
        raise CatalogError(f"model {row['name']}: {first} is given, but not {missing[0]}", hint=f"give {missing[0]}")
    return found


MODELS = Kind(
    word="model",
    schema=Schema(
        Column("name", name, ...),
        Column("aliases", names, ()),
        Column("params", count),
        Column("active_params", count),
        *_SIZES,
        *_OPTIONS,
        *_LATENT,
        *_EXPERTS,
        Column("source", text, ...),
        Column("notes", text, ""),
    ),
    build=_model,
)
