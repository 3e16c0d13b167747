"""Bad input, as a person would give it: one clear line, a hint, the documented exit code, never a traceback."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mofang.cli.main import main
from mofang.client import Client
from mofang.domain.rates import HostRates

TINY = "{layers: 2, hidden: 32, heads: 2, kv_heads: 1, ffn: 64}"
JOB = f"""kind: pretrain
version: 1
name: tiny
model: {TINY}
data: {{text: [text.txt]}}
train: {{sequence: 32, global_batch: 4, steps: 5}}
resources: {{devices: cpu:1}}
"""


@dataclass(frozen=True)
class Case:
    """What is typed, what the job file holds, and what must come of it."""

    words: str
    code: int
    says: str
    job: str = JOB


def swapped(old: str, new: str) -> str:
    assert old in JOB
    return JOB.replace(old, new)


CASES = {
    # the command line
    "unknown command": Case("runn job.yaml", 2, "runn"),
    "unknown option": Case("--colour", 2, "--colour"),
    "unknown flag of a command": Case("run job.yaml --yess", 2, "--yess"),
    "no job file": Case("run", 2, "job file"),
    "a number that is none": Case("plan job.yaml -n many", 2, "many"),
    "an output that is none": Case("ps -o xml", 2, "xml"),
    "an unknown job": Case("explain nothing-like-it", 2, "nothing-like-it"),
    "logs of an unknown job": Case("logs nothing-like-it", 2, "nothing-like-it"),
    "stopping an unknown job": Case("stop nothing-like-it", 2, "nothing-like-it"),
    "report of an unknown job": Case("report nothing-like-it", 2, "nothing-like-it"),
    "an unknown catalogue name": Case("catalog show H1000", 2, "H1000"),
    "an unknown host": Case("doctor --host nowhere", 2, "nowhere"),
    # the file as a file
    "a job file that is not there": Case("run missing.yaml", 2, "missing.yaml"),
    "a folder as job file": Case("run .", 2, "."),
    "broken YAML": Case("plan job.yaml", 2, "job.yaml:3", "kind: pretrain\nversion: [1\n"),
    "a list, not a mapping": Case("plan job.yaml", 2, "job.yaml", "- kind: pretrain\n"),
    "an empty file": Case("plan job.yaml", 2, "job.yaml", ""),
    "a key twice": Case("plan job.yaml", 2, "name", JOB + "name: other\n"),
    "an unknown key": Case("plan job.yaml", 2, "modell", swapped("model:", "modell:")),
    "an unknown kind": Case("plan job.yaml", 2, "pretrian", swapped("kind: pretrain", "kind: pretrian")),
    "a version of the future": Case("plan job.yaml", 2, "version", swapped("version: 1", "version: 9")),
    "a tag that would run code": Case("plan job.yaml", 2, "prio", JOB + "priority: !!python/object/apply:os.abort []"),
    # values
    "a wrong type": Case("plan job.yaml", 2, "steps", swapped("steps: 5", "steps: [5]")),
    "a negative count": Case("plan job.yaml", 2, "steps", swapped("steps: 5", "steps: -5")),
    "a wrong unit": Case("plan job.yaml", 2, "grace", JOB + "grace: 10 parsecs\n"),
    "an empty range": Case("plan job.yaml", 2, "64..8", swapped("cpu:1", "cpu:64..8")),
    "no device": Case("plan job.yaml", 2, "cpu:0", swapped("cpu:1", "cpu:0")),
    "a wrong --set": Case("plan job.yaml --set train.steps", 2, "train.steps"),
    "--set of an unknown key": Case("plan job.yaml --set train.stepps=4", 2, "stepps"),
    "a secret in the file": Case("plan job.yaml", 2, "KEY", JOB + "environment: {secrets: {KEY: hunter2}}\n"),
    "a secret that is not there": Case(
        "run job.yaml --yes", 2, "MOFANG_NO_SUCH", JOB + "environment: {secrets: {KEY: {env: MOFANG_NO_SUCH}}}\n"
    ),
    # models and parallelism
    "an unknown model": Case("plan job.yaml", 2, "lama-3-8b", swapped(TINY, "lama-3-8b")),
    "heads that do not divide": Case("plan job.yaml", 2, "6 x 5 + 2", swapped("heads: 2", "heads: 5")),
    "a config.json without sizes": Case("plan job.yaml", 2, "config.json", swapped(TINY, "config.json")),
    "an impossible parallelism": Case(
        "plan job.yaml",
        2,
        "2 x 4 x 2 x 1",
        swapped("cpu:1", "cpu:32") + "strategy: {workers: 32, dp: 2, tp: 4, pp: 2, cp: 1}\n",
    ),
    "a batch that cannot be cut": Case("plan job.yaml", 2, "4 = 1 x (1 x 3) + 1", JOB + "strategy: {micro_batch: 3}\n"),
    "tensor parallelism of the recipe": Case(
        "plan job.yaml --hardware cpu:8", 3, "tp", swapped("cpu:1", "cpu:8") + "strategy: {dp: 4, tp: 2}\n"
    ),
    # data
    "data that is not there": Case("plan job.yaml", 2, "nothing.txt", swapped("text.txt", "nothing.txt")),
    "empty data": Case("plan job.yaml", 2, "empty.txt", swapped("text.txt", "empty.txt")),
    "binary data": Case("plan job.yaml", 2, "binary.bin", swapped("text.txt", "binary.bin")),
    "a glob without a match": Case("plan job.yaml", 2, "*.rst", swapped("text.txt", "'*.rst'")),
    "a folder without text": Case("plan job.yaml", 2, "hollow", swapped("text.txt", "hollow")),
    "a tokenizer that is none": Case("plan job.yaml", 2, "text.txt", swapped("txt]", "txt], tokenizer: text.txt")),
    # hardware
    "an unknown chip": Case("plan job.yaml --hardware H1000:8", 2, "H1000"),
    "a request that is none": Case("plan job.yaml --hardware 8xH100:", 2, "8xH100:"),
    "a chip that the fleet lacks": Case("plan job.yaml", 3, "MI300X", swapped("cpu:1", "MI300X:8")),
    "more cores than there are": Case("plan job.yaml", 3, "4096", swapped("cpu:1", "cpu:4096")),
    "a model larger than memory": Case(
        "plan job.yaml --hardware H100:4", 3, "memory", swapped(TINY, "llama-3.1-405b").replace("cpu:1", "H100:4")
    ),
    "a deadline that cannot be met": Case(
        "plan job.yaml --hardware H100:4", 3, "deadline", swapped("cpu:1", "H100:4") + "limits: {deadline: 1ms}\n"
    ),
    # plans and programs
    "a plan file that is cut off": Case("run job.yaml --yes", 2, "job.yaml", "kind: plan\nversion: 1\n"),
    "a program without words": Case("run job.yaml --yes", 2, "command", "kind: command\nversion: 1\ncommand: []\n"),
    "a program with an open quote": Case(
        "run job.yaml --yes", 2, "command", "kind: command\nversion: 1\ncommand: 'a \"b'\n"
    ),
    "a program that is not there": Case(
        "run job.yaml --yes", 1, "no-such-program", "kind: command\nversion: 1\ncommand: [no-such-program]\n"
    ),
    "a working directory that is not there": Case(
        "run job.yaml --yes", 2, "nowhere", "kind: command\nversion: 1\ncommand: ls\nenvironment: {workdir: nowhere}\n"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with Client.connect(folder) as client:
        for node in client.fleet().nodes:  # known hosts are not measured again
            client.record_rates(HostRates(host=node.name, measured_at=0.0, torch_version=""))
    yield folder
    with Client(folder, start=False) as client:
        client.shutdown()


@pytest.fixture
def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOFANG_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 256}')
    (tmp_path / "hollow").mkdir()
    return tmp_path


def check(capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str) -> None:
    got = main(words)
    out, err = capsys.readouterr()
    assert got == code, f"exit code {got}, not {code}: {err}"
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    assert says in err, err
    assert errors[0].strip() != "error:", err
    assert sum(line.startswith("hint:") for line in err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert "unexpected" not in errors[0]


def test_there_are_at_least_40_bad_inputs() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_gets_one_line_a_hint_and_its_exit_code(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    (folder / "job.yaml").write_text(case.job)
    check(capsys, case.words.split(), case.code, case.says)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_data_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "text.txt").chmod(0)
    (folder / "job.yaml").write_text(JOB)
    check(capsys, ["plan", "job.yaml"], 2, "text.txt")


def test_a_bad_catalogue_row_names_file_line_and_column(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOFANG_HOME", str(folder / "mine"))
    rows = folder / "mine" / "catalog" / "accelerators" / "mine.yaml"
    rows.parent.mkdir(parents=True)
    rows.write_text("- name: X1\n  vendor: X\n  memory_gib: plenty\n  source: data sheet\n")
    check(capsys, ["catalog", "accelerators"], 2, "mine.yaml, line 3, column memory_gib")


def test_a_home_that_cannot_be_made_is_unreachable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOFANG_HOME", str(folder / "text.txt" / "home"))
    check(capsys, ["ps"], 4, "controller")


def test_a_store_of_a_newer_version_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folder / "newer"
    home.mkdir()
    with sqlite3.connect(home / "mofang.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('9999_from_the_future')")
    database.close()
    monkeypatch.setenv("MOFANG_HOME", str(home))
    check(capsys, ["ps"], 1, "newer")


def test_a_store_that_is_no_database_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = folder / "broken"
    home.mkdir()
    (home / "mofang.db").write_text("this is not a database, whatever its name says\n" * 100)
    monkeypatch.setenv("MOFANG_HOME", str(home))
    check(capsys, ["ps"], 1, "mofang.db")


def test_errors_are_json_where_json_was_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nothing-like-it", "-o", "json"]) == 2
    told = json.loads(capsys.readouterr().err)
    assert told["code"] == "not-found"
    assert told["exit_code"] == 2
