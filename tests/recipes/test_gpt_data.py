import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.scenario import TextData
from mofang.errors import DataError, StoreError
from mofang.recipes.gpt.batches import Batches
from mofang.recipes.gpt.order import Split, permuted, split_tokens
from mofang.recipes.gpt.sources import find_sources
from mofang.recipes.gpt.tokenizer import ByteTokenizer, open_tokenizer
from mofang.recipes.gpt.tokens import open_tokens, prepare_tokens
from mofang.recipes.training.share import Share


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**63))
def test_the_order_of_an_epoch_is_a_permutation(size, key):
    assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


def test_tokens_beyond_the_bytes_say_nothing():
    assert ByteTokenizer().decode([104, 16383, 105, 256]) == "hi"


def test_epochs_and_seeds_give_different_orders():
    split = Split(train=100_000, total=100_000, sequence=32, seed=0)
    first = [split.train_start(index) for index in range(200)]
    second = [split.train_start(split.train_windows + index) for index in range(200)]
    other = [Split(train=100_000, total=100_000, sequence=32, seed=1).train_start(index) for index in range(200)]
    assert len({tuple(first), tuple(second), tuple(other), tuple(sorted(first))}) == 4


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(2, 5000),
    sequence=st.integers(1, 64),
    fraction=st.floats(0, 0.9),
    position=st.integers(0, 10_000),
    count=st.integers(1, 50),
)
def test_validation_text_is_never_trained_on(total, sequence, fraction, position, count):
    split = split_tokens(total, sequence=sequence, fraction=fraction, seed=3)
    if split is None:
        assert total < 4 * (sequence + 1) or fraction > 0.2
        return
    start = split.train_start(position)
    assert start >= 0
    assert start + sequence + 1 <= split.train
    if fraction > 0:
        starts = split.validation_starts(count)
        assert starts
        assert all(split.train <= start <= total - sequence - 1 for start in starts)
        assert len(set(starts)) == len(starts) <= count


def batches(rank, world_size, micro_batch, accumulation):
    split = split_tokens(5000, sequence=16, fraction=0.1, seed=0)
    tokens = np.arange(5000).astype(np.uint16)
    return Batches(
        tokens,
        split,
        share=Share(
            rank=rank,
            world_size=world_size,
            micro_batch=micro_batch,
            global_batch=micro_batch * accumulation * world_size,
        ),
        validation_windows=26,
        device=torch.device("cpu"),
    )


def starts(made, step):
    return [int(first) for batch in made.train(step) for first in batch.inputs[0][:, 0]]


def test_a_step_trains_on_the_same_text_on_every_layout():
    alone = starts(batches(0, 1, 4, 3), 7)
    assert starts(batches(0, 2, 2, 3), 7) + starts(batches(1, 2, 2, 3), 7) == alone
    assert [start for rank in range(3) for start in starts(batches(rank, 3, 1, 4), 7)] == alone


def test_targets_are_one_token_later():
    for batch in batches(0, 1, 4, 1).train(0):
        inputs, targets = batch.inputs
        assert torch.equal(inputs + 1, targets)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_counts_every_window_once_on_any_layout(world_size):
    counted, numbers = [], []
    for rank in range(world_size):
        rounds = list(batches(rank, world_size, 4, 1).validation())
        numbers.append(len(rounds))
        counted += [int(first) for batch in rounds if batch.weight for first in batch.inputs[0][:, 0]]
    expected = [int(first) for batch in batches(0, 1, 4, 1).validation() for first in batch.inputs[0][:, 0]]
    assert sorted(counted) == expected
    assert len(expected) == 26
    assert len(set(numbers)) == 1


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("alpha " * 50)
    (root / "deep" / "b.txt").write_text("beta " * 50)
    (root / "c.bin").write_bytes(b"\0\1\2" * 50)
    (root / ".hidden").write_text("no")
    (root / "empty.txt").write_text("")
    return root


def names(*paths):
    return {Path(source.path).name for source in find_sources([str(path) for path in paths])}


def test_files_folders_and_globs_are_found(folder):
    assert names(folder) == {"a.txt", "b.txt"}
    assert names(folder / "a.txt") == {"a.txt"}
    assert names(f"{folder}/*.txt") == {"a.txt"}
    assert names(f"{folder}/**/*.txt") == {"a.txt", "b.txt"}
    assert names(folder, folder / "a.txt") == {"a.txt", "b.txt"}


def test_the_standard_library_is_on_every_machine():
    found = find_sources(["python-stdlib"])
    assert len(found) > 200
    assert sum(source.bytes for source in found) > 5e6
    assert not any("site-packages" in source.name or source.name.startswith("test/") for source in found)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda root: root / "absent.txt", "does not exist"),
        (lambda root: root / "empty.txt", "no text"),
        (lambda root: f"{root}/*.md", "no file matches"),
        (lambda root: f"{root}/*.bin", "no text file matches"),
    ],
)
def test_what_is_not_text_is_said_in_one_line(folder, make, why):
    with pytest.raises(DataError, match=why) as caught:
        find_sources([str(make(folder))])
    assert caught.value.hint
    assert "\n" not in caught.value.message


def prepare(folder, directory, record=None):
    calls = []
    built = prepare_tokens(
        TextData(paths=(str(folder),)),
        ByteTokenizer(),
        directory,
        record=record,
        progress=lambda *progress: calls.append(progress),
    )
    return built, calls


def test_tokens_are_built_once_and_then_found(folder, tmp_path):
    built, calls = prepare(folder, tmp_path / "data")
    text = bytes(built.tokens).decode()
    assert sorted(text.split("\n")) == ["", "alpha " * 50, "beta " * 50]
    assert built.tokens.dtype == np.uint8
    assert calls[-1][:2] == (550, 550)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    again, calls = prepare(folder, tmp_path / "data")
    assert again.key == built.key
    assert calls == []


def test_changed_text_is_built_anew(folder, tmp_path):
    built, _ = prepare(folder, tmp_path / "data")
    (folder / "a.txt").write_text("gamma")
    assert prepare(folder, tmp_path / "data")[0].key != built.key


def test_a_job_that_goes_on_keeps_its_text_even_where_the_source_is_gone(folder, tmp_path):
    record = tmp_path / "checkpoints" / "data.json"
    built, _ = prepare(folder, tmp_path / "data", record)
    (folder / "a.txt").unlink()
    assert prepare(folder, tmp_path / "data", record)[0].key == built.key


def test_a_job_never_goes_on_with_other_text(folder, tmp_path):
    record = tmp_path / "checkpoints" / "data.json"
    prepare(folder, tmp_path / "data", record)
    (folder / "a.txt").write_text("gamma")
    with pytest.raises(DataError, match="has changed since the job began"):
        prepare(folder, tmp_path / "elsewhere", record)


def test_a_torn_token_file_is_built_again(folder, tmp_path):
    built, _ = prepare(folder, tmp_path / "data")
    path = tmp_path / "data" / built.key / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-3])
    assert open_tokens(tmp_path / "data", built.key) is None
    assert len(prepare(folder, tmp_path / "data")[0].tokens) == len(built.tokens)


def test_a_folder_that_cannot_be_written_is_said(folder, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        prepare(folder, tmp_path / "data")
    assert not list(tmp_path.glob(".*"))


def test_a_tokenizer_file_makes_tokens_and_text(tmp_path):
    vocab = {"[UNK]": 0, "alpha": 1, "beta": 2}
    path = tmp_path / "tokenizer.json"
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "pre_tokenizer": {"type": "Whitespace"},
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
            }
        )
    )
    tokenizer = open_tokenizer(str(path))
    text = tmp_path / "text.txt"
    text.write_text("alpha beta alpha")
    assert [(piece.tolist(), size) for piece, size in tokenizer.encode_file(text)] == [([1, 2, 1], 16)]
    assert tokenizer.decode([2, 1]) == "beta alpha"
    assert tokenizer.vocab == 3


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_is_no_tokenizer_is_said(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match="tokenizer"):
        open_tokenizer(str(path))
