"""Pre-training."""

from __future__ import annotations

from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Pretrain, TextData
from mofang.spec.architecture import architecture
from mofang.spec.checks import check_amount, check_sequence, check_strategy, check_vocabulary, fixed_choice
from mofang.spec.context import Context
from mofang.spec.data import BYTE_VOCABULARY, PYTHON_STDLIB, inspect_text, tokenizer_vocabulary
from mofang.spec.schema.pretrain import PretrainFile
from mofang.spec.tasks.training import optimisation_of, require_one_length, shared_settings

__all__ = ["pretrain_task"]


def pretrain_task(file: PretrainFile, context: Context) -> Pretrain:
    """Return the task.

    Raises:
        MofangError: something the file names does not exist, or its figures do not fit each other.
    """
    train = file.train
    tokenizer, vocabulary = _tokenizer(file.data.tokenizer, context)
    model, sequence = _model(file, context, vocabulary)
    check_sequence(sequence, model, context)
    check_strategy(
        file.strategy,
        context,
        layers=model.layers,
        heads=model.heads,
        sequence=sequence,
        global_batch=train.global_batch,
    )
    data = _text(file, context, tokenizer, sequence)
    require_one_length(train, context, {"steps": "600", "duration": "90s", "tokens": "10M"})
    shared = shared_settings(train)
    if train.tokens is not None:
        shared["steps"] = -(-train.tokens // (sequence * train.global_batch))
    return Pretrain(
        model=model,
        data=data,
        sequence=sequence,
        global_batch=train.global_batch,
        optimisation=optimisation_of(train, train.lr),
        strategy=fixed_choice(file.strategy),
        validation_batches=train.validation_batches,
        sample_tokens=train.sample_tokens,
        fault_at_fraction=train.fault_at,
        **shared,
    )


def _model(file: PretrainFile, context: Context, vocabulary: int) -> tuple[ModelArchitecture, int]:
    with context.document.blame("model"):
        model, sequence = architecture(
            file.model,
            sequence=file.train.sequence,
            vocabulary=vocabulary,
            base_dir=context.base_dir,
            catalog=context.catalog,
            name=context.name,
        )
        check_vocabulary(model, vocabulary)
    return model, sequence


def _tokenizer(text: str, context: Context) -> tuple[str, int]:
    if text == "bytes":
        return text, BYTE_VOCABULARY
    path = context.path(text)
    with context.document.blame("data", "tokenizer"):
        return path, tokenizer_vocabulary(path)


def _text(file: PretrainFile, context: Context, tokenizer: str, sequence: int) -> TextData:
    paths = tuple(text if text == PYTHON_STDLIB else context.path(text) for text in file.data.text)
    with context.document.blame("data", "text"):
        data = TextData(
            paths=paths,
            tokenizer=tokenizer,
            validation_fraction=file.data.validation,
            size_bytes=inspect_text(paths, tokenizer),
        )
        check_amount(data, sequence)
    return data
