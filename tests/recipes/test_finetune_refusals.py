"""What is wrong with a folder or its text is one clear line, told before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mofang.domain.codec import encode
from mofang.domain.recipe import FinetuneConfig
from mofang.recipes.training.entry import enter


def refused(config, folder, capsys):
    """Run the recipe in this process and return what it says when it refuses."""
    (folder / "recipe.json").write_text(encode(config))
    assert enter("mofang.recipes.finetune", FinetuneConfig, "", ["--config", str(folder / "recipe.json")]) == 2
    return capsys.readouterr().err


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda base, pairs: (base / "config.json").unlink(), "config.json: cannot be read: No such file"),
        (lambda base, pairs: cut_short(base / "model.safetensors"), "model.safetensors is torn"),
        (lambda base, pairs: (base / "model.safetensors").unlink(), "has no *.safetensors"),
        (
            lambda base, pairs: pairs.write_text('{"text": "a"}\n{"text": \n'),
            "pairs.jsonl, line 2: the line is not JSON",
        ),
        (lambda base, pairs: pairs.write_text(""), "there is no text"),
        (
            lambda base, pairs: pairs.write_text('{"prompt": "' + "x" * 99 + '", "response": "y"}\n'),
            "anything to learn",
        ),
    ],
    ids=["no config", "torn", "no weights", "broken line", "empty", "only prompts"],
)
def test_what_is_wrong_is_one_clear_line(make_finetune, pairs, tmp_path, capsys, spoil, why):
    config = make_finetune()
    spoil(Path(config.task.model_path), pairs)
    line = refused(config, tmp_path, capsys)
    assert why in line
    assert line.count("\n") == 1


def test_a_tokenizer_of_another_model_is_refused(make_finetune, tmp_path, capsys):
    config = make_finetune()
    small = replace(config, task=replace(config.task, model=replace(config.task.model, vocab=200)))
    assert "config.json says [200, 64]" in refused(small, tmp_path, capsys)


def test_a_job_never_goes_on_from_other_weights(make_finetune, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MOFANG_CHECKPOINT_DIR", str(tmp_path))
    (tmp_path / "base.json").write_text('{"key": "of other files"}')
    assert "have changed since the job began" in refused(make_finetune(), tmp_path, capsys)


def test_a_configuration_that_is_none_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text("{}")
    assert enter("mofang.recipes.finetune", FinetuneConfig, "", ["--config", str(tmp_path / "recipe.json")]) == 2
    assert "not a FinetuneConfig" in capsys.readouterr().err
    assert enter("mofang.recipes.finetune", FinetuneConfig, "", ["--config", str(tmp_path / "gone.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
