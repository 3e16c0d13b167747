"""Checkpoints beyond this machine: any file system that fsspec knows (``s3://``, ``gs://``, ``file://`` ...). No torch.

A checkpoint is made in a local directory first and uploaded file by file, the manifest after all shards and ``latest``
last. What is torn on the way is found by the sums when it is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mofang.clock import Clock
from mofang.errors import CheckpointError, MofangError
from mofang.recovery.checkpoint import files, records
from mofang.recovery.checkpoint.manifest import Manifest, Shard
from mofang.recovery.checkpoint.writing import sync, write_atomic

__all__ = ["Remote"]

T = TypeVar("T")

_ATTEMPTS = 6
_PAUSE_S = (0.5, 30.0)  # after the first failure, and at most; it doubles
_LEDGER = ".uploaded"  # in the local step: the sums of what has arrived, so that an upload can be resumed


class Remote:
    """A folder of checkpoints at a URL.

    Args:
        url: of the folder; user information and queries in it are never shown.
        keep: how many complete checkpoints remain there.
        clock: paces the retries.
        attempts: how often each call is tried.

    Raises:
        CheckpointError: the URL's protocol is unknown, or needs a package that is not installed.
    """

    def __init__(self, url: str, *, keep: int, clock: Clock, attempts: int = _ATTEMPTS) -> None:
        parts = urlsplit(url)
        self.shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        self._keep, self._clock, self._attempts = keep, clock, attempts
        self._url = url
        self._files, self._root = _open(url, self.shown)

    def candidates(self) -> tuple[int, ...]:
        """Return the steps to try, best first, by the rules of a local directory.

        Raises:
            CheckpointError: the folder cannot be reached.
        """
        complete = self._steps()
        latest = self._latest()
        return tuple(step for step in complete if latest is None or step <= latest)

    def upload(self, directory: Path, step: int) -> None:
        """Upload a local checkpoint, move ``latest`` there and let go of old ones; what has arrived is not sent again.

        Raises:
            CheckpointError: it could not be read here, or written there.
        """
        source, target = files.step_dir(directory, step), self._at(files.step_dir(Path(), step).name)
        manifest = files.read_manifest(directory, step)
        text = (source / "manifest.json").read_bytes()
        if self._read(f"{target}/manifest.json") != text:
            self._send(source, target, manifest)
            self._pipe(f"{target}/manifest.json", text)
        self._pipe(self._at("latest"), records.pointer_text(step))
        self._retain(step)

    def download(self, directory: Path, step: int) -> None:
        """Bring a checkpoint here and check every byte of it.

        Raises:
            CheckpointError: it is not there, torn or corrupt, or the local disk is full.
        """
        draft = files.draft_dir(directory, step, 0)
        try:
            self._receive(draft, files.step_dir(directory, step).name)
            _place(draft, files.step_dir(directory, step))
        except OSError as error:
            raise CheckpointError(f"step {step} of {self.shown} cannot be brought here: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _receive(self, draft: Path, name: str) -> None:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        text = self._read(self._at(f"{name}/manifest.json"))
        if text is None:
            raise CheckpointError(f"{name} of {self.shown} has no manifest")
        write_atomic(draft / "manifest.json", [text])
        for shard in records.read_manifest(draft / "manifest.json").shards:
            self._receive_shard(draft, self._at(f"{name}/{shard.file}"), shard)

    def _receive_shard(self, draft: Path, source: str, shard: Shard) -> None:
        """Get one file; one that arrives torn is asked for again."""

        def get() -> None:
            self._files.get_file(source, str(draft / shard.file))
            files.verify(draft, shard)

        self._retry(get, f"{shard.file} cannot be read")
        sync(draft / shard.file)

    def _send(self, source: Path, target: str, manifest: Manifest) -> None:
        """Send the shards; while they are on their way, no old manifest vouches for them."""
        ledger = source / _LEDGER
        arrived = _arrived(ledger)
        if self._read(f"{target}/manifest.json") is not None:
            self._retry(lambda: self._files.rm_file(f"{target}/manifest.json"), "an old manifest cannot be removed")
            arrived = set()
        self._retry(lambda: self._files.makedirs(target, exist_ok=True), "the folder cannot be made")
        for shard in manifest.shards:
            line = f"{shard.sha256} {target}/{shard.file}"
            if line in arrived and self._size(f"{target}/{shard.file}") == shard.bytes:
                continue
            self._send_shard(source / shard.file, f"{target}/{shard.file}", shard)
            arrived.add(line)
            _note(ledger, arrived)

    def _send_shard(self, source: Path, target: str, shard: Shard) -> None:
        def put() -> None:
            self._files.put_file(str(source), target)
            if (size := self._size_now(target)) != shard.bytes:
                raise OSError(f"{size} of {shard.bytes} bytes have arrived")

        if not source.exists():
            raise CheckpointError(f"{source.name} is gone: a newer checkpoint has taken its place")
        self._retry(put, f"{shard.file} cannot be written")

    def _retain(self, newest: int) -> None:
        for step in [step for step in self._steps() if step <= newest][max(1, self._keep) :]:
            target = self._at(files.step_dir(Path(), step).name)
            # The manifest goes first, so that what is removed by halves is no checkpoint any more.
            self._retry(partial(self._files.rm_file, f"{target}/manifest.json"), "an old manifest cannot be removed")
            self._retry(partial(self._files.rm, target, recursive=True), "an old checkpoint cannot be removed")

    def _steps(self) -> list[int]:
        self._files.invalidate_cache()
        found = self._retry(lambda: self._files.glob(self._at("step-*/manifest.json")), "it cannot be listed")
        names = (str(path).split("/")[-2].removeprefix("step-") for path in found)
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def _latest(self) -> int | None:
        text = self._read(self._at("latest"))
        return None if text is None else records.parse_pointer(text)

    def _read(self, path: str) -> bytes | None:
        def read() -> bytes | None:
            try:
                text: bytes = self._files.cat_file(path)
            except FileNotFoundError:
                return None
            return text

        return self._retry(read, f"{path.rsplit('/', 1)[-1]} cannot be read")

    def _pipe(self, path: str, text: bytes) -> None:
        self._retry(lambda: self._files.pipe_file(path, text), f"{path.rsplit('/', 1)[-1]} cannot be written")

    def _size(self, path: str) -> int | None:
        return self._retry(lambda: self._size_now(path), "it cannot be listed")

    def _size_now(self, path: str) -> int | None:
        self._files.invalidate_cache()
        try:
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _retry(self, call: Callable[[], T], what: str) -> T:
        """Try a call several times, with ever longer pauses."""
        pause = _PAUSE_S[0]
        for attempt in range(1, self._attempts + 1):
            try:
                return call()
            except Exception as error:  # file systems of others raise what they like; it ends up in one line
                if attempt == self._attempts:
                    said = error.message if isinstance(error, MofangError) else f"{type(error).__name__}: {error}"
                    raise CheckpointError(
                        f"{self.shown}: {what} after {attempt} attempts: {self._clean(said)}"
                    ) from error
            self._clock.sleep(pause)
            pause = min(2 * pause, _PAUSE_S[1])
        raise CheckpointError(f"{self.shown}: {what}: no attempt was allowed")

    def _clean(self, said: str) -> str:
        return said.replace(self._url, self.shown)[:200]


def _open(url: str, shown: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # noqa: PLC0415 - only those who upload need it

    try:
        file_system, root = url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise CheckpointError(
            f"checkpoints cannot be kept at {shown}: {error}", hint="install the fsspec package of its protocol"
        ) from error
    return file_system, str(root).rstrip("/")


def _arrived(ledger: Path) -> set[str]:
    try:
        return set(ledger.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def _note(ledger: Path, arrived: set[str]) -> None:
    try:
        write_atomic(ledger, ["\n".join(sorted(arrived)).encode()])
    except OSError:
        return  # only what is sent again after a restart hangs on it


def _place(draft: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    draft.replace(target)
    sync(target.parent)
