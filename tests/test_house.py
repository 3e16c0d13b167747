"""The house keeps its own rules: file sizes, pins, documents that name what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mofang import errors

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")])
MOST_LINES = 600


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_over_600_lines(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MOST_LINES, f"{path} has {lines} lines: move a part of it into a file of its own"


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    pins = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    missing = [name for name in wanted if re.split(r"[<>=!~\[]", name)[0].lower().replace("_", "-") not in pins]
    assert not missing, f"constraints.txt lacks {missing}"


def test_nothing_in_the_tree_names_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root)/")
    words = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.yaml")]
    texts = [*SOURCES, *words, ROOT / "Makefile"]
    found = [str(path) for path in texts if path != Path(__file__) and pattern.search(path.read_text())]
    assert not found, f"paths of one machine in {found}"


def test_every_exit_code_and_error_is_documented() -> None:
    tree = errors.__doc__ or ""
    missing = [name for name in errors.__all__ if name.endswith("Error") and name not in tree]
    assert not missing, f"the tree at the top of errors.py lacks {missing}"
