"""Weights of a folder, the model that computes with them, its adapters, and what is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mofang.catalog.huggingface import read_config
from mofang.domain.hardware import Precision
from mofang.domain.recipe import FinetuneConfig
from mofang.domain.scenario import Adapter, Finetune, TextData
from mofang.domain.strategy import Method, Offload, Recompute, Strategy
from mofang.errors import CatalogError, DataError, SpecError
from mofang.recipes.finetune import folder as folder_module
from mofang.recipes.finetune.adapters import AdaptedLinear, fill_adapters, merged_weight
from mofang.recipes.finetune.build import build
from mofang.recipes.finetune.export import export_adapter, export_model
from mofang.recipes.finetune.folder import save_weights
from mofang.spec.weights import check_weights
from mofang.testing import a_model_folder

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": {},
    "llama with its own heads": {"head_dim": 24, "rms_norm_eps": 1e-6},
    "llama, tied": {"tie_word_embeddings": True},
    "llama 3.1": {"rope_theta": 500_000.0, "rope_scaling": LLAMA3},
    "llama, stretched": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None, "architectures": ["MistralForCausalLM"]},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "architectures": ["Qwen3ForCausalLM"]},
}


def config_for(folder: Path, method: Method = Method.FULL, strategy: dict | None = None, **task) -> FinetuneConfig:
    model = read_config(folder)
    values = {"model": model, "model_path": str(folder), "data": TextData(paths=("/x",)), "sequence": 32}
    made = Finetune(**(values | {"global_batch": 1} | task))
    return FinetuneConfig(
        task=made, strategy=Strategy(framework="finetune", method=method, **(strategy or {})), steps=1, output="/o"
    )


def built(config: FinetuneConfig):
    folder = Path(config.task.model_path)
    stored = check_weights(folder, config.task.model)
    return build(config, folder, stored, torch.device("cpu")), stored


def tokens(seed: int = 0, length: int = 32) -> torch.Tensor:
    return torch.randint(256, (2, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    folder = a_model_folder(tmp_path, **FAMILIES[family])
    made, _ = built(config_for(folder, sequence=96))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    given = tokens(length=96)
    with torch.no_grad():
        assert torch.allclose(made.model(given), theirs(given).logits, atol=2e-4)


def test_an_exported_model_loads_again_and_computes_the_same(tmp_path):
    folder = a_model_folder(tmp_path / "base", model_type="qwen3", head_dim=32)
    (folder / "generation_config.json").write_text("{}")
    made, stored = built(config_for(folder))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    size = export_model(dict(made.model.named_parameters()), stored, folder, tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    again, _ = built(config_for(tmp_path / "out"))
    assert torch.equal(made.model(tokens()), again.model(tokens()))
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {name: (value.shape, value.dtype) for name, value in before.items()} == {
        name: (value.shape, value.dtype) for name, value in after.items()
    }


def test_a_large_model_is_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "_LARGEST_FILE", 100_000)
    folder = a_model_folder(tmp_path / "base")
    made, stored = built(config_for(folder))
    (tmp_path / "out").mkdir()
    save_weights(dict(made.model.named_parameters()), stored, folder, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(stored)
    assert len(set(index["weight_map"].values())) > 2
    again, _ = built(config_for(tmp_path / "out"))
    assert torch.equal(made.model(tokens()), again.model(tokens()))


def adapted(folder: Path, **adapter):
    config = config_for(folder, Method.LORA, adapter=Adapter(**({"rank": 4, "alpha": 12.0} | adapter)))
    made, _ = built(config)
    fill_adapters(made.layout.parts, seed=3)
    return config, made


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(tmp_path):
    folder = a_model_folder(tmp_path)
    plain, _ = built(config_for(folder))
    config, made = adapted(folder)
    assert torch.equal(plain.model(tokens()), made.model(tokens()))
    trained = sum(part.tensor.numel() for part in made.layout.parts.values())
    model = config.task.model
    hidden, key, ffn = model.hidden, model.kv_heads * model.head_dim, model.ffn
    per_layer = 2 * (hidden + hidden) + 2 * (hidden + key) + 3 * (hidden + ffn)
    assert trained == 2 * 4 * per_layer
    made.model(tokens(), tokens(1)).backward()
    frozen = [name for name, value in made.model.named_parameters() if value.grad is None]
    assert all(".adapters." not in name for name in frozen)
    assert len(frozen) == sum(1 for _ in plain.model.parameters())


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("up_proj",), Adapter().targets])
def test_merged_weights_compute_what_base_and_adapter_compute(tmp_path, targets):
    folder = a_model_folder(tmp_path)
    _, made = adapted(folder, targets=targets)
    with torch.no_grad():
        for part in made.layout.parts.values():
            part.tensor.add_(0.1 * torch.randn(part.tensor.shape, generator=torch.Generator().manual_seed(1)))
    apart = made.model(tokens())
    plain, _ = built(config_for(folder))
    assert not torch.allclose(apart, plain.model(tokens()), atol=1e-2)
    modules = dict(plain.model.named_modules())
    with torch.no_grad():
        for name, module in made.model.named_modules():
            if isinstance(module, AdaptedLinear):
                modules[name].weight.copy_(merged_weight(module))
    assert torch.allclose(plain.model(tokens()), apart, atol=1e-4)


def test_an_exported_adapter_is_what_peft_reads(tmp_path):
    folder = a_model_folder(tmp_path / "base")
    config, made = adapted(folder, targets=("q_proj", "down_proj"), dropout=0.1)
    parameters = {name: part.tensor for name, part in made.layout.parts.items()}
    export_adapter(parameters, config.task.adapter, folder, tmp_path / "out")
    export_adapter(parameters, config.task.adapter, folder, tmp_path / "out")  # again, as after a kill
    assert {file.name for file in tmp_path.iterdir()} == {"base", "out"}
    description = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert description["peft_type"] == "LORA"
    assert description["base_model_name_or_path"] == str(folder)
    assert (description["r"], description["lora_alpha"], description["lora_dropout"]) == (4, 12.0, 0.1)
    assert description["target_modules"] == ["q_proj", "down_proj"]
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"
    assert set(saved) == {
        f"{prefix}.{layer}.{product}.lora_{matrix}.weight"
        for layer in (0, 1)
        for product in ("self_attn.q_proj", "mlp.down_proj")
        for matrix in "AB"
    }
    assert saved[f"{prefix}.1.mlp.down_proj.lora_A.weight"].shape == (4, 96)
    assert saved[f"{prefix}.1.mlp.down_proj.lora_B.weight"].shape == (64, 4)
    assert torch.equal(
        saved[f"{prefix}.1.self_attn.q_proj.lora_A.weight"], parameters["blocks.1.attention.qkv.adapters.q_proj.down"]
    )


def test_frozen_weights_are_kept_in_the_type_that_products_have(tmp_path):
    folder = a_model_folder(tmp_path)
    made, _ = built(config_for(folder, Method.LORA, {"precision": Precision.BF16}))
    fill_adapters(made.layout.parts, seed=0)
    types = {".adapters." in name: value.dtype for name, value in made.model.named_parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}
    whole, _ = built(config_for(folder, Method.FULL, {"precision": Precision.BF16}))
    assert {value.dtype for value in whole.model.parameters()} == {torch.float32}
    assert whole.model(tokens(), tokens()).item() == pytest.approx(made.model(tokens(), tokens()).item(), rel=1e-2)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients(tmp_path, dropout):
    folder = a_model_folder(tmp_path)
    gradients = []
    for recompute in (Recompute.NONE, Recompute.FULL):
        adapter = Adapter(rank=4, dropout=dropout)
        made, _ = built(config_for(folder, Method.LORA, {"recompute": recompute}, adapter=adapter))
        fill_adapters(made.layout.parts, seed=0)
        with torch.no_grad():
            for part in made.layout.parts.values():
                part.tensor.add_(0.1)
        made.layout.clear()
        torch.manual_seed(5)
        made.model(tokens(), tokens(1)).backward()
        gradients.append({name: value.clone() for name, value in made.layout.gradients().items()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-7) for name in gradients[0])


def test_dropout_is_for_training_only(tmp_path):
    _, made = adapted(a_model_folder(tmp_path), dropout=0.5)
    with torch.no_grad():
        for part in made.layout.parts.values():
            part.tensor.add_(0.1)
    assert not torch.equal(made.model(tokens()), made.model(tokens()))
    made.model.eval()
    assert torch.equal(made.model(tokens()), made.model(tokens()))


def test_a_document_in_a_packed_sequence_is_computed_as_if_alone(tmp_path):
    made, _ = built(config_for(a_model_folder(tmp_path)))
    first, second = tokens(0, 12)[:1], tokens(1, 20)[:1]
    together = torch.cat((first, second), dim=1)
    positions = torch.cat((torch.arange(12), torch.arange(20))).unsqueeze(0)
    owner = torch.tensor([0] * 12 + [1] * 20)
    mask = (owner[:, None] == owner[None, :]).tril()[None, None]
    apart = torch.cat((made.model(first), made.model(second)), dim=1)
    assert torch.allclose(made.model(together, None, positions, mask), apart, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "gemma"}, "'gemma', whose weights the recipe cannot read"),
        ({"hidden_act": "gelu"}, '\'hidden_act\' is "gelu"; only "silu"'),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn', which the recipe does not know"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "mistral", "sliding_window": 16}, "shorter than the sequence of 32"),
        ({"rope_theta": "big"}, "'rope_theta' is not a number above zero"),
    ],
)
def test_operations_that_the_recipe_does_not_know_are_refused(tmp_path, config, why):
    folder = a_model_folder(tmp_path, **config)
    with pytest.raises(CatalogError, match=r"config\.json") as caught:
        built(config_for(folder))
    assert why in caught.value.message


def test_weights_of_another_type_are_refused(tmp_path):
    folder = a_model_folder(tmp_path)
    config = config_for(folder)
    stored = check_weights(folder, config.task.model)
    name = "model.norm.weight"
    with pytest.raises(DataError, match="F8_E4M3, which cannot be trained"):
        build(config, folder, {**stored, name: replace(stored[name], dtype="F8_E4M3")}, torch.device("cpu"))


@pytest.mark.parametrize(
    ("method", "strategy", "task", "why"),
    [
        (Method.QLORA, {}, {}, "qlora: weights in 4 bits"),
        (Method.LORA, {"precision": Precision.FP8}, {}, "cannot train in fp8"),
        (Method.LORA, {}, {"model_path": None}, "needs its weights"),
        (Method.LORA, {}, {"data": TextData(paths=())}, "nothing to train on"),
        (Method.FULL, {"offload": Offload.OPTIMIZER}, {}, "offload: none"),
        (Method.FULL, {}, {"global_batch": 3}, "global batch"),
    ],
)
def test_what_the_recipe_cannot_do_is_one_line(tmp_path, method, strategy, task, why):
    folder = a_model_folder(tmp_path)
    with pytest.raises(SpecError) as caught:
        config_for(folder, method, strategy, **task)
    assert why in f"{caught.value.message} ({caught.value.hint})"
