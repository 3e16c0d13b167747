"""The model's folder: weights by safetensors only, and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from mofang.domain.hardware import Precision
from mofang.errors import DataError
from mofang.spec.weights import stored_weights

__all__ = ["load_model", "load_tokenizer"]

_TYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}


def load_model(folder: Path, precision: Precision, device: torch.device) -> Any:
    """Return the model of the folder, ready to answer; nothing is fetched and no code of the folder is run.

    Raises:
        DataError: the folder lacks something, or its weights are damaged or of another model.
    """
    for needed in ("config.json", "*.safetensors", "tokenizer.json"):
        if not any(folder.glob(needed)):
            raise DataError(
                f"{folder} has no {needed}", hint="give a folder in Hugging Face format, with safetensors weights"
            )
    stored_weights(folder)  # a torn file is named
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=_TYPES[precision], local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise DataError(
            f"{folder} cannot be loaded: {_first_line(error)}", hint="are config.json and the weights of one model?"
        ) from error
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the folder's tokenizer.

    Raises:
        DataError: ``tokenizer.json`` cannot be read.
    """
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more exact
        raise DataError(f"{folder}/tokenizer.json cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
