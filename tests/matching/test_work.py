"""From a task to its work: lengths, padding, packing, epochs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Classify, Finetune, ImageData, Lengths, StrategyChoice, TextData, VisionModel
from mofang.domain.strategy import Method
from mofang.errors import SpecError
from mofang.matching.lengths import mean_length, packed_fraction, padded_length
from mofang.matching.work import variants, work_of

PROPERTY = settings(max_examples=25, deadline=None)
lengths = st.lists(st.integers(1, 3000), min_size=2, max_size=8).map(
    lambda sizes: Lengths(quantiles=tuple(sorted(sizes)))
)


def finetune(model: ModelArchitecture, **keys: object) -> Finetune:
    task = Finetune(
        model=model,
        model_path=None,
        data=TextData(paths=("text",), size_bytes=1_000_000, validation_fraction=0.0),
        sequence=256,
        global_batch=8,
        steps=100,
    )
    return replace(task, **keys)


@PROPERTY
@given(found=lengths, sequence=st.sampled_from([64, 512, 4096]), micro_batch=st.sampled_from([1, 2, 7, 32]))
def test_padding_is_the_mean_of_the_longest(found: Lengths, sequence: int, micro_batch: int):
    draws = np.random.default_rng(0).random((4000, micro_batch))
    points = np.linspace(0, 1, len(found.quantiles))
    drawn = np.minimum(np.interp(draws, points, found.quantiles), sequence).max(axis=1)
    expected = padded_length(found, sequence, micro_batch)
    assert expected == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(4000) + 1e-2 * drawn.mean())
    assert expected >= mean_length(found, sequence) * (1 - 1e-9)


def test_the_longest_of_evenly_spread_documents():
    evenly = Lengths(quantiles=(1e-9, 1000.0))
    assert padded_length(evenly, 10_000, 1) == pytest.approx(500.0)
    assert padded_length(evenly, 10_000, 3) == pytest.approx(750.0)
    assert mean_length(evenly, 500) == pytest.approx(375.0, rel=1e-3)


@PROPERTY
@given(found=lengths, sequence=st.sampled_from([64, 512, 4096]))
def test_packed_sequences_hold_all_tokens_and_are_nearly_full(found: Lengths, sequence: int):
    part = packed_fraction(found, sequence)
    assert 0 < part <= 1
    # Best fit opens a sequence only where none of those open has room: at most one of all is half empty.
    assert part > 0.5 or sequence > 2048 * found.mean


def test_documents_of_one_length_pack_as_counted():
    assert packed_fraction(Lengths(quantiles=(100.0, 100.0)), 256) == pytest.approx(200 / 256)
    assert packed_fraction(Lengths(quantiles=(64.0, 64.0)), 256) == 1.0
    assert packed_fraction(Lengths(quantiles=(512.0, 512.0)), 256) == 1.0


def test_epochs_become_steps(small: ModelArchitecture):
    task = finetune(small, steps=None, epochs=2.0)
    assert work_of(task).steps == -(-2_000_000 // (8 * 256))
    halves = Lengths(quantiles=(129.0, 129.0))
    packed = work_of(replace(task, lengths=halves))
    assert packed.useful == pytest.approx(129 / 256, rel=0.02)
    assert packed.steps == pytest.approx(2_000_000 / (8 * 129), rel=0.02)
    learned = work_of(replace(task, data=replace(task.data, tokenizer="/tokenizer.json")))
    assert learned.steps == -(-500_000 // (8 * 256))
    with pytest.raises(SpecError, match="size of the data"):
        work_of(replace(task, data=replace(task.data, size_bytes=None)))


def test_padded_sequences_grow_with_the_micro_batch(small: ModelArchitecture):
    spread = Lengths(quantiles=(16.0, 64.0, 1000.0))
    work = work_of(finetune(small, lengths=spread, packing=False))
    found = variants(work)
    assert [one.strategy.micro_batch for one in found] == [1, 2, 4, 8]
    sequences = [one.sequence for one in found]
    assert sequences == sorted(sequences)
    assert {one.longest for one in found} == {256}
    for one in found:
        assert one.sequence % 8 == 0
        assert one.useful * one.sequence == pytest.approx(mean_length(spread, 256))
    fixed = work_of(finetune(small, lengths=spread, packing=False, strategy=StrategyChoice(micro_batch=2)))
    assert len(variants(fixed)) == 1
    assert len(variants(work_of(finetune(small)))) == 1


def test_methods_are_those_asked_for(small: ModelArchitecture):
    assert work_of(finetune(small)).methods == tuple(Method)
    assert work_of(finetune(small, method=Method.LORA)).methods == (Method.LORA,)


def test_images_are_counted_once_an_epoch():
    model = VisionModel(name="vit", image_size=32, patch_size=8, layers=2, hidden=64, heads=4, ffn=128)
    data = ImageData(path="/images", num_classes=10, num_images=1000, validation_fraction=0.2)
    work = work_of(Classify(model=model, data=data, global_batch=50, epochs=3.0))
    assert (work.sequence, work.steps, work.head_tokens, work.causal) == (17, 48, 1, False)
    assert work.sample_bytes == 32 * 32 * 3
