"""What a rank executes adds up to the model's own counts, however it is cut."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.domain.model import ModelArchitecture
from mofang.domain.rates import Operator, Phase
from mofang.domain.scenario import Adapter
from mofang.domain.strategy import Method
from mofang.matching.operators import work as operator_work
from mofang.matching.params import params_of
from mofang.matching.work import Work
from mofang.matching.workload import Cut, Place, Use, micro_batch_uses

MODELS = ("llama-3.1-8b", "llama-3.1-405b", "mixtral-8x7b", "deepseek-v3", "qwen3-235b-a22b", "gpt3-175b")


def _cut(tp: int = 1, cp: int = 1, ep: int = 1, micro_batch: int = 1) -> Cut:
    columns = {"tp": tp, "cp": cp, "ep": ep, "micro_batch": micro_batch}
    return Cut(**{name: np.array([float(value)]) for name, value in columns.items()})


def _flops(uses: tuple[Use, ...], operator: Operator, phase: Phase = Phase.FORWARD) -> float:
    total = 0.0
    for use in uses:
        if use.operator is operator:
            groups = 1.0 if use.groups is None else float(use.groups[0])
            total += use.times * groups * float(operator_work(operator, phase, use.shapes, 2.0).flops[0])
    return total


def _work(model: ModelArchitecture, sequence: int = 2048) -> Work:
    return Work(model=model, sequence=sequence, global_batch=1)


@pytest.mark.parametrize("name", MODELS)
def test_products_are_six_flop_a_parameter_and_token(name: str, catalog: Catalog):
    model = catalog.model(name)
    uses = micro_batch_uses(_work(model), _cut())
    there, back = (_flops(uses, Operator.LINEAR, phase) for phase in (Phase.FORWARD, Phase.BACKWARD))
    assert there == pytest.approx(2.0 * 2048 * model.matmul_params, rel=2e-3)  # norms and biases are no products
    assert back == 2.0 * there


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_half_of_twelve_layers_width_sequence(name: str, catalog: Catalog):
    model = catalog.model(name)
    uses = micro_batch_uses(_work(model), _cut())
    extra = 2048 * (model.train_flops_per_token(2048) - 6.0 * model.matmul_params)
    assert _flops(uses, Operator.ATTENTION) == pytest.approx(extra / 3.0)


@settings(deadline=None, max_examples=30)
@given(tp=st.sampled_from([1, 2, 4, 8]), cp=st.sampled_from([1, 2, 4]), micro_batch=st.integers(1, 4))
def test_ranks_share_the_work_of_a_dense_model(tp: int, cp: int, micro_batch: int):
    model = Catalog.load().model("llama-3.1-70b")
    for operator in (Operator.LINEAR, Operator.ATTENTION):
        whole = _flops(micro_batch_uses(_work(model), _cut()), operator)
        part = _flops(micro_batch_uses(_work(model), _cut(tp=tp, cp=cp, micro_batch=micro_batch)), operator)
        assert part * tp * cp == pytest.approx(whole * micro_batch)


def test_spread_experts_cost_the_same_in_all(catalog: Catalog):
    model = catalog.model("qwen3-235b-a22b")
    one, many = (_flops(micro_batch_uses(_work(model), _cut(ep=ep)), Operator.LINEAR) for ep in (1, 32))
    assert one == pytest.approx(many)


def test_attention_that_sees_everything_costs_twice(catalog: Catalog):
    model = catalog.model("llama-3.1-8b")
    causal, whole = (Work(model=model, sequence=512, global_batch=1, causal=causal) for causal in (True, False))
    assert _flops(micro_batch_uses(whole, _cut()), Operator.ATTENTION) == 2.0 * _flops(
        micro_batch_uses(causal, _cut()), Operator.ATTENTION
    )


def test_only_some_tokens_pass_the_head(catalog: Catalog):
    model = catalog.model("llama-3.1-8b")
    every = Work(model=model, sequence=512, global_batch=1)
    one = Work(model=model, sequence=512, global_batch=1, head_tokens=1)

    def head(task: Work) -> float:
        return _flops(tuple(use for use in micro_batch_uses(task, _cut()) if use.place is Place.HEAD), Operator.LINEAR)

    assert head(every) == pytest.approx(512 * head(one))


def test_adapters_have_the_parameters_of_their_thin_products(work: Callable[..., Work]):
    task = work("llama-3.1-8b", adapter=Adapter(rank=16))
    model, thin = task.model, 0.0
    for use in micro_batch_uses(task, _cut(), adapters=True):
        if use.operator is Operator.LINEAR and not use.frozen:
            thin += use.times * float(use.shapes[0, 1] * use.shapes[0, 2])
    assert params_of(task, Method.LORA).trained_dense == thin
    assert params_of(task, Method.FULL).trained_dense == model.params
