"""Images to train on, looked at before anything runs: how many, of how many classes, how large."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mofang.domain.scenario import ImageData
from mofang.errors import DataError

__all__ = ["SUFFIXES", "Images", "class_folders", "inspect_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")
_HINT = "give a folder with one folder of pictures a class, or an .npz with `images` and `labels`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What was found; ``side`` is the pixels on a side, where all images are known to be squares of one size."""

    data: ImageData
    side: int | None = None


def inspect_images(path: str, validation: float) -> Images:
    """Return what an .npz or a folder holds.

    Args:
        path: absolute.
        validation: the part that is kept for validation.

    Raises:
        DataError: nothing is there, it holds no images, too few, or of fewer than two classes.
    """
    place = Path(path)
    try:
        if not place.exists():
            raise DataError(f"{path} does not exist", hint="is the path right? it counts from the job file's folder")
        found = _folder(place, validation) if place.is_dir() else _arrays(place, validation)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", hint="may you read it?") from error
    data = found.data
    if data.num_classes < 2:
        raise DataError(
            f"{path} has images of {data.num_classes} class only", hint="two classes at least are told apart"
        )
    kept = int(data.num_images * validation)
    if data.num_images < 2 or data.num_images - kept < 1:
        raise DataError(f"{path} has {data.num_images} images, too few to train on", hint="give more images")
    return found


def class_folders(root: Path) -> dict[str, tuple[Path, ...]]:
    """Return the pictures of each class, by the names of the folders, in order.

    Raises:
        OSError: a folder cannot be read.
    """
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return {entry.name: _pictures(entry) for entry in classes}


def _pictures(folder: Path) -> tuple[Path, ...]:
    found = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(where, name) for name in sorted(names) if name.lower().endswith(SUFFIXES)]
    return tuple(found)


def _folder(root: Path, validation: float) -> Images:
    classes = class_folders(root)
    if not classes:
        raise DataError(f"the folder {root} has no folders in it, one for each class", hint=_HINT)
    empty = [name for name, pictures in classes.items() if not pictures]
    if empty:
        raise DataError(
            f"the class {empty[0]!r} in {root} has no pictures", hint=f"pictures end in {', '.join(SUFFIXES)}"
        )
    count = sum(map(len, classes.values()))
    return Images(
        data=ImageData(path=str(root), num_classes=len(classes), num_images=count, validation_fraction=validation)
    )


def _arrays(file: Path, validation: float) -> Images:
    shape = _shape(file, "images")
    labels = _labels(file)
    if len(shape) not in {3, 4}:
        raise DataError(
            f"`images` in {file} has the shape {shape}",
            hint="give N x height x width, or N x height x width x channels",
        )
    if len(labels) != shape[0]:
        raise DataError(f"{file} has {shape[0]} images and {len(labels)} labels", hint="give one label an image")
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{file} has the label {int(labels.min())}", hint="labels count from 0")
    data = ImageData(
        path=str(file),
        num_classes=int(labels.max()) + 1 if len(labels) else 0,
        num_images=shape[0],
        channels=shape[3] if len(shape) == 4 else 1,
        validation_fraction=validation,
    )
    return Images(data=data, side=shape[1] if shape[1] == shape[2] else None)


def _shape(file: Path, name: str) -> tuple[int, ...]:
    """Return the shape of one array of an .npz from its header; its values are not read."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DataError(f"{file} is not an .npz file, or is torn", hint=_HINT) from error
    except KeyError as error:
        raise DataError(f"{file} has no array {name!r}", hint=_HINT) from error
    if dtype.kind not in "uif":
        raise DataError(f"{name!r} in {file} is of type {dtype}, not numbers", hint="save it as uint8 or float32")
    return tuple(int(size) for size in shape)


def _labels(file: Path) -> np.ndarray[Any, Any]:
    shape = _shape(file, "labels")
    try:
        with np.load(file, allow_pickle=False) as archive:
            labels: np.ndarray[Any, Any] = archive["labels"]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DataError(f"{file} is not an .npz file, or is torn", hint=_HINT) from error
    if len(shape) != 1 or labels.dtype.kind not in "ui":
        raise DataError(f"`labels` in {file} are {labels.dtype}{list(shape)}", hint="give N whole numbers from 0")
    return labels
