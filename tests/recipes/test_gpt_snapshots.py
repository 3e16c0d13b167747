"""Snapshots in memory under the recipe's real processes."""

import os
import signal

import pytest

from mofang.domain.codec import encode
from mofang.domain.strategy import Sharding
from mofang.recovery.checkpoint import files
from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.place import SHARED_MEMORY

pytestmark = pytest.mark.serial


@pytest.fixture
def memory(runs, request):
    runs.memory = f"mofang.test-{os.getpid()}-{abs(hash(request.node.name)) % 10**8}.1."
    return runs.memory


def arenas(memory):
    return sorted(SHARED_MEMORY.glob(f"{memory}snapshot.r*"))


@pytest.mark.parametrize("sharding", [Sharding.DDP, Sharding.FSDP])
def test_after_a_kill_training_goes_on_from_memory_bit_for_bit(runs, make_config, memory, sharding):
    how = {"workers": 2, "steps": 40, "sharding": sharding, "checkpoint_every_steps": 20, "log_every": 1}
    whole = runs.run(make_config(**how), "whole")
    assert whole.codes == [0, 0], whole.errors
    assert len(whole.events["snapshot"]) == 1
    assert whole.events["snapshot"][0]["count"] >= 2
    assert whole.events["snapshots-off"] == []
    for path in arenas(memory):
        path.unlink()

    faulty = make_config(**how, fault_at_fraction=0.8)  # after 32 steps or so; on the disk are 20
    killed = runs.run(faulty, "killed", generation=1)
    assert killed.codes[1] == -signal.SIGKILL
    steps = [record.step for path in arenas(memory) for record in Arena.open(path).records().values()]
    resumed = runs.run(faulty, "killed", generation=2)
    assert resumed.codes == [0, 0], resumed.errors
    (loaded,) = resumed.events["checkpoint-loaded"]
    assert loaded["tier"] == "memory"
    assert 20 < loaded["step"] <= max(steps)
    assert killed.losses == {step: whole.losses[step] for step in killed.losses}
    assert resumed.losses == {step: whole.losses[step] for step in range(loaded["step"] + 1, 41)}
    assert resumed.events["result"][0]["loss"] == whole.events["result"][0]["loss"]


def test_corrupt_memory_is_refused_and_the_disk_is_used(runs, make_config, memory):
    config = make_config(workers=2, steps=30, checkpoint_every_steps=10, fault_at_fraction=0.8)
    killed = runs.run(config, generation=1)
    assert killed.codes[1] == -signal.SIGKILL
    arena = Arena.open(arenas(memory)[1])
    for slot, record in arena.records().items():
        arena.slot(slot)[record.length - 5] ^= 16
    resumed = runs.run(config, generation=2)
    assert resumed.codes == [0, 0], resumed.errors
    assert resumed.events["checkpoint-loaded"][0]["tier"] == "disk"
    assert 10 <= resumed.events["checkpoint-loaded"][0]["step"] <= 24
    assert any("corrupt" in event["message"] for event in resumed.events["checkpoint-refused"])


# Runs the recipe with a disk that is slow (seconds a shard), or a rank that dies with half of its Nth shard written.
_PROGRAM = """
import os, signal, sys, time
from mofang.domain.recipe import GptConfig
from mofang.recipes.training.entry import enter
from mofang.recovery.checkpoint import parts

what, value = sys.argv[2].split("=")
write, calls = parts.write_shard, []
def slow(path, blobs):
    calls.append(path)
    if what == "slow":
        time.sleep(float(value))
    elif len(calls) == int(value) and os.environ["RANK"] == "1":
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, blobs)
parts.write_shard = slow
sys.exit(enter("mofang.recipes.gpt", GptConfig, "", ["--config", sys.argv[1]]))
"""


def disturbed(runs, config, change, name="job"):
    recipe, script = runs.folder / f"{name}.json", runs.folder / "disturbed.py"
    recipe.write_text(encode(config))
    script.write_text(_PROGRAM)
    return runs.finish(runs._start([str(script), str(recipe), change], 2, name, 1), name)


def test_a_slow_disk_holds_no_step_up_and_the_last_state_is_durable_at_the_end(runs, make_config, memory):
    config = make_config(workers=2, steps=60, checkpoint_every_steps=5, log_every=1)
    slow = disturbed(runs, config, "slow=1.0")
    assert slow.codes == [0, 0], slow.errors
    assert max(event["step_time_s"] for event in slow.events["step"][1:]) < 0.8
    saved = [event["step"] for event in slow.events["checkpoint-saved"]]
    assert saved == sorted(saved)
    assert saved[-1] == 60
    assert len(saved) < 12  # those that came due meanwhile were put off
    assert files.candidates(runs.folder / "job" / "checkpoints")[0] == 60


def test_a_kill_in_the_middle_of_a_background_write_leaves_the_last_checkpoint_whole(runs, make_config, memory):
    config = make_config(workers=2, steps=400, checkpoint_every_steps=20)
    killed = disturbed(runs, config, "die=2")
    assert killed.codes[1] == -signal.SIGKILL
    first = files.candidates(runs.folder / "job" / "checkpoints")
    assert len(first) == 1
    for path in arenas(memory):
        path.unlink()
    resumed = runs.run(make_config(workers=2, steps=first[0] + 5, checkpoint_every_steps=1000), generation=2)
    assert resumed.codes == [0, 0], resumed.errors
    (loaded,) = resumed.events["checkpoint-loaded"]
    assert (loaded["tier"], loaded["step"]) == ("disk", first[0])
