# ruff: noqa: E501 - the table has one row a case
"""Every mistake in a job file is one line that names its place, and a hint; never a traceback, never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mofang.domain.hardware import Accelerator
from mofang.domain.model import ModelArchitecture
from mofang.errors import CatalogError, MofangError, UsageError
from mofang.spec.job_file import load_job_file, parse_job_file

GOOD = """\
kind: pretrain
version: 1
name: small
model: {layers: 2, hidden: 64, heads: 4}
data:
  text: [words.txt]
train:
  sequence: 32
  steps: 10
resources:
  devices: cpu:2
"""


class TinyCatalog:
    """One model and one accelerator."""

    def model(self, name_or_path: str) -> ModelArchitecture:
        if name_or_path != "tiny":
            raise CatalogError(f"there is no model {name_or_path!r}", hint="did you mean 'tiny'?")
        return ModelArchitecture(
            name="tiny", layers=2, hidden=64, heads=4, kv_heads=4, ffn=128, vocab=256, head_dim=16, max_sequence=64
        )

    def accelerator(self, name: str) -> Accelerator:
        if name.upper() != "H100":
            raise CatalogError(f"there is no accelerator {name!r}", hint="did you mean 'H100'?")
        return Accelerator(name="H100", vendor="x", memory_bytes=1, memory_bandwidth=1.0, peak_flops={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("some words to learn from\n" * 200)
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.bin").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "latin.txt").write_bytes("déjà vu ".encode("latin-1") * 200)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


def failing(folder: Path, text: str, sets: tuple[str, ...] = ()) -> MofangError:
    path = folder / "job.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_job_file(path, sets, catalog=TinyCatalog())
    return caught.value


def swapped(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# what is wrong with the file: (its text, the place that is named, words of the message, words of the hint)
BAD = {
    "not YAML": (GOOD + "x: [1, 2\n", "job.yaml:13:1", "expected ',' or ']'", "check the indentation"),
    "tabs": (GOOD + "x:\n\ty: 1\n", "job.yaml:13:1", "cannot start any token", "spaces, not tabs"),
    "bad indentation": (GOOD + "   more: 1\n", "job.yaml:12:8", "mapping values are not allowed", "indentation"),
    "unknown alias": (GOOD + "x: *secret\n", "job.yaml:12:4", "anchor", "check"),
    "two documents": (GOOD + "---\nkind: command\n", "job.yaml:12:1", "but found another document", "check"),
    "a tag of Python": (swapped("name: small", "name: !!python/name:os.system"), "job.yaml:3", "not allowed", "plain"),
    "aliases without end": (GOOD + "x: &x [*x]\n", "job.yaml:12", "nested too deeply", "aliases"),
    "nested without end": ("[" * 600, "job.yaml", "nested too deeply", "few levels"),
    "control characters": (GOOD + "x: \x01\n", "job.yaml", "not text that YAML allows", "UTF-8"),
    "empty": ("", "job.yaml", "the file is empty", "kind: pretrain"),
    "a list": ("- kind: pretrain\n", "job.yaml", "holds a list", "kind: pretrain"),
    "a key twice": (GOOD + "name: again\n", "job.yaml:12:1", "'name' is written twice", "line 3"),
    "a key twice inside": (swapped("  steps: 10", "  steps: 10\n  steps: 11"), "job.yaml:10", "'steps'", "line 9"),
    "no kind": (swapped("kind: pretrain\n", ""), "job.yaml", "'kind' is missing", "kind: pretrain"),
    "unknown kind": (swapped("pretrain", "pretrian"), "job.yaml:1: kind", "'pretrian' is no kind", "did you mean 'pretrain'"),
    "newer version": (swapped("version: 1", "version: 2"), "job.yaml:2: version", "2 is not one of 1", "write 1"),
    "unknown key": (swapped("steps: 10", "stpes: 10"), "job.yaml:9: train.stpes", "no key 'stpes'", "did you mean 'steps'"),
    "unknown key on top": (GOOD + "trian: {}\n", "job.yaml:12: trian", "no key 'trian'", "did you mean 'train'"),
    "missing key": (swapped("  text: [words.txt]\n", "  tokenizer: bytes\n"), "data", "'text' is missing", "add text"),
    "min_nodes beyond nodes": (
        GOOD + "  nodes: 2\nrestart: {min_nodes: 3}\n", "restart.min_nodes", "3 > 2 nodes", "2 or less"
    ),
    "spare_nodes below zero": (GOOD + "restart: {spare_nodes: -1}\n", "job.yaml:12: restart.spare_nodes", "-1", ""),
    "no nodes at least": (GOOD + "restart: {min_nodes: 0}\n", "job.yaml:12: restart.min_nodes", "0", ""),
    "no model": (swapped("model: {layers: 2, hidden: 64, heads: 4}\n", ""), "job.yaml", "'model' is missing", "add model"),
    "no length": (swapped("  steps: 10\n", ""), "job.yaml:7: train", "how long to train is missing", "one of steps"),
    "two lengths": (
        swapped("steps: 10", "steps: 10\n  tokens: 1M"), "job.yaml:10: train.tokens", "exclude each other", "one of steps"
    ),
    "not a number": (swapped("steps: 10", "steps: ten"), "job.yaml:9: train.steps", "'ten' is not a count", "600"),
    "half a step": (swapped("steps: 10", "steps: 2.5"), "job.yaml:9: train.steps", "not a whole count", "600"),
    "no steps": (swapped("steps: 10", "steps: 0"), "job.yaml:9: train.steps", "at least 1, not 0", "from 1 up"),
    "true is no number": (swapped("steps: 10", "steps: true"), "job.yaml:9: train.steps", "True is not a count", "600"),
    "a duration without unit": (
        swapped("steps: 10", "duration: 90 seconds"), "job.yaml:9: train.duration", "not a duration", "90s"
    ),
    "a rate that is text": (swapped("steps: 10", "steps: 10\n  lr: high"), "job.yaml:10: train.lr", "'high' is not a number", "3e-3"),
    "a rate below nothing": (swapped("steps: 10", "steps: 10\n  lr: -1"), "train.lr", "must be > 0", "> 0"),
    "an endless rate": (swapped("steps: 10", "steps: 10\n  lr: .inf"), "train.lr", "not a finite number", "3e-3"),
    "a fraction above one": (swapped("steps: 10", "steps: 10\n  fault_at: 1.5"), "train.fault_at", "must be < 1.0", "< 1.0"),
    "section is a list": (swapped("data:\n  text: [words.txt]", "data: [words.txt]"), "job.yaml:5: data", "keys and values", "keys here: text"),
    "flag is text": (GOOD + "strategy: {compile: sometimes}\n", "strategy.compile", "'sometimes' is not true or false", "true or false"),
    "unknown goal": (GOOD + "goal: tiem\n", "job.yaml:12: goal", "'tiem' is not one of time, cost, energy", "did you mean 'time'"),
    "empty range": (swapped("cpu:2", "cpu:8..4"), "job.yaml:11: resources.devices", "range 8..4 is empty", "smaller end first"),
    "no such count": (swapped("cpu:2", "cpu:two"), "resources.devices", "'two' is not a count", "600"),
    "no devices": (swapped("cpu:2", "cpu:0"), "resources.devices", "asks for no device", "at least one"),
    "devices twice": (swapped("cpu:2", "cpu:2\n  any_of: [cpu:1]"), "job.yaml:12: resources.any_of", "exclude each other", "one of them"),
    "unknown device": (swapped("cpu:2", "H10O:8"), "job.yaml:11: resources.devices", "no accelerator 'H10O'", "did you mean"),
    "memory in bits": (swapped("cpu:2", "cpu:2\n  memory: 24Gb"), "resources.memory", "bits", "capital B"),
    "unknown model": (swapped("{layers: 2, hidden: 64, heads: 4}", "lama"), "job.yaml:4: model", "no model 'lama'", "did you mean"),
    "model file is gone": (swapped("{layers: 2, hidden: 64, heads: 4}", "./config.json"), "model", "does not exist", "looked for in"),
    "heads do not divide": (swapped("hidden: 64, heads: 4", "hidden: 66, heads: 4"), "job.yaml:4: model", "66 = 16 x 4 + 2", "head_dim"),
    "kv heads do not divide": (swapped("heads: 4}", "heads: 4, kv_heads: 3}"), "model", "4 = 1 x 3 + 1", "kv_heads"),
    "model without layers": (swapped("layers: 2, ", ""), "job.yaml:4: model", "'layers' is missing", "add layers"),
    "sequence too long": (
        swapped("{layers: 2, hidden: 64, heads: 4}", "tiny").replace("sequence: 32", "sequence: 65"),
        "job.yaml:8: train.sequence", "65 is longer than the model allows: 64", "64 or less",
    ),
    "vocabulary too small": (swapped("heads: 4}", "heads: 4, vocab: 99}"), "model", "99 is smaller than the tokenizer's of 256", "256"),
    "degrees": (
        GOOD + "strategy: {workers: 2, dp: 2, tp: 4, pp: 2, cp: 1}\n",
        "job.yaml:12: strategy", "2 x 4 x 2 x 1 = 16 != 2", "change one of the degrees",
    ),
    "some degrees": (GOOD + "strategy: {workers: 2, tp: 4}\n", "strategy", "2 is not a multiple of 4", "change one"),
    "tp and heads": (GOOD + "strategy: {tp: 3}\n", "job.yaml:12: strategy.tp", "4 = 1 x 3 + 1", "change tp"),
    "pp and layers": (GOOD + "strategy: {pp: 3}\n", "strategy.pp", "pp = 3 stages need a layer each", "lower pp"),
    "cp and sequence": (GOOD + "strategy: {cp: 3}\n", "strategy.cp", "32 = 10 x 3 + 2", "change cp"),
    "batch": (
        swapped("steps: 10", "steps: 10\n  global_batch: 15") + "strategy: {workers: 2}\n",
        "job.yaml:10: train.global_batch", "15 = 7 x (2 x 1) + 1", "multiple of 2",
    ),
    "micro-batch": (GOOD + "strategy: {dp: 2, micro_batch: 3}\n", "train", "16 = 2 x (2 x 3) + 4", "multiple of 6"),
    "sharding": (GOOD + "strategy: {dp: 2, sharding: none}\n", "strategy", "one data-parallel worker, not 2", "ddp or fsdp"),
    "more workers than devices": (GOOD + "strategy: {workers: 4}\n", "job.yaml:10: resources", "4 workers need 4 devices", "cpu:4"),
    "more cores than devices": (GOOD + "strategy: {workers: 2, threads: 2}\n", "resources", "2 workers x 2 cores need 4", "cpu:4"),
    "no data": (swapped("words.txt", "wrods.txt"), "job.yaml:6: data.text", "wrods.txt does not exist", "is the path right"),
    "empty data": (swapped("words.txt", "empty.txt"), "job.yaml:6: data.text", "there is no text", "not empty"),
    "little data": (swapped("words.txt", "short.txt"), "data.text", "one sequence takes 33", "more text"),
    "binary data": (swapped("words.txt", "binary.bin"), "data.text", "binary: it has NUL bytes", "text files"),
    "no text in folder": (swapped("words.txt", "hollow"), "data.text", "has no text files", "folder with text"),
    "no match": (swapped("words.txt", '"*.md"'), "data.text", "no file matches", "**"),
    "only binary matches": (swapped("words.txt", '"*.bin"'), "data.text", "all 1 are binary", "text files"),
    "a device as data": (swapped("words.txt", "/dev/zero"), "data.text", "not a regular file", "files, globs or folders"),
    "unreadable data": (swapped("words.txt", "/proc/self/mem"), "data.text", "cannot be read", "may you read it"),
    "a name beyond all bounds": (swapped("words.txt", "x" * 300), "data.text", "cannot be read", "may you read it"),
    "not UTF-8": (
        swapped("[words.txt]", "[latin.txt]\n  tokenizer: tokenizer.json"), "data.text", "not UTF-8: byte 1 is 0xe9", "bytes"
    ),
    "no tokenizer": (swapped("[words.txt]", "[words.txt]\n  tokenizer: gone.json"), "job.yaml:7: data.tokenizer", "cannot be read", "path"),
    "broken tokenizer": (swapped("[words.txt]", "[words.txt]\n  tokenizer: broken.json"), "data.tokenizer", "not a tokenizer.json", "bytes"),
    "no workdir": (GOOD + "environment: {workdir: gone}\n", "job.yaml:12: environment.workdir", "does not exist", "make it"),
    "unknown mode": (GOOD + "environment: {workdir: {path: ., mode: copy}}\n", "environment.workdir.mode", "not one of shared, upload", "write"),
    "a variable that is a number": (GOOD + "environment: {env: {V: 1.10}}\n", "environment.env.V", "must be text", "quote it"),
    "a variable with NUL": (GOOD + 'environment: {env: {V: "a\\0b"}}\n', "environment.env.V", "NUL byte", "remove"),
    "a home of nobody": (swapped("words.txt", "~nobody-here/words.txt"), "data.text", "does not exist", "path"),
    "a model at nobody's": (swapped("{layers: 2, hidden: 64, heads: 4}", "~nobody-here/config.json"), "model", "does not exist", "looked for"),
    "not a variable": (GOOD + "environment: {env: {A-B: x}}\n", "environment.env.A-B", "not the name of a variable", "letters"),
    "copies that are no number": (
        GOOD + "environment: {env: {MOFANG_REPLICAS: many}}\n", "environment.env.MOFANG_REPLICAS", "no value", "0 to 9"
    ),
    "a variable of ours": (GOOD + "environment: {env: {RANK: 1}}\n", "environment.env.RANK", "set by Mofang", "another name"),
    "variable and secret": (
        GOOD + "environment: {env: {A: x}, secrets: {A: {env: B}}}\n", "environment.secrets.A", "also in env", "one of them"
    ),
    "mount outside": (GOOD + "environment: {mounts: {../x: words.txt}}\n", "environment.mounts", "does not lie inside", "relative"),
    "mount of nothing": (GOOD + "environment: {mounts: {x: gone}}\n", "environment.mounts.x", "does not exist", "is there"),
    "a bad name": (swapped("small", "my job"), "job.yaml:3: name", "'my job' is not a name", "letters"),
    "no grace": (GOOD + "grace: -1\n", "job.yaml:12: grace", "-1 is not a duration", "90s"),
    "no command": ("kind: command\ncommand: []\n", "job.yaml:2: command", "there is no command", "[python"),
    "open quote": ("kind: command\ncommand: echo 'x\n", "job.yaml:2: command", "cannot be split", "quotes"),
    "shell": ("kind: command\ncommand: cat a | sort\n", "job.yaml:2: command", "not run by a shell", "[bash, -c"),
    "train in a command": ("kind: command\ncommand: ls\ntrain: {}\n", "job.yaml:3: train", "no key 'train'", "keys here"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_job_file_is_one_line_with_its_place_and_a_hint(case: str, folder: Path) -> None:
    text, place, message, hint = BAD[case]
    error = failing(folder, text)
    assert error.exit_code == 2
    assert "\n" not in error.message + error.hint
    assert str(folder / "job.yaml") in error.message
    assert place in error.message
    assert message in error.message
    assert hint in error.hint


BAD_SETS = {
    "train.stpes=5": ("--set train.stpes: train.stpes", "did you mean 'steps'"),
    "train.steps=ten": ("--set train.steps: train.steps: 'ten' is not a count", "600"),
    "train.steps": ("--set train.steps: is not path=value", "--set train.steps=100"),
    "=5": ("--set : is not path=value", "--set"),
    "train..steps=5": ("is not path=value", "--set"),
    "name.x=5": ("--set name.x: what lies before 'x' is text", "schema"),
    "data.text.7=x": ("has no item 7", "schema"),
    "train={steps: 1": ("--set train: ", "check"),
    "environment.secrets.KEY=hunter2": ("--set environment.secrets.KEY", "{env: NAME}"),
}


@pytest.mark.parametrize("assignment", BAD_SETS)
def test_a_bad_set_is_one_line_with_its_path_and_a_hint(assignment: str, folder: Path) -> None:
    message, hint = BAD_SETS[assignment]
    error = failing(folder, GOOD, (assignment,))
    assert message in error.message
    assert hint in error.hint
    assert "\n" not in error.message
    assert "hunter2" not in error.message + error.hint + str(error.data)


SECRETS = [
    "environment: {secrets: {KEY: hunter2}}",
    "environment: {secrets: {KEY: {value: hunter2}}}",
    "environment: {secrets: {KEY: {env: [hunter2]}}}",
    "environment: {secrets: {KEY: {env: A, file: hunter2}}}",
    "environment: {secrets: [hunter2]}",
    "environment: {secrets: hunter2}",
    "environment: hunter2",
    "environment: [{secrets: {KEY: hunter2}}]",
    "environment: {secrets: {KEY: *hunter2}}",
    "environment: {secrets: {KEY: {env: A}}, env: {OTHER: [hunter2]}}",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_written_into_a_file_is_refused_and_never_shown(text: str, folder: Path) -> None:
    error = failing(folder, GOOD + text + "\n")
    assert "job.yaml:12" in error.message
    assert error.hint
    assert "hunter2" not in error.message + error.hint + str(error.to_wire())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00k"), "is not UTF-8 text: byte 0 is 0xff"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    make(path)
    with pytest.raises(UsageError, match=message) as caught:
        load_job_file(path, catalog=TinyCatalog())
    assert caught.value.hint
    assert str(path) in caught.value.message


def test_all_problems_are_told_and_the_first_line_comes_first(folder: Path) -> None:
    error = failing(folder, GOOD.replace("steps: 10", "steps: ten").replace("cpu:2", "cpu:9..3"))
    assert "job.yaml:9" in error.message
    assert len(error.data["problems"]) == 2


def test_the_good_file_is_good(folder: Path) -> None:
    (folder / "job.yaml").write_text(GOOD)
    assert load_job_file(folder / "job.yaml", catalog=TinyCatalog()).scenario.name == "small"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, len(GOOD)),
    st.text("ab:{}[],&*!|>'\"%@`#?-\n\t \\\0~é", min_size=1, max_size=6),
    st.integers(0, 4),
)
def test_no_slip_of_the_keyboard_breaks_the_reader(folder: Path, at: int, slip: str, lost: int) -> None:
    text = GOOD[:at] + slip + GOOD[at + lost :]
    refused = None
    try:
        parse_job_file(text, "job.yaml", folder, (), TinyCatalog())
    except UsageError as error:  # any other exception fails the test
        refused = error
    if refused is not None:
        assert refused.hint
        assert refused.message.startswith("job.yaml")
        assert "\n" not in refused.message
