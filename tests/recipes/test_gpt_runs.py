"""The recipe as real processes."""

import signal
import time

import pytest

from mofang.domain.codec import encode
from mofang.domain.scenario import Optimisation
from mofang.domain.strategy import Recompute, Sharding

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("sharding", [Sharding.DDP, Sharding.FSDP])
def test_after_a_kill_every_loss_is_the_same_bit_for_bit(runs, make_config, sharding):
    how = {"workers": 2, "steps": 8, "sharding": sharding, "checkpoint_every_steps": 3, "validate_every": 4}
    whole = runs.run(make_config(**how, sample_tokens=8), "whole")
    assert whole.codes == [0, 0], whole.errors
    assert list(whole.losses) == list(range(1, 9))
    assert whole.losses[8] < whole.losses[1] < 5.8
    assert len(whole.events["sample"]) == 1

    faulty = make_config(**how, fault_at_fraction=0.5)
    killed = runs.run(faulty, "killed", generation=1)
    assert killed.codes[1] == -signal.SIGKILL
    assert killed.codes[0] != 0  # its peer is gone
    assert killed.events["fault-injected"] == [{"step": 4, "rank": 1, "what": "SIGKILL"}]

    resumed = runs.run(faulty, "killed", generation=2)
    assert resumed.codes == [0, 0], resumed.errors
    assert resumed.events["checkpoint-loaded"][0]["step"] == 3
    assert killed.losses == {step: whole.losses[step] for step in range(1, 5)}
    assert resumed.losses == {step: whole.losses[step] for step in range(4, 9)}
    assert resumed.events["validation"] == whole.events["validation"]
    assert resumed.events["result"][0]["validation_loss"] == whole.events["result"][0]["validation_loss"]
    assert [event["step"] for event in resumed.events["checkpoint-saved"]] == [6, 8]


def test_a_stop_saves_where_it_is_and_loses_nothing(runs, make_config):
    config = make_config(workers=2, steps=100_000, checkpoint_every_steps=1_000_000)
    processes = runs.start(config)
    spool = runs.folder / "job" / "attempt-0001" / "spool" / "r0000-g0001.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (spool.exists() and '"step":3,' in spool.read_text()):
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    stopped = runs.finish(processes)
    assert stopped.codes == [143, 143], stopped.errors
    assert [event["step"] for event in stopped.events["checkpoint-saved"]] == [max(stopped.losses)]
    assert stopped.errors == ["", ""]


def test_text_that_vanished_is_one_clear_line(runs, make_config, text):
    config = make_config(workers=2)
    text.unlink()
    processes = runs.start(config)
    processes[0].wait(60)
    processes[1].kill()  # as the agent would
    outcome = runs.finish(processes)
    assert outcome.codes[0] == 2
    assert outcome.errors[0] == (
        f"DataError: {text} does not exist (is the path right? it counts from the job file's folder)\n"
    )
    assert "Traceback" not in outcome.errors[1]


_THREADS = """
import sys
from pathlib import Path
from mofang.clock import SystemClock
from mofang.domain.codec import decode
from mofang.domain.recipe import GptConfig
from mofang.errors import JobFailedError
from mofang.recipes.gpt import main
from mofang.recovery.worker import Worker

def of_the_group():
    return [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text().strip())]

def build(*values):
    assert of_the_group()
    return real(*values)

real, main.build = main.build, build
try:
    main.run(decode(GptConfig, Path(sys.argv[1]).read_bytes()), Worker.from_environment(), SystemClock())
except JobFailedError as error:
    assert "learning rate" in error.hint
    assert sys.argv[2] == "fails"
else:
    assert sys.argv[2] == "ends"
assert not of_the_group(), of_the_group()
"""


@pytest.mark.parametrize(
    ("sharding", "how"), [(Sharding.DDP, "ends"), (Sharding.FSDP, "ends"), (Sharding.FSDP, "fails")]
)
def test_no_thread_of_the_process_group_outlives_the_run(runs, make_config, sharding, how):
    """Such a thread aborts the process ("terminate called") if it drops a tensor while the interpreter is torn down."""
    settings = Optimisation(lr=1e30 if how == "fails" else 1e-3, warmup_steps=0)
    config = make_config(
        workers=2, steps=3, sharding=sharding, strategy={"recompute": Recompute.FULL}, optimisation=settings
    )
    recipe, script = runs.folder / "recipe.json", runs.folder / "threads.py"
    recipe.write_text(encode(config))
    script.write_text(_THREADS)
    outcome = runs.finish(runs.start_script(script, str(recipe), how, world_size=2))
    assert outcome.codes == [0, 0], outcome.errors


_AVERAGE = """
import os, sys
import torch
from mofang.recipes.training import parallel
parallel._BUCKET_BYTES = int(sys.argv[1])
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3), torch.nn.Linear(3, 1))
inputs = torch.randn(2, 2, 4, 5)  # rank, micro-batch, rows, width
layout = parallel.Replicated(model)
for step in range(2):
    layout.clear()
    for index in range(2):
        layout.expect(index == 1)
        (model(inputs[rank, index]).square().mean() * layout.loss_scale / 2).backward()
    mine = {name: gradient.clone() for name, gradient in layout.gradients().items()}
    norm = layout.norm().item()
loss = model(inputs.flatten(0, 2)).square().mean()
whole = torch.autograd.grad(loss, list(model.parameters()))
for (name, _), expected in zip(model.named_parameters(), whole):
    assert torch.allclose(mine[name], expected, atol=1e-6), name
assert abs(norm - torch.nn.utils.get_total_norm(whole).item()) < 1e-5
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("bucket_bytes", [1, 1 << 20])
def test_replicas_average_their_gradients_in_any_buckets(runs, bucket_bytes):
    script = runs.folder / "average.py"
    script.write_text(_AVERAGE)
    outcome = runs.finish(runs.start_script(script, str(bucket_bytes), world_size=2))
    assert outcome.codes == [0, 0], outcome.errors
