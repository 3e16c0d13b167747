"""Make the outputs in docs/plans.md anew: ``python docs/make_plans.py``, or ``make plans``.

In the page, ``<!-- run: COMMAND -->`` stands before a block that holds what the command prints, ``<!-- file: PATH -->``
before one that holds a file; this script replaces both. With ``<!-- run explain: COMMAND -->`` the table and the list
of what was rejected, which the page has already, are left out. Commands run in the repository root on 120 columns.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from mofang.client import Client
from mofang.errors import BackendError

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "plans.md"
_BLOCK = re.compile(
    r"(?P<mark><!-- (?P<kind>run explain|run|file): (?P<what>.*?) -->)\n```(?P<language>\w*)\n.*?\n```", re.S
)
_CUT = "[...]"


def _replaced(match: re.Match[str], environment: dict[str, str]) -> str:
    kind, what = match["kind"], match["what"]
    if kind == "file":
        text = (ROOT / what).read_text(encoding="utf-8")
    else:
        text = f"$ {what}\n{_output(what, environment, only_explanation=kind == 'run explain')}"
    return f"{match['mark']}\n```{match['language']}\n{text.rstrip()}\n```"


def _output(command: str, environment: dict[str, str], *, only_explanation: bool) -> str:
    words = shlex.split(command)
    sys.stderr.write(f"$ {command}\n")
    done = subprocess.run(
        [sys.executable, "-c", "from mofang.cli.main import main; raise SystemExit(main())", *words[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}[exit code {done.returncode}]\n"
    text = text.replace(f"{ROOT}/", "")
    return _explanation(text) if only_explanation else text


def _explanation(text: str) -> str:
    """Return what --explain adds: from the best plan's heading to the list of what was rejected."""
    start, end = text.find("\nplan 1: "), text.rfind("\nnot possible")
    if start < 0:
        return text
    return f"{_CUT}{text[start : end if end > start else None].rstrip()}\n{_CUT}\n"


def main() -> None:
    """Run every command of the page and write the page."""
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "MOFANG_HOME": home, "COLUMNS": "120", "NO_COLOR": "1"}
        try:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(_BLOCK.sub(lambda match: _replaced(match, environment), page), encoding="utf-8")
        finally:
            _stop(Path(home))


def _stop(home: Path) -> None:
    """End the controller that the commands started."""
    try:
        with Client.connect(home, start=False) as client:
            client.shutdown()
    except BackendError:
        pass  # it has left already


if __name__ == "__main__":
    main()
