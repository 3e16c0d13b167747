"""The fine-tuning recipe as real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from mofang.domain.strategy import Method

pytestmark = pytest.mark.serial


def kill_after_step(runs, config, name, step):
    """Start the workers and kill the last one when the first has reported a step."""
    processes = runs.start(config, name)
    spool = runs.folder / name / "attempt-0001" / "spool" / "r0000-g0001.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (spool.exists() and f'"step":{step},' in spool.read_text()):
        time.sleep(0.01)
    processes[-1].send_signal(signal.SIGKILL)
    return runs.finish(processes, name)


@pytest.mark.parametrize(("method", "workers"), [(Method.LORA, 2), (Method.FULL, 1)])
def test_it_learns_and_after_a_kill_every_loss_is_the_same_bit_for_bit(runs, make_finetune, method, workers):
    how = {"method": method, "workers": workers, "steps": 60, "checkpoint_every_steps": 5, "validate_every": 30}
    whole = runs.run(make_finetune(**how, name="whole", sample_tokens=8), "whole")
    assert whole.codes == [0] * workers, whole.errors
    assert list(whole.losses) == list(range(1, 61))
    losses = [event["loss"] for event in whole.events["validation"]]
    assert losses[-1] < 0.75 * whole.losses[1]
    assert whole.losses[1] == pytest.approx(5.56, abs=0.3)  # ln 260: nothing is known at first
    assert len(whole.events["sample"]) == 1
    assert all(event["mfu"] == pytest.approx(1e9 / event["step_time_s"] / 1e11) for event in whole.events["step"])
    [exported] = whole.events["exported"]
    assert exported["what"] == ("adapter" if method is Method.LORA else "model")
    assert exported["bytes"] == sum(file.stat().st_size for file in Path(exported["path"]).iterdir())

    config = make_finetune(**how, name="killed")
    killed = kill_after_step(runs, config, "killed", 7)
    assert killed.codes[-1] == -signal.SIGKILL
    assert not Path(config.output).exists()
    resumed = runs.run(config, "killed", generation=2)
    assert resumed.codes == [0] * workers, resumed.errors
    assert resumed.events["checkpoint-loaded"][0]["step"] % 5 == 0
    assert killed.losses | resumed.losses == whole.losses
    assert resumed.losses == {step: whole.losses[step] for step in resumed.losses}
    assert same_files(Path(config.output), Path(exported["path"]))
    size = sum(event["bytes"] for event in resumed.events["checkpoint-saved"]) / len(resumed.events["checkpoint-saved"])
    base = (runs.folder / "base" / "model.safetensors").stat().st_size
    assert size < base if method is Method.LORA else size > 2 * base  # only what is trained is kept


def same_files(first: Path, second: Path) -> bool:
    names = {file.name for file in first.iterdir()}
    return names == {file.name for file in second.iterdir()} and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )


def test_two_workers_learn_what_one_learns(runs, make_finetune):
    task = {"steps": 6, "packing": False}
    alone = runs.run(make_finetune(**task, name="alone"), "alone")
    both = runs.run(make_finetune(**task, workers=2, name="both"), "both")
    assert alone.codes + both.codes == [0, 0, 0], alone.errors + both.errors
    assert list(both.losses.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)
