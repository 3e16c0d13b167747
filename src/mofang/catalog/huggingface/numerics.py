"""What a ``config.json`` of the Llama family says beside its sizes, for those who compute with the weights."""

from __future__ import annotations

from pathlib import Path

from mofang.catalog.huggingface.config import Config, load
from mofang.domain.recipe import Numerics, Rotary, Stretch

__all__ = ["COMPUTED", "end_of_text", "read_numerics"]

COMPUTED = ("llama", "mistral", "qwen2", "qwen3")  # families whose every operation the recipes know
_EPSILON = 1e-6  # of all of them, where the file does not say
_HINT = "the recipe would compute something else than the model was trained for"


def read_numerics(path: Path, *, sequence: int) -> Numerics:
    """Return the numerics of a model of the Llama family.

    Args:
        path: ``config.json``, or the folder that holds one.
        sequence: the longest sequence that is to be computed.

    Raises:
        CatalogError: the file cannot be read, or asks for an operation that the recipes do not know; the key is named.
    """
    config = load(path)
    family = config.text("model_type")
    if family not in COMPUTED:
        raise config.error(
            "model_type", f"is {family!r}, whose weights the recipe cannot read", f"it reads {', '.join(COMPUTED)}"
        )
    config.require("hidden_act", expected="silu")
    _check_window(config, family, sequence)
    epsilon = _number(config, "rms_norm_eps", _EPSILON)
    return Numerics(norm_epsilon=epsilon, rotary=_rotary(config))


def end_of_text(path: Path) -> int | None:
    """Return the token that ends a text (the first one where there are several), or None where there is none.

    Raises:
        CatalogError: the file cannot be read, or the key is no token.
    """
    config = load(path)
    value = config.values.get("eos_token_id")
    first = value[0] if isinstance(value, list) and value else value
    if first is None:
        return None
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise config.error("eos_token_id", "is not a token: it must be a whole number or a list of them")
    return first


def _check_window(config: Config, family: str, sequence: int) -> None:
    used = config.flag("use_sliding_window", default=False) if family.startswith("qwen") else True
    window = config.values.get("sliding_window")
    if used and isinstance(window, int) and sequence > window:
        raise config.error(
            "sliding_window", f"is {window}, shorter than the sequence of {sequence}", f"use a sequence of {window}"
        )


def _rotary(config: Config) -> Rotary:
    """Return the rotary positions; transformers 5 writes ``rope_parameters``, earlier ones two keys."""
    key = next((key for key in ("rope_parameters", "rope_scaling") if config.has(key)), None)
    part = config if key is None else config.part(key)
    base = _number(part, "rope_theta", _number(config, "rope_theta", 10_000.0))
    if _number(part, "partial_rotary_factor", _number(config, "partial_rotary_factor", 1.0)) != 1.0:
        raise config.error("partial_rotary_factor", "is not 1, which the recipe does not know", _HINT)
    if key is None:
        return Rotary(base=base)
    kind = part.values.get("rope_type") or part.values.get("type") or "default"
    if kind == "default":
        return Rotary(base=base)
    if kind == "linear":
        return Rotary(base=base, factor=_number(part, "factor"))
    if kind != "llama3":
        raise part.error("rope_type", f"is {kind!r}, which the recipe does not know", _HINT)
    stretch = Stretch(
        original_length=part.count("original_max_position_embeddings"),
        low_turns=_number(part, "low_freq_factor"),
        high_turns=_number(part, "high_freq_factor"),
    )
    return Rotary(base=base, factor=_number(part, "factor"), stretch=stretch)


def _number(config: Config, key: str, default: float | None = None) -> float:
    value = config.values.get(key, default)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise config.error(key, "is missing" if value is None else "is not a number above zero")
    return float(value)
