"""A saved plan is read back exactly as it was, and nothing in it is read over."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mofang.domain.codec import from_data, to_data
from mofang.domain.estimate import Estimate, Evidence, Interval
from mofang.domain.hardware import Accelerator, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Placement, Plan
from mofang.domain.scenario import (
    Command,
    Environment,
    Goal,
    Limits,
    Mount,
    Optimisation,
    Pretrain,
    Resources,
    RestartPolicy,
    Scenario,
    Secret,
    StrategyChoice,
    TextData,
    WorkdirMode,
)
from mofang.domain.strategy import Parallelism, Recompute, Sharding, Strategy
from mofang.errors import DataError, SpecError
from mofang.spec.job_file import load_job_file, parse_job_file
from mofang.spec.plan_file import plan_to_yaml
from mofang.units import DeviceRequest, Range


class NoCatalog:
    """A saved plan needs no look-up."""

    def model(self, name_or_path: str) -> ModelArchitecture:
        raise AssertionError(name_or_path)

    def accelerator(self, name: str) -> Accelerator:
        raise AssertionError(name)


counts = st.integers(1, 10**9)
amounts = st.floats(0, 1e30, allow_nan=False)
tricky = [
    "1e100",
    "010",
    "no",
    "null",
    "~",
    "",
    "1:30",
    "0x1",
    ".inf",
    "- a",
    "a: b",
    "#",
    "=",
    "<<",
    "2026-01-01",
    "1_000",
]
words = st.sampled_from(tricky) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
)
ranges = st.tuples(st.integers(1, 64), st.none() | st.integers(0, 64)).map(
    lambda ends: Range(ends[0], None if ends[1] is None else ends[0] + ends[1])
)
models = st.builds(
    ModelArchitecture, name=words, layers=counts, hidden=counts, heads=st.just(4), kv_heads=st.sampled_from([1, 2, 4]),
    ffn=counts, vocab=counts, head_dim=counts, max_sequence=counts, tied_embeddings=st.booleans(),
)  # fmt: skip
choices = st.builds(
    StrategyChoice, workers=st.none() | counts, sharding=st.none() | st.sampled_from(Sharding),
    precision=st.none() | st.sampled_from(Precision), recompute=st.none() | st.sampled_from(Recompute),
    compile=st.none() | st.booleans(),
)  # fmt: skip
pretrains = st.builds(
    Pretrain, model=models, data=st.just(TextData(paths=(__file__,), size_bytes=5)), sequence=counts,
    global_batch=counts, steps=st.none() | counts, duration_s=st.none() | amounts, strategy=choices,
    optimisation=st.builds(Optimisation, lr=amounts, warmup_steps=counts), fault_at_fraction=st.none() | amounts,
    checkpoint_every_steps=st.none() | counts,
)  # fmt: skip
commands = st.builds(Command, argv=st.lists(words, min_size=1, max_size=4).map(tuple), workers=counts)
secrets = st.builds(Secret, name=words, source=st.sampled_from(["env", "file"]), reference=words)
environments = st.builds(
    Environment, venv=st.none() | words, modules=st.lists(words, max_size=2).map(tuple), workdir=st.none() | words,
    workdir_mode=st.sampled_from(WorkdirMode), variables=st.dictionaries(words, words, max_size=3),
    secrets=st.lists(secrets, max_size=2).map(tuple),
    mounts=st.lists(st.builds(Mount, target=words, source=words), max_size=2).map(tuple),
)  # fmt: skip
scenarios = st.builds(
    Scenario, name=words, task=pretrains | commands, environment=environments, goal=st.sampled_from(Goal),
    limits=st.builds(Limits, deadline_s=st.none() | amounts, budget=st.none() | amounts), grace_s=amounts,
    resources=st.builds(
        Resources, any_of=st.lists(st.builds(DeviceRequest, words, ranges), max_size=2).map(tuple),
        nodes=st.none() | counts, memory_bytes=st.none() | counts,
    ),
    restart=st.builds(RestartPolicy, max_restarts=st.none() | counts, hang_timeout_s=amounts),
    priority=st.integers(-5, 5),
)  # fmt: skip
estimates = st.builds(
    Estimate, step_time_s=amounts, step_time_90=st.builds(Interval, low=amounts, high=amounts), tokens_per_s=amounts,
    mfu=amounts, memory_bytes=amounts, peak_flops=amounts, total_time_s=amounts,
    time=st.dictionaries(words, amounts, max_size=2), energy_j=st.none() | amounts,
    evidence=st.lists(st.builds(Evidence, what=words, source=words), max_size=2).map(tuple),
)  # fmt: skip
plans = st.builds(
    lambda dp, nodes, steps, estimate, compiled: Plan(
        strategy=Strategy(parallelism=Parallelism(dp=dp * nodes), sharding=Sharding.DDP, compile=compiled),
        placement=Placement(cluster="local", accelerator="H100", num_devices=dp * nodes, num_nodes=nodes),
        steps=steps,
        estimate=estimate,
    ),
    st.integers(1, 8), st.integers(1, 4), st.none() | counts, st.none() | estimates, st.booleans(),
)  # fmt: skip


@settings(max_examples=25, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(scenarios, plans)
def test_a_saved_plan_is_read_back_unchanged(scenario: Scenario, plan: Plan) -> None:
    text = plan_to_yaml(scenario, plan)
    read = parse_job_file(text, "plan.yaml", Path("/"), (), NoCatalog())
    assert read.scenario == scenario
    assert read.plans == (plan,)
    # other programs read the same values from it
    content = yaml.safe_load(text)
    assert from_data(Scenario, content["scenario"]) == scenario
    assert content["plan"] == to_data(plan)


def saved(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "words.txt").write_text("words " * 500)
    task = Pretrain(
        model=ModelArchitecture(
            name="m", layers=1, hidden=8, heads=1, kv_heads=1, ffn=8, vocab=256, head_dim=8, max_sequence=8
        ),
        data=TextData(paths=(str(tmp_path / "words.txt"),), size_bytes=3000),
        sequence=8,
        global_batch=1,
        steps=3,
    )
    placement = Placement(cluster="local", accelerator="cpu", num_devices=1, num_nodes=1)
    return tmp_path / "plan.yaml", plan_to_yaml(
        Scenario(name="x", task=task), Plan(strategy=Strategy(), placement=placement, steps=3)
    )


def test_a_saved_plan_needs_its_data(tmp_path: Path) -> None:
    path, text = saved(tmp_path)
    path.write_text(text)
    assert load_job_file(path, catalog=NoCatalog()).plans is not None
    (tmp_path / "words.txt").unlink()
    with pytest.raises(DataError, match=r"plan.yaml:\d+: scenario.task.data.paths: .* does not exist"):
        load_job_file(path, catalog=NoCatalog())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_devices: 1", "num_devices: one", "plan: not a Plan"),
        ("num_devices: 1", "num_device: 1", "plan: not a Plan"),
        ("cluster: local", "cluster: local\n    colour: red", "plan.placement.colour: there is no key 'colour' here"),
        ("num_devices: 1", "num_devices: 3", "world size: 1 x 1 x 1 x 1 = 1 != 3"),
        ("  global_batch: 1", "  global_batches: 1", "scenario"),
    ],
)
def test_a_plan_that_was_edited_wrongly_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path, text = saved(tmp_path)
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_job_file(path, catalog=NoCatalog())
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert f"{path}:" in caught.value.message


def test_a_saved_plan_runs_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    path, text = saved(tmp_path)
    path.write_text(text)
    with pytest.raises(SpecError, match="--set cannot change a saved plan"):
        load_job_file(path, ("scenario.name=y",), catalog=NoCatalog())
