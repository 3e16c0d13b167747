"""Tiny models in other people's loops: killed, started again, and the losses are those of the undisturbed run."""

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
NEEDS = {"huggingface": ("transformers", "accelerate"), "lightning": ("lightning", "torchdata")}


def run(framework, folder, name, steps, kill_at=None):
    arguments = [str(folder), name, str(steps), *([str(kill_at)] if kill_at is not None else [])]
    argv = [sys.executable, str(PROGRAMS / f"{framework}_loop.py"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


def losses(folder, name):
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.serial
@pytest.mark.parametrize("framework", NEEDS)
@pytest.mark.parametrize("kill_at", [13, 20])  # in the middle of the second epoch, and between two
def test_a_killed_trainer_goes_on_bit_for_bit(framework, kill_at, tmp_path):
    if missing := [name for name in NEEDS[framework] if find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed: pip install 'mofang[adapters]'")
    unique = f"{framework}{os.getpid()}{kill_at}"
    whole = run(framework, tmp_path, f"{unique}w", 26)
    assert whole.returncode == 0, whole.stderr
    assert run(framework, tmp_path, unique, 26, kill_at).returncode == -signal.SIGKILL
    before = len((tmp_path / f"{unique}.jsonl").read_text().splitlines())
    assert before == kill_at
    again = run(framework, tmp_path, unique, 26)
    assert again.returncode == 0, again.stderr
    assert "restored from memory" in again.stderr
    assert losses(tmp_path, unique) == losses(tmp_path, f"{unique}w")
    assert len((tmp_path / f"{unique}.jsonl").read_text().splitlines()) < 2 * 26
