"""The text that is looked at is the text that paths, globs and folders stand for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mofang.errors import DataError
from mofang.spec.data import PYTHON_STDLIB, inspect_text, text_files, tokenizer_vocabulary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "b.txt": b"bbbb",
        "a.py": b"aa",
        "deep/er/c.md": b"c",
        "picture.png": b"\x89PNG\0",
        ".hidden": b"no",
        ".git/config": b"no",
        "__pycache__/a.pyc": b"no",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def names(folder: Path, *paths: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in text_files([str(folder / path) for path in paths])]


def test_a_folder_is_all_text_below_it(folder: Path) -> None:
    assert names(folder, ".") == ["a.py", "b.txt", "deep/er/c.md"]
    assert inspect_text([str(folder)]) == 7


def test_globs_files_and_folders_may_overlap(folder: Path) -> None:
    assert names(folder, "b.txt", "*.*", "**/*.md") == ["b.txt", "a.py", "deep/er/c.md"]


def test_a_loop_of_links_ends(folder: Path) -> None:
    (folder / "deep" / "loop").symlink_to(folder)
    assert names(folder, ".") == ["a.py", "b.txt", "deep/er/c.md"]


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        inspect_text([str(tmp_path / "pipe")])


def test_the_standard_library_is_megabytes_of_source_without_its_tests() -> None:
    found = text_files([PYTHON_STDLIB])
    assert all(path.suffix == ".py" and "site-packages" not in path.parts for path in found)
    assert {"argparse.py", "typing.py"} <= {path.name for path in found}
    assert not any("test" in path.parts[-3:] for path in found)
    assert inspect_text([PYTHON_STDLIB]) > 1_000_000


def test_text_is_utf_8_where_the_tokenizer_reads_only_that(folder: Path) -> None:
    (folder / "long.txt").write_bytes("é".encode() * 65536)  # the part that is looked at ends inside a character
    assert inspect_text([str(folder / "long.txt")], "tokenizer.json") == 131072
    (folder / "b.txt").write_bytes(b"\xff")
    assert inspect_text([str(folder / "b.txt")]) == 1
    with pytest.raises(DataError, match="not UTF-8: byte 0 is 0xff"):
        inspect_text([str(folder / "b.txt")], "tokenizer.json")


@pytest.mark.parametrize(
    ("content", "size"),
    [
        ('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 5}}, "added_tokens": []}', 6),
        ('{"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": [{"id": 2}]}', 3),
    ],
)
def test_the_size_of_a_vocabulary_is_its_largest_id_and_one(content: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    assert tokenizer_vocabulary(str(tmp_path / "tokenizer.json")) == size


@pytest.mark.parametrize(
    "content", ["[]", '{"model": {}}', '{"model": {"vocab": 3}}', '{"model": {"vocab": {}}}', "\xff"]
)
def test_what_is_no_tokenizer_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="not a tokenizer"):
        tokenizer_vocabulary(str(tmp_path / "tokenizer.json"))
