import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from mofang.clock import ManualClock, SystemClock
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.remote import Remote
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import TrainingState
from mofang.recovery.checkpoint.upload import Uploader

CALLS = ("put_file", "get_file", "cat_file", "pipe_file", "rm_file", "rm", "info", "glob", "makedirs")


class Flaky(LocalFileSystem):
    """A local folder whose calls fail when ``plan`` says so; what it writes then is cut short."""

    protocol = "flaky"
    cachable = False
    inside = False  # of a call that makes others
    plan = staticmethod(lambda name, number: False)
    numbers = itertools.count(1)
    log: list[str] = []  # noqa: RUF012

    @classmethod
    def reset(cls, plan=lambda name, number: False):
        cls.plan, cls.numbers, cls.log = staticmethod(plan), itertools.count(1), []


def failing(name):
    real = getattr(LocalFileSystem, name)

    def call(self, *args, **kwargs):
        if Flaky.inside:
            return real(self, *args, **kwargs)
        number = next(Flaky.numbers)
        Flaky.log.append(name)
        if Flaky.plan(name, number):
            if name == "put_file":
                self._cut(args[0], args[1])
            raise RuntimeError("the connection was reset")
        Flaky.inside = True
        try:
            return real(self, *args, **kwargs)
        finally:
            Flaky.inside = False

    return call


def cut(self, source, target):
    Path(self._strip_protocol(target)).write_bytes(Path(source).read_bytes()[:100])


for _name in CALLS:
    setattr(Flaky, _name, failing(_name))
Flaky._cut = cut
fsspec.register_implementation("flaky", Flaky, clobber=True)


@pytest.fixture(autouse=True)
def fresh():
    Flaky.reset()


def state_of(ranks, step):
    tensors = {"w": torch.arange(600.0) + step, "b": torch.arange(5) + step}
    return TrainingState(step=step, parts=ranks.cut_boxes(tensors, {}), scalars={"s": step})


def save(ranks, directory, step, world_size=2):
    ranks.together(
        world_size,
        lambda peers: save_checkpoint(directory, state_of(ranks, step), keep=9, peers=peers, clock=SystemClock()),
    )


def remote_of(url, **how):
    return Remote(url, **{"keep": 2, "clock": ManualClock(), **how})


def assert_comes_back(ranks, url, directory, step):
    state = ranks.blank(state_of(ranks, 0))
    (loaded,), refused = ranks.load_all(directory, [state], remote=remote_of(url))
    assert loaded.step == step
    assert ranks.same(state, state_of(ranks, step))
    return refused


@pytest.mark.parametrize("scheme", ["file", "memory", "flaky"])
def test_up_and_down(ranks, tmp_path, scheme):
    url = f"{scheme}://{tmp_path}/there"
    for step in (10, 20, 30):
        save(ranks, tmp_path / "here", step)
        remote_of(url).upload(tmp_path / "here", step)
    assert remote_of(url).candidates() == (30, 20)
    shutil.rmtree(tmp_path / "here")
    assert assert_comes_back(ranks, url, tmp_path / "here", 30) == []
    assert not list((tmp_path / "here").glob(".*"))


def test_what_is_here_is_used_unless_there_is_a_newer_one_there(ranks, tmp_path):
    url = f"memory://{tmp_path}/newer"
    save(ranks, tmp_path / "a", 10)
    save(ranks, tmp_path / "b", 20)
    remote_of(url).upload(tmp_path / "b", 20)
    assert_comes_back(ranks, url, tmp_path / "a", 20)
    save(ranks, tmp_path / "b", 30)
    assert_comes_back(ranks, url, tmp_path / "b", 30)


def test_when_all_here_is_damaged_the_one_there_is_used(ranks, tmp_path):
    url = f"file://{tmp_path}/there"
    save(ranks, tmp_path / "here", 10)
    remote_of(url).upload(tmp_path / "here", 10)
    for shard in (tmp_path / "here").glob("step-*/shard-00001*"):
        shard.write_bytes(b"")
    refused = assert_comes_back(ranks, url, tmp_path / "here", 10)
    assert "is torn" in refused[0][1]


@pytest.mark.parametrize("file", ["shard-00000-of-00002.safetensors", "manifest.json", "latest"])
def test_what_was_damaged_there_is_refused_and_the_one_before_used(ranks, tmp_path, file):
    url = f"file://{tmp_path}/there"
    for step in (10, 20):
        save(ranks, tmp_path / "here", step)
        remote_of(url).upload(tmp_path / "here", step)
    path = tmp_path / "there" / file if file == "latest" else tmp_path / "there/step-00000020" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    shutil.rmtree(tmp_path / "here")
    refused = assert_comes_back(ranks, url, tmp_path / "here", 20 if file == "latest" else 10)
    assert bool(refused) == (file != "latest")


def test_any_call_may_fail_twice(ranks, tmp_path):
    url = f"flaky://{tmp_path}/there"
    save(ranks, tmp_path / "here", 10)
    save(ranks, tmp_path / "here", 20)
    clock = ManualClock()
    Flaky.reset(lambda name, number: number % 5 in (0, 1))
    remote_of(url, clock=clock).upload(tmp_path / "here", 10)
    Flaky.reset()
    assert_comes_back(ranks, url, tmp_path / "copy", 10)
    assert clock.monotonic() > 2  # seconds of pauses


def uploaded(url, directory, step):
    try:
        remote_of(url, attempts=2).upload(directory, step)
    except CheckpointError:
        return False
    return True


def test_an_upload_that_fails_at_any_call_leaves_the_old_one_and_goes_on_where_it_was(ranks, tmp_path):
    save(ranks, tmp_path / "here", 10)
    save(ranks, tmp_path / "here", 20)
    for at in range(1, 40):
        url = f"flaky://{tmp_path}/there{at}"
        for ledger in (tmp_path / "here").glob("step-*/.uploaded"):
            ledger.unlink()
        Flaky.reset()
        remote_of(url).upload(tmp_path / "here", 10)
        Flaky.reset(lambda name, number, at=at: number >= at)
        if uploaded(url, tmp_path / "here", 20):
            return
        Flaky.reset()
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        state = ranks.blank(state_of(ranks, 0))
        (loaded,), _ = ranks.load_all(tmp_path / "copy", [state], remote=remote_of(url))
        assert loaded.step in (10, 20)  # 20 where only what follows the move of ``latest`` was left
        assert ranks.same(state, state_of(ranks, loaded.step))
        Flaky.reset()
        remote_of(url).upload(tmp_path / "here", 20)
        assert remote_of(url).candidates()[0] == 20
    raise AssertionError("it never came to an end")


def test_files_that_have_arrived_are_not_sent_again(ranks, tmp_path):
    url = f"flaky://{tmp_path}/there"
    save(ranks, tmp_path / "here", 10)
    Flaky.reset(lambda name, number: name == "put_file" and Flaky.log.count("put_file") > 1)
    with pytest.raises(CheckpointError):
        remote_of(url, attempts=1).upload(tmp_path / "here", 10)
    Flaky.reset()
    remote_of(url).upload(tmp_path / "here", 10)
    assert Flaky.log.count("put_file") == 1


def test_a_step_that_was_saved_again_is_sent_again(ranks, tmp_path):
    url = f"file://{tmp_path}/there"
    save(ranks, tmp_path / "here", 10)
    remote_of(url).upload(tmp_path / "here", 10)
    other = TrainingState(
        step=10, parts=ranks.cut_boxes({"w": torch.zeros(600), "b": torch.zeros(5, dtype=torch.int64)}, {})
    )
    save_checkpoint(tmp_path / "here", other, keep=9, peers=Peers(), clock=SystemClock())
    remote_of(url).upload(tmp_path / "here", 10)
    state = ranks.blank(other)
    ranks.load_all(tmp_path / "copy", [state], remote=remote_of(url))
    assert ranks.same(state, other)


def test_uploads_run_in_the_background_and_only_the_newest_waits(ranks, tmp_path):
    url = f"file://{tmp_path}/there"
    failed = []
    uploader = Uploader(tmp_path / "here", remote_of(url), failed=lambda step, why: failed.append((step, why)))
    for step in (10, 20, 30):
        save(ranks, tmp_path / "here", step)
        uploader.submit(step)
    assert uploader.flush(20)
    uploader.submit(99)
    assert not uploader.close(20)
    assert remote_of(url).candidates()[0] == 30
    assert [step for step, _ in failed] == [99]


def test_a_folder_that_cannot_be_reached_is_said_and_what_is_here_is_used(ranks, tmp_path):
    save(ranks, tmp_path / "here", 10)
    Flaky.reset(lambda name, number: True)
    refused = assert_comes_back(ranks, f"flaky://{tmp_path}/there", tmp_path / "here", 10)
    assert "connection was reset" in refused[0][1]


def test_secrets_in_a_url_are_not_shown():
    with pytest.raises(CheckpointError) as error:
        Remote("nonsense://user:secret@host/folder?key=hidden", keep=1, clock=ManualClock())
    assert "nonsense://host/folder" in error.value.message
    assert "secret" not in str(error.value)
    assert "hidden" not in str(error.value)


def test_a_full_local_disk_while_downloading_is_one_line(ranks, tmp_path):
    url = f"file://{tmp_path}/there"
    save(ranks, tmp_path / "here", 10)
    remote_of(url).upload(tmp_path / "here", 10)
    with ranks.Calls(at=3, instead=ranks.no_space).installed(), pytest.raises(CheckpointError, match="No space"):
        remote_of(url, attempts=1).download(tmp_path / "copy", 10)
    assert files.candidates(tmp_path / "copy") == ()


def test_fsspec_and_torch_are_imported_only_by_who_uses_them():
    modules = "mofang.recovery.checkpoint.remote, mofang.recovery.checkpoint.background"
    code = f"import sys; import {modules}; print([name for name in ('fsspec', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
