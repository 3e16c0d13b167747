"""The vision transformer and its data, without processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.domain.recipe import DeviceKind
from mofang.domain.scenario import Augmentation, ImageData, VisionModel
from mofang.domain.strategy import Recompute, Sharding, Strategy
from mofang.errors import DataError, SpecError
from mofang.matching.work import work_of

torch = pytest.importorskip("torch")
pil = pytest.importorskip("PIL.Image")

from mofang.recipes.classify.batches import ImageBatches, augmented, split_images  # noqa: E402
from mofang.recipes.classify.build import build  # noqa: E402
from mofang.recipes.classify.export import export_classifier  # noqa: E402
from mofang.recipes.classify.images import ImageSet, prepare_images  # noqa: E402
from mofang.recipes.training.share import Share  # noqa: E402

MODEL = VisionModel(name="tiny", image_size=12, patch_size=3, layers=1, hidden=8, heads=2, ffn=16)


def no_progress(*_: object) -> None:
    """Nobody watches."""


def prepared(data, tmp_path, record=None, model=MODEL):
    return prepare_images(data, model, tmp_path / "data", record=record, progress=no_progress)


def a_folder(root: Path, **classes: list) -> ImageData:
    """Write images, one folder a class, and say what there is."""
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(root / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return ImageData(path=str(root), num_classes=len(classes), num_images=sum(map(len, classes.values())))


def test_the_model_has_the_parameters_that_its_plan_was_made_for(make_classify):
    config = make_classify()
    built = build(config, torch.device("cpu"))
    count = sum(value.numel() for value in built.model.parameters())
    assert count == sum(part.tensor.numel() for part in built.layout.parts.values())
    assert work_of(config.task).model.params == count


def test_it_starts_out_knowing_nothing_and_the_same_every_time(make_classify):
    config = make_classify()
    images, labels = torch.randint(0, 256, (64, 12, 12, 1), dtype=torch.uint8), torch.arange(64) % 10
    first, second = (build(config, torch.device("cpu")).model for _ in range(2))
    loss, accuracy = first.examine(images, labels).tolist()
    assert loss == pytest.approx(np.log(10), abs=0.2)
    assert accuracy == pytest.approx(0.1, abs=0.15)
    assert second(images, labels).item() == loss


def test_every_patch_counts_and_their_places_do(make_classify):
    model = build(make_classify(), torch.device("cpu")).model
    images = torch.zeros((1, 12, 12, 1), dtype=torch.uint8)
    plain = model(images)
    seen = []
    for row, column in ((0, 0), (5, 7), (11, 11)):
        spotted = images.clone()
        spotted[0, row, column] = 255
        seen.append(model(spotted))
        assert not torch.equal(seen[-1], plain)
    assert not torch.equal(seen[0], seen[2])


def test_transformers_reads_the_exported_folder_and_computes_the_same(make_classify, tmp_path):
    transformers = pytest.importorskip("transformers")
    data = ImageData(path="x", num_classes=3, num_images=9, channels=3)
    config = make_classify(data=data)
    model = build(config, torch.device("cpu")).model
    names = ("cat", "dog", "owl")
    size = export_classifier(dict(model.named_parameters()), config.task.model, data, names, tmp_path / "out")
    assert size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    theirs, loading = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == dict(enumerate(names))
    images = torch.randint(0, 256, (5, 12, 12, 3), dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(pixels).logits, model(images), rtol=1e-4, atol=1e-5)


def toy_set(count: int) -> ImageSet:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), dtype=np.uint8)
    return ImageSet(images=images, labels=np.arange(count) % 3, names=("a", "b", "c"))


def toy_batches(count: int, *, rank=0, world_size=1, micro_batch=2, accumulation=2, shift=0, fraction=0.2):
    train, validation = split_images(count, fraction=fraction, seed=5)
    return ImageBatches(
        toy_set(count),
        train,
        validation,
        augmentation=Augmentation(shift=shift, flip=shift > 0),
        seed=5,
        share=Share(
            rank=rank,
            world_size=world_size,
            micro_batch=micro_batch,
            global_batch=micro_batch * accumulation * world_size,
        ),
        device=torch.device("cpu"),
    )


def numbers(batches, step):
    return [int(value) for batch in batches.train(step) for value in batch.inputs[0][:, 0, 0, 0]]


@settings(max_examples=30, deadline=None)
@given(count=st.integers(8, 60), step=st.integers(0, 40))
def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(count, step):
    batches = toy_batches(count)
    train, validation = split_images(count, fraction=0.2, seed=5)
    assert sorted([*train, *validation]) == list(range(count))
    size = len(train)
    seen = [number for index in range(step, step + 2 * size // 4 + 2) for number in numbers(batches, index)]
    start = -(step * 4) % size
    epoch = seen[start : start + size]
    assert sorted(epoch) == sorted(train)
    assert not set(epoch) & set(validation)
    assert [number % 3 for number in numbers(batches, step)] == [
        int(label) for batch in batches.train(step) for label in batch.inputs[1]
    ]


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 30), shift=st.integers(0, 2))
def test_what_a_step_sees_does_not_depend_on_the_number_of_workers(step, shift):
    alone = [batch.inputs for batch in toy_batches(40, micro_batch=8, accumulation=1, shift=shift).train(step)]
    parts = [
        batch.inputs
        for rank in range(2)
        for batch in toy_batches(40, rank=rank, world_size=2, micro_batch=4, accumulation=1, shift=shift).train(step)
    ]
    for whole, pieces in zip(alone[0], zip(*parts, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(pieces))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_counts_every_kept_image_once(world_size):
    rows = [list(toy_batches(23, rank=rank, world_size=world_size).validation()) for rank in range(world_size)]
    assert len({len(row) for row in rows}) == 1
    seen = [
        int(value) for row in rows for batch in row if batch.weight for value in batch.inputs[0][:, 0, 0, 0].tolist()
    ]
    _, validation = split_images(23, fraction=0.2, seed=5)
    assert sorted(seen) == sorted(validation)
    assert sum(batch.weight for row in rows for batch in row) == len(validation)


def test_images_move_and_mirror_and_edges_are_repeated():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    moved = augmented(np.repeat(image, 3, axis=0), np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1]]))[..., 0]
    assert moved[0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert moved[1].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    assert moved[2].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]


def test_a_folder_of_images_becomes_squares_of_the_models_size(tmp_path):
    wide = pil.new("RGB", (40, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 30, 20))  # blue in the middle
    data = a_folder(tmp_path / "images", blue=[wide, wide], grey=[pil.new("L", (12, 12), 77)])
    found = prepared(data, tmp_path)
    assert found.names == ("blue", "grey")
    assert found.labels.tolist() == [0, 0, 1]
    assert found.images.shape == (3, 12, 12, 3)
    assert np.abs(found.images[0].astype(int) - (0, 0, 255)).max() < 20
    assert (found.images[2] == 77).all()
    grey = prepared(replace(data, channels=1), tmp_path)
    assert grey.images.shape == (3, 12, 12, 1)


def test_images_are_made_once_and_a_job_goes_on_without_their_files(digits, tmp_path):
    record = tmp_path / "checkpoints" / "data.json"
    first = prepared(digits, tmp_path, record)
    assert np.array_equal(first.images[..., 0], np.load(digits.path)["images"])
    Path(digits.path).unlink()
    again = prepared(digits, tmp_path, record)
    assert np.array_equal(again.images, first.images)
    np.savez(digits.path, images=np.zeros((20, 12, 12), np.uint8), labels=np.arange(20) % 10)
    [folder] = (tmp_path / "data").iterdir()
    (folder / "meta.json").unlink()
    with pytest.raises(DataError, match="the training set of images has changed since the job began"):
        prepared(digits, tmp_path, record)


def with_arrays(tmp_path, **arrays):
    path = tmp_path / "given.npz"
    np.savez(path, **arrays)
    return ImageData(path=str(path), num_classes=2, num_images=4, channels=1)


GOOD = np.zeros((4, 12, 12), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": GOOD}, "labels"),
        ({"images": GOOD, "labels": np.array([0, 1, None, 1], dtype=object)}, "labels"),
        ({"images": GOOD.astype(object), "labels": np.array([0, 1, 0, 1])}, "images"),
        ({"images": GOOD.astype(np.float32), "labels": np.array([0, 1, 0, 1])}, "uint8"),
        ({"images": np.zeros((4, 12, 12, 4), np.uint8), "labels": np.array([0, 1, 0, 1])}, "channels"),
        ({"images": GOOD, "labels": np.array([0, 1, 0])}, "4 images and 3 labels"),
        ({"images": GOOD, "labels": np.array([0, 1, -1, 1])}, "label"),
        ({"images": GOOD, "labels": np.array([0, 1, 2, 1])}, "has 3 classes, the job was planned for 2"),
        ({"images": GOOD, "labels": np.array([1, 2, 2, 1])}, "no image has 0"),
        ({"images": GOOD, "labels": np.zeros(4, int)}, "class"),
    ],
)
def test_bad_arrays_are_one_clear_line(tmp_path, arrays, says):
    with pytest.raises(DataError, match=says) as caught:
        prepared(with_arrays(tmp_path, **arrays), tmp_path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "data").glob("*"))  # no draft is left


def test_a_pickle_is_never_read(tmp_path):
    path = tmp_path / "evil.npz"
    np.save(path.with_suffix(".npy"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    with pytest.raises(DataError, match=r"evil\.npz"):
        prepared(ImageData(path=str(path), num_classes=2, num_images=4), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_unreadable_image_is_named(tmp_path, content):
    data = a_folder(tmp_path / "images", a=[pil.new("L", (9, 9))] * 2, b=[pil.new("L", (9, 9))])
    broken = tmp_path / "images" / "b" / "zz.png"
    broken.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepared(data, tmp_path)
    assert str(broken) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_truncated_image_is_named(tmp_path):
    noise = pil.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = a_folder(tmp_path / "images", a=[noise], b=[noise])
    file = tmp_path / "images" / "b" / "0.png"
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"b/0\.png cannot be read: .*truncated"):
        prepared(data, tmp_path)


def test_a_folder_that_vanished_or_emptied_is_one_clear_line(tmp_path):
    data = a_folder(tmp_path / "images", a=[pil.new("L", (9, 9))], b=[pil.new("L", (9, 9))])
    for file in (tmp_path / "images" / "b").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"there are no images in .*/b"):
        prepared(data, tmp_path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        prepared(replace(data, path=str(tmp_path / "nowhere")), tmp_path)


def test_what_the_recipe_cannot_do_is_refused(make_classify):
    with pytest.raises(SpecError, match="keeps all weights on every device"):
        make_classify(strategy={"sharding": Sharding.FSDP})
    with pytest.raises(SpecError, match="keeps all weights on every device"):
        make_classify(strategy={"recompute": Recompute.FULL})
    with pytest.raises(SpecError, match="do not tile"):
        replace(MODEL, patch_size=5)
    with pytest.raises(SpecError, match="global batch"):
        make_classify(global_batch=60)


def test_the_configuration_survives_its_file(make_classify):
    from mofang.domain.codec import decode, encode  # noqa: PLC0415

    config = make_classify(augmentation=Augmentation(shift=2, flip=True))
    assert decode(type(config), encode(config)) == config
    assert json.loads(encode(config))["device"] == DeviceKind.CPU
    assert config.strategy == replace(config.strategy, method=Strategy().method)
