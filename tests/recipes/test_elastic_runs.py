"""Training that goes on with fewer workers and grows back."""

from __future__ import annotations

import signal
import time

import pytest

from mofang.domain.strategy import Sharding

pytestmark = pytest.mark.serial

TOLERANCE = 1e-5  # relative, of a loss: float32 sums in another order


def _until(runs, config, generation, workers, last):
    """Train up to a step, or a little further; then stop with grace. ``last`` None: to the end."""
    processes = runs.start(config, generation=generation, workers=workers)
    beat = runs.folder / "job" / "attempt-0001" / "heartbeat" / f"r0000-g{generation:04d}"
    end = time.monotonic() + 60
    while last is not None and time.monotonic() < end:
        if beat.exists() and int((beat.read_text().split() or ["0"])[0]) >= last:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    return runs.finish(processes, generation=generation)


@pytest.mark.parametrize("sharding", [Sharding.DDP, Sharding.FSDP])
def test_three_two_and_three_workers_train_as_three_do(runs, make_config, sharding):
    config = make_config(workers=3, steps=60, sharding=sharding, checkpoint_every_steps=None)
    calm = runs.run(config, name="calm").losses
    assert len(calm) == 60
    parts = [_until(runs, config, *row) for row in ((1, 3, 8), (2, 2, 24), (3, 3, None))]
    assert [part.codes[0] for part in parts] == [143, 143, 0], [part.errors for part in parts]
    losses = {step: loss for part in parts for step, loss in part.losses.items()}
    assert losses.keys() == calm.keys()
    shrunk = min(parts[1].losses)
    assert all(losses[step] == calm[step] for step in range(1, shrunk))  # on as many workers: bit by bit
    assert all(abs(losses[step] - loss) <= TOLERANCE * loss for step, loss in calm.items())


def test_more_workers_than_planned_are_refused(runs, make_config):
    refused = runs.finish(runs.start(make_config(workers=1), workers=2))
    assert all("the plan is for 1 workers, not 2" in error for error in refused.errors)
