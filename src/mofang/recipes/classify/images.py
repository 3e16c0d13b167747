"""All images as bytes of one size: made once from files, mapped into memory by every worker."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mofang.domain.scenario import ImageData, VisionModel
from mofang.errors import DataError, StoreError
from mofang.recipes.training.cache import Kind, Progress, prepare_folder, write_durably
from mofang.spec.images import class_folders, inspect_images

__all__ = ["ImageSet", "prepare_images"]

_FORMAT = 1
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Images (number, size, size, channels), the class of each, and the names of the classes."""

    images: Bytes
    labels: Labels
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def prepare_images(
    data: ImageData, model: VisionModel, directory: Path, *, record: Path | None, progress: Progress
) -> ImageSet:
    """Return the images, cut to squares and scaled to the size that the model takes, made if they are not there yet.

    Args:
        data: where they are.
        model: for the size.
        directory: where such folders are kept, one a key.
        record: a file that remembers the key of this job; see ``prepare_folder``.
        progress: told about the making.

    Raises:
        DataError: an image cannot be read, there are other classes than planned for, or other images than the job
            began with.
        StoreError: the folder cannot be written.
    """
    source = _Npz(data) if data.path.endswith(".npz") else _Folder(data)
    kind = Kind(
        key=lambda: _key(source.facts(), _FORMAT, model.image_size, data.channels, data.num_classes),
        fill=lambda draft: _fill(draft, source, model.image_size, data, progress),
        is_whole=lambda folder: _open(folder) is not None,
        what="set of images",
    )
    folder = prepare_folder(directory, kind, record=record)
    found = _open(folder)
    if found is None:
        raise StoreError(f"the images in {folder} are torn", hint="remove that folder")
    return found


def _key(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _open(folder: Path) -> ImageSet | None:
    """Return the set in a folder, or None where it is missing or torn."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        images = np.memmap(folder / "images.bin", dtype=np.uint8, mode="r", shape=tuple(meta["shape"]))
    except (OSError, ValueError, KeyError):
        return None
    return ImageSet(images=images, labels=labels, names=tuple(meta["names"])) if len(labels) == len(images) else None


def _fill(draft: Path, source: _Folder | _Npz, size: int, data: ImageData, progress: Progress) -> None:
    names, labels = source.classes()
    if len(names) != data.num_classes:
        raise DataError(
            f"{data.path} has {len(names)} classes, the job was planned for {data.num_classes}",
            hint="plan it again, or put the images back",
        )
    with (draft / "images.bin").open("wb") as out:
        for number, (name, image) in enumerate(source.images(), start=1):
            out.write(_scaled(image, size, data.channels).tobytes())
            progress(number, len(labels), name)
    np.save(draft / "labels.npy", labels, allow_pickle=False)
    meta = {"shape": [len(labels), size, size, data.channels], "names": names}
    write_durably(draft / "meta.json", json.dumps(meta))


def _scaled(image: Image.Image, size: int, channels: int) -> Bytes:
    """Return the largest square in the middle of an image, at the wanted size."""
    coloured = image.convert("RGB" if channels == 3 else "L")
    if coloured.size != (size, size):
        coloured = ImageOps.fit(coloured, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(coloured, dtype=np.uint8)


class _Folder:
    """One folder a class, an image a file."""

    def __init__(self, data: ImageData) -> None:
        self._root = Path(data.path)

    @cached_property
    def _found(self) -> Mapping[str, tuple[Path, ...]]:
        try:
            return class_folders(self._root)
        except OSError as error:
            raise DataError(
                f"{self._root} cannot be read: {error.strerror}", hint="the images must stay in place"
            ) from error

    def facts(self) -> object:
        return [(str(file.relative_to(self._root)), *_stamp(file)) for files in self._found.values() for file in files]

    def classes(self) -> tuple[tuple[str, ...], Labels]:
        counts = [len(files) for files in self._found.values()]
        if empty := [name for name, files in self._found.items() if not files]:
            raise DataError(f"there are no images in {self._root / empty[0]}", hint="fill that folder, or remove it")
        return tuple(self._found), np.repeat(np.arange(len(counts)), counts)

    def images(self) -> Iterator[tuple[str, Image.Image]]:
        for files in self._found.values():
            for file in files:
                yield str(file), _read(file)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint="the images must stay in place") from error
    return status.st_size, status.st_mtime_ns


def _read(file: Path) -> Image.Image:
    """Return an image the right way up.

    Raises:
        DataError: it cannot be read, or is so large that it may be meant to fill the memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as image:
                return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = " ".join(str(error).split()).replace(repr(str(file)), "it") or type(error).__name__
        raise DataError(f"image {file} cannot be read: {reason}", hint="repair it, or remove it") from error


class _Npz:
    """``images`` and ``labels`` of one file. Nothing in it is ever unpickled."""

    def __init__(self, data: ImageData) -> None:
        self._path, self._fraction = Path(data.path), data.validation_fraction

    def facts(self) -> object:
        return (self._path.name, *_stamp(self._path))

    def classes(self) -> tuple[tuple[str, ...], Labels]:
        inspect_images(str(self._path), self._fraction)
        labels: Labels = self._array("labels").astype(np.int64)
        missing = np.setdiff1d(np.arange(int(labels.max()) + 1), labels)
        if len(missing):
            raise DataError(
                f"{self._path}: labels go up to {labels.max()}, but no image has {missing[0]}",
                hint="count the classes from 0, and leave none out",
            )
        return tuple(map(str, range(int(labels.max()) + 1))), labels

    def _array(self, name: str) -> Any:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                return file[name]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{name} in {self._path} cannot be read: {error}",
                hint="write plain numbers with np.savez(path, images=, labels=)",
            ) from error

    def images(self) -> Iterator[tuple[str, Image.Image]]:
        images = self._array("images")
        channels = images.shape[3] if images.ndim == 4 else 1
        if images.dtype != np.uint8 or channels not in {1, 3}:
            raise DataError(
                f"{self._path}: images must be uint8 of 1 or 3 channels, not {images.dtype} of {channels}",
                hint="scale them to 0..255, round them, and keep grey or red, green and blue",
            )
        for number, image in enumerate(images[..., 0] if images.ndim == 4 and channels == 1 else images):
            yield f"image {number}", Image.fromarray(image)
