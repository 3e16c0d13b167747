"""Folders of built data: made once, kept by what they were made from, found by every worker."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mofang.clock import new_token
from mofang.errors import DataError, StoreError

__all__ = ["Kind", "Progress", "prepare_folder", "recorded", "remember", "write_durably"]

Progress = Callable[[int, int, str], None]  # done, in all, of what


class Kind:
    """How one kind of data is built, and known to be whole.

    Args:
        key: names everything that the data follows from; it looks at the sources.
        fill: writes the files into an empty folder.
        is_whole: whether a folder holds all of them, untorn.
        what: what it is, for messages.
    """

    def __init__(
        self,
        key: Callable[[], str],
        fill: Callable[[Path], None],
        is_whole: Callable[[Path], bool],
        *,
        what: str = "text",
    ) -> None:
        self.key, self.fill, self.is_whole, self.what = key, fill, is_whole, what


def prepare_folder(directory: Path, kind: Kind, *, record: Path | None) -> Path:
    """Return the folder with the data, built if it is not there yet.

    Args:
        directory: where such folders are kept, one a key.
        kind: how to build it.
        record: a file that remembers the key of this job. A job that goes on takes the data it began with, even where
            its sources have vanished since, and does not look at them again.

    Raises:
        DataError: the sources are not what the job began with, or cannot be read.
        StoreError: the folder cannot be written.
    """
    known = recorded(record)
    if known and kind.is_whole(directory / known):
        return directory / known
    key = kind.key()
    if known and key != known:
        raise DataError(
            f"the training {kind.what} has changed since the job began",
            hint=f"put it back, or submit a new job to train on the new {kind.what}",
        )
    if not kind.is_whole(directory / key):
        _build(directory, key, kind)
    remember(record, key)
    return directory / key


def recorded(record: Path | None) -> str | None:
    """Return the key that a job remembers, or None where it remembers none."""
    if record is None:
        return None
    try:
        key = json.loads(record.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None
    return str(key)


def remember(record: Path | None, key: str) -> None:
    """Make a job remember a key, where it remembers none."""
    if record is not None and recorded(record) is None:
        write_durably(record, json.dumps({"key": key}))


def _build(directory: Path, key: str, kind: Kind) -> None:
    draft = directory / f".{key}.{new_token(4)}"
    try:
        draft.mkdir(parents=True)
        kind.fill(draft)
        _publish(draft, directory / key, kind)
    except OSError as error:
        raise StoreError(
            f"the training {kind.what} cannot be written to {directory}: {error.strerror}", hint="free some space there"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if not kind.is_whole(directory / key):
        raise StoreError(f"the training {kind.what} in {directory / key} is torn", hint="remove that folder")


def _publish(draft: Path, target: Path, kind: Kind) -> None:
    """Move the finished folder into place; where another worker was faster, its equal one stands."""
    try:
        draft.rename(target)
    except OSError:
        if not kind.is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            draft.rename(target)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{new_token(4)}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
