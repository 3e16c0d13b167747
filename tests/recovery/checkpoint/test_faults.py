"""Every call that reaches the disk fails once, or is the last one of the process."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mofang.clock import SystemClock
from mofang.domain.events import EventKind
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.spool import SpoolWriter, read_spool


def state_of(ranks, step):
    return TrainingState(step=step, parts=ranks.cut_boxes({"w": torch.arange(1000.0) + step}, {}), scalars={"s": step})


def sync_save(ranks, directory, step):
    save_checkpoint(directory, state_of(ranks, step), keep=2, peers=Peers(), clock=SystemClock())


def assert_step(ranks, directory, *steps):
    state = ranks.blank(state_of(ranks, 0))
    (loaded,), refused = ranks.load_all(directory, [state])
    assert refused == []
    assert loaded.step in steps
    assert loaded.scalars == {"s": loaded.step}
    assert ranks.same(state, state_of(ranks, loaded.step))


def calls_of_a_save(ranks, directory, step):
    with ranks.Calls().installed() as calls:
        sync_save(ranks, directory, step)
    return calls.count


def steps_after_a_full_disk(ranks, directory, at):
    try:
        with ranks.Calls(at=at, instead=ranks.no_space).installed():
            sync_save(ranks, directory, 20)
    except CheckpointError:
        return 10, 20  # the last call of all comes after the move
    return (20,)  # not to be able to make a directory that is there is no failure


def test_a_disk_that_is_full_at_any_call_leaves_a_whole_checkpoint(ranks, tmp_path):
    number = calls_of_a_save(ranks, tmp_path / "count", 10)
    assert number > 10
    for at in range(1, number + 1):
        directory = tmp_path / f"{at}"
        sync_save(ranks, directory, 10)
        assert_step(ranks, directory, *steps_after_a_full_disk(ranks, directory, at))
        sync_save(ranks, directory, 30)
        assert_step(ranks, directory, 30)
        assert not list(directory.glob(".step*"))
        assert not list(directory.glob(".*.draft"))


def test_a_disk_that_is_full_at_any_call_of_a_background_save(ranks, tmp_path):
    def save(directory, step, calls):
        told = ranks.Told()
        saver = ranks.saver_of(directory, 0, told)
        slot = told.slot(*ranks.put_in_slot(tmp_path / "arena", state_of(ranks, step), 0, 1))
        with calls.installed():
            saver.submit(slot)
            done = saver.close(20)
        assert told.released == 1
        assert (len(told.saved), len(told.failed)) == ((1, 0) if done else (0, 1))
        return done

    counted = ranks.Calls()
    assert save(tmp_path / "count", 10, counted)
    for at in range(1, counted.count + 1):
        directory = tmp_path / f"{at}"
        assert save(directory, 10, ranks.Calls())
        done = save(directory, 20, ranks.Calls(at=at, instead=ranks.no_space))
        # Not to be able to make a directory that is there is no failure; the last call of all comes after the move.
        assert_step(ranks, directory, *((20,) if done else (10, 20)))
        assert save(directory, 30, ranks.Calls())
        assert_step(ranks, directory, 30)


def test_killed_at_any_call_while_a_step_is_saved_once_more(ranks, tmp_path):
    """The way back: ``latest`` names a step that is corrupt, and the same step is saved again."""
    number = calls_of_a_save(ranks, tmp_path / "count", 10)

    class Killed(BaseException):
        pass

    def killed(real, *args, **kwargs):
        raise Killed

    for at in range(1, number + 3):
        directory = tmp_path / f"{at}"
        sync_save(ranks, directory, 10)
        try:
            with ranks.Calls(at=at, instead=killed).installed():
                sync_save(ranks, directory, 10)
        except Killed:
            pass
        assert_step(ranks, directory, 10)
        sync_save(ranks, directory, 20)
        assert_step(ranks, directory, 20)


@pytest.mark.serial
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_file_system_that_is_really_full(ranks, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sync_save(ranks, small / "ckpt", 10)
        (small / "ballast").write_bytes(bytes(64 << 10))
        with pytest.raises(CheckpointError, match="No space left"):
            sync_save(ranks, small / "ckpt", 20)
        assert_step(ranks, small / "ckpt", 10)
        (small / "ballast").unlink()
        sync_save(ranks, small / "ckpt", 30)
        assert_step(ranks, small / "ckpt", 30)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_threads_may_share_a_spool(tmp_path):
    spool = SpoolWriter(tmp_path / "s.jsonl", job_id="j", attempt=1, source="r0000", clock=SystemClock())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda step: spool.append(EventKind.STEP, 1, {"step": step}), range(400)))
    events = read_spool(tmp_path / "s.jsonl").events
    assert [event.sequence for event in events] == list(range(1, 401))
    assert {event.data["step"] for event in events} == set(range(400))
    spool.close()
