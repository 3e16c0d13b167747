import pytest
import torch

from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.recipe import GptConfig
from mofang.domain.scenario import Optimisation, Pretrain, TextData
from mofang.domain.strategy import Parallelism, Recompute, Sharding, Strategy
from mofang.errors import SpecError
from mofang.recipes.gpt.build import build, fill
from mofang.recipes.training.optimiser import AdamW, clip, learning_rate
from mofang.recovery.checkpoint.state import part_of


def made(config):
    built = build(config, torch.device("cpu"))
    fill(built.layout.parts, layers=config.task.model.layers, seed=config.task.seed)
    return built


def architecture(**changes):
    base = {
        "name": "m",
        "layers": 3,
        "hidden": 32,
        "heads": 4,
        "kv_heads": 2,
        "ffn": 40,
        "vocab": 96,
        "head_dim": 8,
        "max_sequence": 64,
    }
    return ModelArchitecture(**(base | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_heads": 4},
        {"kv_heads": 1},
        {"tied_embeddings": True},
        {"attention_bias": True, "output_bias": True, "ffn_bias": True},
        {"qk_norm": True, "head_dim": 16},
    ],
)
def test_the_model_has_the_parameters_of_its_architecture(make_config, changes):
    model = architecture(**changes)
    built = made(make_config(model=model))
    assert sum(parameter.numel() for parameter in built.model.parameters()) == model.params
    tokens = torch.randint(96, (2, 32))
    assert built.model(tokens).shape == (2, 32, 96)
    assert built.model(tokens, tokens).isfinite()


def test_no_position_sees_a_later_one(make_config):
    model = made(make_config()).model
    tokens = torch.randint(256, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 20:] = 7
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[0, :20], after[0, :20], atol=1e-6)
    assert not torch.allclose(before[0, 20:], after[0, 20:], atol=1e-3)


def test_attention_depends_on_distance_not_on_place(make_config):
    """Rotary positions: the scores of a pattern are the same wherever in the window it stands."""
    model = made(make_config(model=architecture(layers=1))).model
    tokens = torch.full((1, 32), 5)
    logits = model(tokens)
    assert torch.allclose(logits[0, 3], logits[0, 30], atol=1e-5)


def test_the_first_values_depend_on_the_seed_only(make_config):
    config = make_config()
    first, again = made(config).model.state_dict(), made(config).model.state_dict()
    other = made(make_config(seed=1)).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding"], other["embedding"])


def test_recomputed_activations_give_the_same_gradients(make_config):
    tokens = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in Recompute:
        built = made(make_config(strategy={"recompute": recompute}))
        built.layout.clear()
        built.model(tokens, tokens).backward()
        gradients.append({name: value.clone() for name, value in built.layout.gradients().items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_bf16_computes_close_to_fp32_and_keeps_fp32_weights(make_config):
    tokens = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    wide = made(make_config()).model(tokens, tokens)
    narrow = made(make_config(strategy={"precision": Precision.BF16}))
    assert narrow.model(tokens, tokens).item() == pytest.approx(wide.item(), rel=2e-2)
    assert {parameter.dtype for parameter in narrow.model.parameters()} == {torch.float32}


def test_adamw_is_the_one_of_torch():
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (6, 5), "vector": (5,)}
    mine = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in mine.items()}
    settings = Optimisation(weight_decay=0.3)
    optimiser = AdamW({name: part_of(tensor) for name, tensor in mine.items()}, settings)
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.3},
        {"params": [theirs["vector"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=1e-8, fused=True)
    for step in range(5):
        gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for name, parameter in theirs.items():
            parameter.grad = gradients[name].clone()
        reference.step()
        optimiser.step(gradients, 0.01 * (step + 1))
    assert all(torch.equal(mine[name], theirs[name]) for name in shapes)


def test_clipping_is_the_one_of_torch():
    gradients = [torch.full((3,), 4.0), torch.full((4,), -2.0)]
    norm = torch.nn.utils.get_total_norm(gradients)
    clip(gradients, norm, 1.0)
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(1.0, rel=1e-5)
    small = [torch.full((3,), 0.01)]
    clip(small, torch.nn.utils.get_total_norm(small), 1.0)
    assert torch.equal(small[0], torch.full((3,), 0.01))


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    settings = Optimisation(lr=1.0, min_lr_ratio=0.1, warmup_steps=4)
    rates = [learning_rate(settings, step, 15) for step in range(15)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[14] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(0.55)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(settings, 0, 1) == 1.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gated_ffn": False}, "without a gate"),
        ({"norm_bias": True}, "LayerNorm"),
        ({"learned_positions": True}, "learned positions"),
        ({"norms_per_layer": 4}, "4 norms a layer"),
    ],
)
def test_other_architectures_are_refused_by_name(make_config, changes, why):
    with pytest.raises(SpecError, match=why):
        make_config(model=architecture(**changes))


def test_other_parallelism_and_wrong_batches_are_refused(make_config):
    with pytest.raises(SpecError, match="data parallel"):
        make_config(strategy={"parallelism": Parallelism(tp=2), "sharding": Sharding.NONE})
    with pytest.raises(SpecError, match="global batch"):
        make_config(global_batch=5)
    with pytest.raises(SpecError, match="fp8"):
        make_config(strategy={"precision": Precision.FP8})


@pytest.mark.parametrize(
    ("steps", "every", "fraction", "expected"),
    [
        (100, 10, 0.5, 55),  # not right after the checkpoint of step 50
        (100, 10, 0.57, 57),
        (100, 0, 0.5, 50),
        (8, 3, 0.5, 4),
        (4, 2, 1.0, 3),  # never after the last step
        (10, 5, 0.0, 2),
    ],
)
def test_the_injected_fault_loses_some_work(steps, every, fraction, expected):
    task = Pretrain(
        model=architecture(),
        data=TextData(paths=("x",)),
        sequence=32,
        global_batch=1,
        checkpoint_every_steps=every,
        fault_at_fraction=fraction,
    )
    assert GptConfig(task=task, strategy=Strategy(), steps=steps).fault_step == expected
