"""The weights of a folder in Hugging Face format, looked at through the headers of their files only.

A safetensors file is eight bytes with the length of a JSON header, the header, and the values it describes
(https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mofang.domain.model import ModelArchitecture
from mofang.errors import DataError

__all__ = ["Stored", "check_weights", "expected_shapes", "fingerprint", "layer_shapes", "stored_weights"]

_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
_HINT = "copy the folder again; its config.json and all its *.safetensors belong together"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor: the file that holds it, its type in the words of safetensors (F32, BF16 ...), and its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def stored_weights(folder: Path) -> Mapping[str, Stored]:
    """Return every tensor of a folder by name.

    Raises:
        DataError: there are none, or a file is torn or no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(
            f"{folder} has no *.safetensors", hint="give a folder with weights in safetensors format (no .bin, no .pt)"
        )
    found: dict[str, Stored] = {}
    for file in files:
        for name, stored in _tensors(file):
            if name in found:
                raise DataError(f"{name} is in {found[name].file.name} and in {file.name} of {folder}", hint=_HINT)
            found[name] = stored
    return found


def _tensors(file: Path) -> Iterator[tuple[str, Stored]]:
    header, start = _header(file)
    end = start
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(size) for size in entry["shape"])
            end = max(end, start + int(entry["data_offsets"][1]))
            yield name, Stored(file=file, dtype=str(entry["dtype"]), shape=shape)
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise DataError(f"{file} is not a safetensors file: its entry {name!r} is wrong", hint=_HINT) from error
    if file.stat().st_size < end:
        raise DataError(f"{file} is torn: {file.stat().st_size} of {end} bytes", hint=_HINT)


def _header(file: Path) -> tuple[dict[str, Any], int]:
    try:
        with file.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            header = json.loads(stream.read(length)) if length <= _LARGEST_HEADER else None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint="may you read it?") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise DataError(f"{file} is torn or not a safetensors file: its header cannot be read", hint=_HINT) from error
    if not isinstance(header, dict):
        raise DataError(f"{file} is not a safetensors file", hint=_HINT)
    return header, 8 + length


def fingerprint(stored: Mapping[str, Stored]) -> str:
    """Return a name for these weights: it changes when a file is replaced or written again."""
    files = sorted({tensor.file for tensor in stored.values()})
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def layer_shapes(model: ModelArchitecture) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one layer of the Llama family by the part of their names after ``model.layers.N.``."""
    hidden, ffn = model.hidden, model.ffn
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    products = {
        "self_attn.q_proj": (query, hidden, model.attention_bias),
        "self_attn.k_proj": (key, hidden, model.attention_bias),
        "self_attn.v_proj": (key, hidden, model.attention_bias),
        "self_attn.o_proj": (hidden, query, model.output_bias),
        "mlp.gate_proj": (ffn, hidden, model.ffn_bias),
        "mlp.up_proj": (ffn, hidden, model.ffn_bias),
        "mlp.down_proj": (hidden, ffn, model.ffn_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if model.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (model.head_dim,) for name in ("q", "k")}
    for name, (outputs, inputs, bias) in products.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


def expected_shapes(model: ModelArchitecture) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a folder of this model holds, in the names of the Llama family."""
    table = (model.vocab, model.hidden)
    shapes = {"model.embed_tokens.weight": table, "model.norm.weight": (model.hidden,)}
    for index in range(model.layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer_shapes(model).items()}
    if not model.tied_embeddings:
        shapes["lm_head.weight"] = table
    return shapes


def check_weights(folder: Path, model: ModelArchitecture) -> Mapping[str, Stored]:
    """Return the tensors of a folder, which are those of the model.

    Raises:
        DataError: a file is torn, or a tensor is missing, too many, or of another shape.
    """
    stored, expected = stored_weights(folder), expected_shapes(model)
    missing = [name for name in expected if name not in stored]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} tensors of its model, the first is {missing[0]}", hint=_HINT)
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise DataError(
                f"{name} in {stored[name].file} is {list(stored[name].shape)}, and config.json says {list(shape)}",
                hint=_HINT,
            )
    unknown = [name for name in stored if name not in expected and not _is_idle(name, model)]
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} tensors that its config.json does not explain, the first is {unknown[0]}",
            hint="is it a model of the Llama family?",
        )
    return stored


def _is_idle(name: str, model: ModelArchitecture) -> bool:
    """Whether a tensor has no part in the computation: a table that can be computed, or a copy of a tied one."""
    return name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and model.tied_embeddings)
