"""From files to batches: what is learned, in which order, and what shares a sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.scenario import TextData
from mofang.errors import DataError
from mofang.recipes.finetune.batches import FinetuneBatches, Side
from mofang.recipes.finetune.corpus import prepare_corpus
from mofang.recipes.finetune.packing import Stretches, cut, one_each, pack, split
from mofang.recipes.gpt.tokenizer import ByteTokenizer, open_tokenizer
from mofang.recipes.training.order import shuffled
from mofang.recipes.training.share import Share
from mofang.testing import a_model_folder

END = 0  # a byte that no text has


def corpus_of(folder: Path, *lines: object, end: int | None = END, tokenizer=None, record: Path | None = None):
    folder.mkdir(exist_ok=True)
    path = folder / "lines.jsonl"
    if lines:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return prepare_corpus(
        TextData(paths=(str(path),)),
        tokenizer or ByteTokenizer(),
        folder / "data",
        end=end,
        record=record,
        progress=lambda *_: None,
    )


def test_pairs_and_texts_become_documents(tmp_path):
    corpus = corpus_of(tmp_path, {"prompt": "2+2=", "response": "4"}, {"text": "ok", "id": 7})
    assert bytes(corpus.tokens) == b"2+2=4\0ok\0"
    assert corpus.starts.tolist() == [0, 6, 9]
    assert corpus.prompts.tolist() == [4, 0]


def test_without_an_end_nothing_is_added(tmp_path):
    assert bytes(corpus_of(tmp_path, {"text": "ok"}, end=None).tokens) == b"ok"


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("alpha\nbeta\n")
    (tmp_path / "b.txt").write_text("gamma")
    corpus = prepare_corpus(
        TextData(paths=(str(tmp_path),)), ByteTokenizer(), tmp_path / ".data", end=END, record=None, progress=print
    )
    texts = [bytes(corpus.tokens[start:stop]) for start, stop in zip(corpus.starts, corpus.starts[1:], strict=False)]
    assert sorted(texts) == [b"alpha\nbeta\n\0", b"gamma\0"]


def test_the_tokenizer_of_a_folder_and_its_end_are_used(tmp_path):
    tokenizer = open_tokenizer(str(a_model_folder(tmp_path / "model") / "tokenizer.json"))
    corpus = corpus_of(tmp_path / "texts", {"prompt": "é", "response": "b"}, end=256, tokenizer=tokenizer)
    assert corpus.prompts.tolist() == [2]
    assert corpus.tokens[-1] == 256
    assert tokenizer.decode(corpus.tokens[:-1].tolist()) == "éb"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: the line is not JSON"),
        ("[1]", "line 2: the line is not an object"),
        ('{"question": "x"}', "has neither 'text' nor 'prompt' and 'response', but 'question'"),
        ('{"prompt": "x"}', "has neither"),
        ('{"prompt": "x", "response": ""}', "its 'response' is empty"),
        ('{"text": 3}', "its 'text' is not text"),
        ('{"prompt": 3, "response": "y"}', "its 'prompt' is not text"),
        ('{"text": "x", "prompt": "y"}', "also 'prompt'"),
        ('"\\ud800"', "is not an object"),
        (b'{"text": "\xff"}', "line 2: the line is not UTF-8: byte 10 is 0xff"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, why):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(DataError) as caught:
        corpus_of(tmp_path)
    assert why in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert not list((tmp_path / "data").iterdir())


def test_documents_are_tokenized_once_and_a_job_keeps_them(tmp_path):
    record = tmp_path / "checkpoints" / "data.json"
    corpus_of(tmp_path, {"text": "one"}, record=record)
    (tmp_path / "lines.jsonl").unlink()
    assert bytes(corpus_of(tmp_path, record=record).tokens) == b"one\0"
    corpus_of(tmp_path / "other", {"text": "two"})
    with pytest.raises(DataError, match="does not exist"):
        corpus_of(tmp_path)


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(lengths, st.data(), st.integers(1, 16), st.integers(0, 5))
def test_every_token_is_learned_once_and_no_prompt_is(sizes, data, sequence, seed):
    prompts = np.array([data.draw(st.integers(0, size)) for size in sizes])
    starts = np.concatenate(([0], np.cumsum(sizes)))
    found, lost = cut(starts, prompts, shuffled(len(sizes), seed), sequence=sequence)
    learned = np.concatenate(
        [
            np.arange(start + skip + 1, start + size + 1)
            for start, size, skip in zip(found.start, found.positions, found.unlearned, strict=True)
        ]
        or [np.zeros(0, int)]
    )
    expected: list[int] = []
    for start, size, prompt in zip(starts, sizes, prompts, strict=False):
        last = min(size, sequence + 1) if prompt else size
        expected += range(start + max(prompt, 1), start + last)
    assert sorted(learned.tolist()) == expected
    assert (found.positions <= sequence).all()
    assert (found.targets > 0).all()
    assert lost == sum(
        1 for size, prompt in zip(sizes, prompts, strict=True) if prompt and prompt >= min(size, sequence + 1)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=80))
def test_packing_holds_everything_once_and_wastes_little(sizes):
    positions = np.array(sizes)
    found = Stretches(start=np.arange(len(sizes)), positions=positions, unlearned=np.zeros_like(positions))
    rows = pack(found, sequence=32)
    assert sorted(rows.members.tolist()) == list(range(len(sizes)))
    filled = [int(positions[rows.of(row)].sum()) for row in range(len(rows))]
    assert max(filled) <= 32
    assert len(rows) <= 11 / 9 * -(-sum(sizes) // 32) + 1 or sum(size > 16 for size in sizes) > len(rows) / 2
    assert sorted(one_each(found).members.tolist()) == list(range(len(sizes)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=2, max_size=80), st.floats(0.01, 0.5))
def test_what_is_kept_for_validation_is_never_trained_on(sizes, fraction):
    positions = np.array(sizes)
    found = Stretches(start=np.arange(len(sizes)), positions=positions, unlearned=np.zeros_like(positions))
    train, kept = split(found, fraction)
    assert sorted([*train.start, *kept.start]) == list(range(len(sizes)))
    assert len(train) >= 1
    assert len(kept) >= 1
    assert kept.positions[1:].sum() <= fraction * positions.sum()


def test_the_order_follows_from_the_seed():
    assert sorted(shuffled(1000, 1)) == list(range(1000))
    assert shuffled(1000, 1).tolist() == shuffled(1000, 1).tolist() != shuffled(1000, 2).tolist()
    assert abs(np.corrcoef(shuffled(1000, 0), np.arange(1000))[0, 1]) < 0.1


def batches(rank=0, world_size=1, *, micro_batch=4, accumulation=2, packing=True, sizes=None):
    chance = np.random.default_rng(0)
    lengths = chance.integers(2, 20, 60) if sizes is None else np.array(sizes)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    prompts = np.minimum(chance.integers(0, 6, len(lengths)), lengths - 1)
    found, _ = cut(starts, prompts, shuffled(len(lengths), 0), sequence=16)
    sides = [Side.of(one, pack(one, sequence=16) if packing else one_each(one)) for one in split(found, 0.2)]
    return FinetuneBatches(
        np.arange(starts[-1]).astype(np.uint16),
        *sides,
        length=16 if packing else None,
        seed=0,
        share=Share(
            rank=rank,
            world_size=world_size,
            micro_batch=micro_batch,
            global_batch=micro_batch * accumulation * world_size,
        ),
        validation_rows=5,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("packing", [True, False])
def test_targets_lie_one_further_and_prompts_do_not_count(packing):
    for batch in [*batches(packing=packing).train(3), *batches(packing=packing).validation()]:
        tokens, targets, positions, mask = batch.inputs
        counted = targets >= 0
        assert torch.equal(targets[counted], tokens[counted] + 1)
        assert tokens.shape[1] == 16 if packing else tokens.shape[1] <= 16
        assert counted.any(dim=1).all()
        if mask is not None:
            assert mask.diagonal(dim1=2, dim2=3).all()
            assert not mask.triu(1).any()
            assert int(positions.max()) < 16


def test_no_place_sees_another_document():
    batch = next(iter(batches(sizes=[5] * 60).train(0)))
    tokens, _, positions, mask = batch.inputs
    first = tokens - positions  # the token at position 0 of each document: tokens count up
    for row in range(len(tokens)):
        for place in range(12):
            seen = [other for other in range(16) if mask[row, 0, place, other]]
            assert seen == [other for other in range(place + 1) if first[row, other] == first[row, place]]


def learned(made, step):
    return [sorted(batch.inputs[1][batch.inputs[1] >= 0].tolist()) for batch in made.train(step)]


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_learns_the_same_on_every_layout_and_weighs_targets_alike(packing):
    alone = batches(packing=packing)
    halves = [batches(rank, 2, micro_batch=2, packing=packing) for rank in range(2)]
    for step in (0, 9):
        whole = sorted(target for part in learned(alone, step) for target in part)
        assert sorted(target for half in halves for part in learned(half, step) for target in part) == whole
        for made, parts in (([alone], 2), (halves, 4)):
            weighed = [(batch.weight, int((batch.inputs[1] >= 0).sum())) for one in made for batch in one.train(step)]
            assert sum(weight for weight, _ in weighed) == pytest.approx(parts)
            ratios = {round(weight / count, 9) for weight, count in weighed}
            assert len(ratios) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_counts_every_target_once_on_any_layout(world_size):
    counted, numbers = [], []
    for rank in range(world_size):
        rounds = list(batches(rank, world_size, micro_batch=2).validation())
        numbers.append(len(rounds))
        counted += [
            target for batch in rounds if batch.weight for target in batch.inputs[1].flatten().tolist() if target >= 0
        ]
        assert all(batch.weight in {0, int((batch.inputs[1] >= 0).sum())} for batch in rounds)
    assert len(set(numbers)) == 1
    expected = [
        target
        for batch in batches(micro_batch=2).validation()
        for target in batch.inputs[1].flatten().tolist()
        if target >= 0
    ]
    assert sorted(counted) == sorted(expected)
    assert len(set(counted)) == len(counted)


def test_a_prompt_to_go_on_from_is_a_prompt():
    made = batches()
    assert 0 < len(made.prompt(8)) <= 8
