import copy
import json
import math
import random
from collections import Counter, OrderedDict, namedtuple

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from mofang.errors import CheckpointError, UsageError
from mofang.recovery.collect import PerRank, collect, digest
from mofang.recovery.values import decode_value, encode_value

OPTIMIZERS = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2, amsgrad=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "plain-sgd": lambda params: torch.optim.SGD(params, lr=1e-2),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=1e-2),
    "rprop": lambda params: torch.optim.Rprop(params, lr=1e-2),
    "asgd": lambda params: torch.optim.ASGD(params, lr=1e-2),
    "capturable-lr": lambda params: torch.optim.AdamW(params, lr=torch.tensor(1e-2)),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.last = nn.Linear(16, 4)
        self.never_used = nn.Parameter(torch.ones(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        return self.last(torch.dropout(torch.relu(self.norm(self.first(x))), 0.2, self.training))


class Program:
    """A training program with everything that a restart could get wrong."""

    def __init__(self, optimizer, seed=0):
        torch.manual_seed(seed)
        random.seed(seed)
        self.model = Net()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones=[3, 5, 5, 8])
        self.loader = StatefulDataLoader(torch.arange(400.0).reshape(50, 8) / 400, batch_size=4, shuffle=True)
        self.progress = {"seen": 0, "best": math.inf, "ema": {"last": torch.zeros(16, 4)}}

    @property
    def state(self):
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "data": self.loader,
            "progress": self.progress,
        }

    def train(self, steps):
        losses, batches = [], iter(self.loader)
        for _ in range(steps):
            try:
                x = next(batches)
            except StopIteration:
                batches = iter(self.loader)
                x = next(batches)
            loss = (self.model(x) ** 2).mean() + random.random() * 1e-3
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.progress["seen"] += len(x)
            self.progress["best"] = min(self.progress["best"], loss.item())
            self.progress["ema"]["last"].lerp_(self.model.last.weight.detach().T, 0.1)
            losses.append(loss.item())
        return losses


def carry(state, collected):
    """Do what a tier does: copy the bytes, take the JSON through text."""
    target = collected.target()
    assert target.parts.keys() == state.parts.keys()
    for name, part in target.parts.items():
        assert part.entry == state.parts[name].entry
        with torch.no_grad():
            part.tensor.copy_(state.parts[name].tensor)
    collected.put_back(json.loads(json.dumps(state.scalars)), json.loads(json.dumps(state.own)), state.private)


def frozen(state):
    return copy.deepcopy(state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_program_goes_on_as_if_nothing_had_happened(optimizer, steps):
    undisturbed = Program(optimizer).train(steps + 15)
    program = Program(optimizer)
    assert program.train(steps) == undisturbed[:steps]
    saved = frozen(collect(program.state).state(steps))

    fresh = Program(optimizer, seed=99)
    ema = fresh.progress["ema"]["last"]
    carry(saved, collect(fresh.state))
    assert fresh.progress["ema"]["last"] is ema
    # the loop begins anew, but within the epoch the loader knows where it was
    assert fresh.train(15) == undisturbed[steps:]
    assert fresh.schedule.get_last_lr() == [group["lr"] for group in fresh.optimizer.param_groups]


def test_a_parameter_without_gradient_has_a_place_but_no_state():
    program = Program("adamw")
    program.train(2)
    saved = frozen(collect(program.state).state(2))
    assert "optimizer/model/never_used/exp_avg" in saved.parts
    fresh = Program("adamw")
    carry(saved, collect(fresh.state))
    assert not fresh.optimizer.state.get(fresh.model.never_used)
    assert len(fresh.optimizer.state) == len(program.optimizer.state)


def test_a_fresh_start_leaves_the_optimizer_as_it_was():
    program = Program("adamw")
    before = copy.deepcopy(program.model.state_dict())
    collected = collect(program.state)
    target = collected.target()
    assert any(name.endswith("exp_avg") for name in target.parts)
    collected.abandon()
    assert not program.optimizer.state
    assert all(torch.equal(value, before[name]) for name, value in program.model.state_dict().items())
    assert program.train(12) == Program("adamw").train(12)


def test_the_snapshot_is_of_the_live_tensors():
    program = Program("sgd")
    collected = collect(program.state)
    program.train(1)
    part = collected.state(1).parts["model/first.weight"]
    assert part.tensor.data_ptr() == program.model.first.weight.data_ptr()
    assert "model/scratch" not in collected.state(1).parts
    assert "model/norm.running_mean" in collected.state(1).parts
    with torch.no_grad():
        program.model.first.weight.data = torch.zeros(16, 8)  # memory replaced behind our back
    assert collected.state(2).parts["model/first.weight"].tensor.data_ptr() == program.model.first.weight.data_ptr()


def test_the_learning_rate_is_the_restored_one():
    program = Program("adamw")
    program.train(6)
    saved = frozen(collect(program.state).state(6))
    fresh = Program("adamw")
    for group in fresh.optimizer.param_groups:
        group["lr"] = 123.0
    carry(saved, collect(fresh.state))
    assert fresh.optimizer.param_groups[0]["lr"] == program.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
    assert fresh.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    "wrong",
    [
        {"f": lambda: 0},
        {"deep": [1, {"x": object()}]},
        {"point": namedtuple("Point", "x y")(1, 2)},
        {"module": [nn.ReLU()]},
    ],
)
def test_what_is_neither_json_nor_a_tensor_is_refused_by_name(wrong):
    with pytest.raises(CheckpointError) as caught:
        collect({"progress": wrong}).state(1)
    assert caught.value.message.startswith("progress/")
    assert "\n" not in caught.value.message
    assert "state_dict" in caught.value.hint


@pytest.mark.parametrize("wrong", [{"step": 3}, {"x": torch.zeros(2)}, {"rank-1": {}}, {"a/b": {}}, {"f": print}])
def test_entries_that_cannot_be_put_back_are_refused(wrong):
    with pytest.raises(UsageError) as caught:
        collect(wrong)
    assert caught.value.hint


def test_an_optimizer_without_its_module_is_refused():
    program = Program("adamw")
    with pytest.raises(CheckpointError, match="no module has"):
        collect({"optimizer": program.optimizer})


def test_an_optimizer_that_needs_a_closure_is_refused():
    model = nn.Linear(2, 2)
    collected = collect({"model": model, "optimizer": torch.optim.LBFGS(model.parameters())})
    with pytest.raises(CheckpointError, match="LBFGS"):
        collected.target()


def test_another_number_of_groups_is_refused():
    model = nn.Linear(2, 2)
    saved = collect({"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=1.0)}).state(1)
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    other = collect({"model": model, "optimizer": torch.optim.SGD(groups, lr=1.0)})
    with pytest.raises(CheckpointError, match="2 parameter groups, not 1"):
        carry(saved, other)


class Counted:
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_what_differs_between_ranks_is_kept_apart():
    state = collect({"mine": PerRank(Counted(3)), "ours": Counted(4)}).state(1)
    assert state.own == {"mine": {"value": 3}}
    assert state.scalars == {"ours": {"value": 4}}
    newcomer = Counted(7)
    collected = collect({"mine": PerRank(newcomer), "ours": Counted(0)})
    collected.target()
    collected.put_back(state.scalars, {}, {})
    assert newcomer.value == 7


def test_ranks_can_tell_that_they_hold_different_things():
    one, other = (collect({"ours": Counted(value)}).state(1) for value in (1, 2))
    assert digest(one) == digest(collect({"ours": Counted(1)}).state(9)) != digest(other)


def test_a_compiled_module_has_the_names_of_the_plain_one():
    program = Program("adamw")
    plain = collect({"model": program.model}).state(0).parts
    assert collect({"model": torch.compile(program.model)}).state(0).parts.keys() == plain.keys()


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.integers(-9, 9).map(numpy.int32)
)
KEYS = st.text(max_size=3) | st.sampled_from(["$", "v"])
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.integers(0, 9), inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=2).map(OrderedDict)
        | st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=3).map(Counter)
        | st.sets(st.integers(0, 9), max_size=3)
    ),
    max_leaves=12,
)


def same(left, right):
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return type(left) is type(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


@settings(max_examples=120, deadline=None)
@given(NESTED)
def test_every_nested_value_comes_back(value):
    encoded = json.loads(json.dumps(encode_value(value, "x", {}), allow_nan=False))
    assert same(value, decode_value(encoded, {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (300, 200)])
def test_tensors_come_back_with_their_type_and_shape(dtype, shape):
    value, outside = torch.randint(0, 2, shape).to(dtype), {}
    encoded = json.loads(json.dumps(encode_value({"a": [value]}, "x", outside)))
    assert list(outside) == (["x/a/0"] if value.nbytes > 16384 else [])
    back = decode_value(encoded, outside)["a"][0]
    assert back.dtype == dtype
    assert torch.equal(back, value)


def test_numpy_arrays_and_generators_come_back():
    generator = numpy.random.default_rng(3)
    encoded = json.loads(json.dumps(encode_value(generator.bit_generator.state, "x", {})))
    other = numpy.random.default_rng(0)
    other.bit_generator.state = decode_value(encoded, {})
    assert other.random() == numpy.random.default_rng(3).random()
    array = numpy.arange(6, dtype=numpy.uint32).reshape(2, 3)
    back = decode_value(json.loads(json.dumps(encode_value(array, "x", {}))), {})
    assert back.dtype == array.dtype
    assert (back == array).all()
