"""Real runs whose loss or weights go wrong: back to a good state, and bit for bit as if it had never happened."""

from __future__ import annotations

import pytest

from mofang.domain.codec import encode
from mofang.domain.scenario import LossPolicy, OnTrouble
from mofang.domain.strategy import Sharding

pytestmark = pytest.mark.serial

# Runs the recipe with one thing changed: poison (the loss of this data is not a number), left out (this data is left
# out from the start), flip (R:S:N, a bit of rank R's weights, the first N times that step S is done).
_PROGRAM = """
import math, os, sys
from dataclasses import replace
import torch
from mofang.recipes.gpt import batches
from mofang.domain.recipe import GptConfig
from mofang.recipes.training.entry import enter
from mofang.recipes.training import loop
from mofang.recovery.guard import Skips

what, value = sys.argv[2].split("=")
if what == "poison":
    train = batches.Batches.train
    def poisoned(self, step):
        for batch in train(self, step):
            yield batch._replace(weight=math.nan) if str(step) in value.split(",") else batch
    batches.Batches.train = poisoned
if what == "leave":
    run = loop.Trainer.run
    def without(self):
        self._watch.skips = Skips(map(int, value.split(",")))
        run(self)
    loop.Trainer.run = without
if what == "flip":
    rank, step, times = map(int, value.split(":"))
    update, left = loop.Trainer._update, [times]
    def flipped(self, rate):
        found = update(self, rate)
        if self._worker.rank == rank and self._progress.step + 1 == step and left[0]:
            left[0] -= 1
            part = next(iter(self._layout.parts.values())).tensor
            part.view(-1)[:1].view(torch.int32).bitwise_xor_(1 << 20)
        return found
    loop.Trainer._update = flipped
sys.exit(enter("mofang.recipes.gpt", GptConfig, "", ["--config", sys.argv[1]]))
"""


@pytest.fixture
def start(runs, make_config):
    def run(name, change, workers=2, **how):
        shape = {"steps": 16, "checkpoint_every_steps": 5, "sharding": Sharding.DDP if workers > 1 else None}
        config = make_config(workers=workers, **(shape | how))
        recipe, script = runs.folder / f"{name}.json", runs.folder / "trouble.py"
        recipe.write_text(encode(config))
        script.write_text(_PROGRAM)
        argv = [str(script), str(recipe), change]
        return runs.finish(runs._start(argv, workers, name, 1), name)

    return run


def test_data_whose_loss_is_no_number_is_left_out_bit_for_bit(start):
    wrong = start("wrong", "poison=7")
    assert wrong.codes == [0, 0], wrong.errors
    (back,) = wrong.events["rolled-back"]
    assert (back["step"], back["to"], back["skipped"]) == (8, 5, [7])
    assert back["why"] == "the loss of step 8 is nan"
    right = start("right", "leave=7")
    assert right.codes == [0, 0], right.errors
    assert wrong.losses == right.losses
    assert len(wrong.losses) == 16


def test_going_back_leaves_out_more_each_time_and_ends(start):
    wrong = start("wrong", "poison=6,7,8,9,10", workers=1)
    assert wrong.codes == [1]
    assert [back["skipped"] for back in wrong.events["rolled-back"]] == [[6], [5, 7]]
    assert wrong.errors[0].startswith("NotFiniteError: the loss of step 6 is nan, after going back 2 times")


def test_whoever_wants_it_stops_at_once(start):
    policy = LossPolicy(on_not_finite=OnTrouble.STOP)
    wrong = start("wrong", "poison=6", workers=1, loss_policy=policy)
    assert wrong.codes == [1]
    assert wrong.errors[0].startswith("NotFiniteError: the loss of step 7 is nan (")


def test_a_flipped_bit_is_found_and_the_last_state_that_was_alike_is_gone_back_to(start):
    clean = start("clean", "none=0")
    flipped = start("flipped", "flip=1:8:1")
    assert flipped.codes == [0, 0], flipped.errors
    (found,) = flipped.events["corruption-detected"]
    assert (found["ranks"], found["step"]) == ([0, 1], 10)
    (back,) = flipped.events["rolled-back"]
    assert (back["to"], back["skipped"]) == (5, [])
    assert flipped.losses == clean.losses


def test_of_three_the_odd_one_is_named_and_ends_when_it_happens_again(start):
    flipped = start("flipped", "flip=2:8:2", workers=3)
    assert [found["ranks"] for found in flipped.events["corruption-detected"]] == [[2], [2]]
    assert flipped.codes[2] == 1
    assert flipped.errors[2].startswith("SilentCorruptionError: the weights of rank 2 differ from the others'")
    assert flipped.errors[0].startswith("JobFailedError: rank 2 failed: the weights")
