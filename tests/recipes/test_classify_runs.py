"""The classification recipe as real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from mofang.domain.scenario import Augmentation

pytestmark = pytest.mark.serial


def test_it_tells_digits_apart(runs, make_classify):
    whole = {"micro_batch": 64, "accumulation": 1}
    outcome = runs.run(make_classify(steps=300, validate_every=100, strategy=whole))
    assert outcome.codes == [0], outcome.errors
    first, _, last = (event["accuracy"] for event in outcome.events["validation"])
    assert last > 0.9 > first > 0.2
    [result] = outcome.events["result"]
    assert result["validation_accuracy"] == last
    assert result["tokens"] == 300 * 64 * 17
    [exported] = outcome.events["exported"]
    assert exported["what"] == "model"
    assert exported["bytes"] == sum(file.stat().st_size for file in Path(exported["path"]).iterdir())


def test_after_a_kill_every_loss_is_the_same_bit_for_bit(runs, make_classify):
    how = {"workers": 2, "steps": 30, "checkpoint_every_steps": 5, "validate_every": 10}
    how["augmentation"] = Augmentation(shift=1, flip=True)
    whole = runs.run(make_classify(**how, name="whole"), "whole")
    assert whole.codes == [0, 0], whole.errors
    assert list(whole.losses) == list(range(1, 31))

    config = make_classify(**how, name="killed")
    processes = runs.start(config, "killed")
    spool = runs.folder / "killed" / "attempt-0001" / "spool" / "r0000-g0001.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (spool.exists() and '"step":12,' in spool.read_text()):
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    killed = runs.finish(processes, "killed")
    assert killed.codes[1] == -signal.SIGKILL
    assert not Path(config.output).exists()

    resumed = runs.run(config, "killed", generation=2)
    assert resumed.codes == [0, 0], resumed.errors
    assert resumed.events["checkpoint-loaded"][0]["step"] >= 10
    assert killed.losses | resumed.losses == whole.losses
    assert resumed.losses == {step: whole.losses[step] for step in resumed.losses}
    assert resumed.events["result"][0]["validation_accuracy"] == whole.events["result"][0]["validation_accuracy"]
    first, second = (Path(run.events["exported"][0]["path"]) / "model.safetensors" for run in (whole, resumed))
    assert first.read_bytes() == second.read_bytes()


def test_two_workers_learn_what_one_learns(runs, make_classify):
    task = {"steps": 5, "validate_every": 5}
    alone = runs.run(make_classify(**task, name="alone"), "alone")
    both = runs.run(make_classify(**task, workers=2, name="both"), "both")
    assert alone.codes + both.codes == [0, 0, 0], alone.errors + both.errors
    assert list(both.losses.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)
    assert both.events["validation"][0] == pytest.approx(alone.events["validation"][0], rel=1e-4)


def test_an_image_that_cannot_be_read_is_one_clear_line(runs, make_classify, digits):
    path = Path(digits.path)
    path.write_bytes(path.read_bytes()[:5000])
    config = make_classify()
    outcome = runs.run(config)
    assert outcome.codes == [2]
    assert outcome.errors[0].startswith("DataError: ")
    assert str(path) in outcome.errors[0]
    assert "Traceback" not in outcome.errors[0]
