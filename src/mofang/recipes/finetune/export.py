"""What a run leaves behind: a folder with adapters for PEFT, or one with the whole model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mofang.domain.scenario import Adapter
from mofang.recipes.finetune.folder import save_weights
from mofang.recipes.finetune.names import adapter_name
from mofang.recipes.training.output import replace_folder
from mofang.spec.weights import Stored

__all__ = ["export_adapter", "export_model"]


def export_adapter(parameters: Mapping[str, Tensor], adapter: Adapter, base: Path, output: Path) -> int:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as PEFT reads them; return their bytes.

    Args:
        parameters: the matrices of the adapters, by the model's own names.
        adapter: rank, scale and targets.
        base: the folder of the frozen model.
        output: the folder to write; what is there already is replaced.

    Raises:
        StoreError: it cannot be written.
    """

    def fill(draft: Path) -> None:
        tensors = {adapter_name(name): value.detach().cpu().contiguous() for name, value in parameters.items()}
        save_file(tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(_description(adapter, base), indent=2)
        (draft / "adapter_config.json").write_text(text, encoding="utf-8")

    return replace_folder(output, fill)


def _description(adapter: Adapter, base: Path) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": list(adapter.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def export_model(parameters: Mapping[str, Tensor], stored: Mapping[str, Stored], base: Path, output: Path) -> int:
    """Write a folder in Hugging Face format, with the base's configuration and tokenizer; return its bytes.

    Args:
        parameters: of the model, by its own names.
        stored: the tensors of ``base``.
        base: the folder that training began from.
        output: the folder to write; what is there already is replaced.

    Raises:
        StoreError: it cannot be written.
    """
    return replace_folder(output, lambda draft: save_weights(parameters, stored, base, draft))
