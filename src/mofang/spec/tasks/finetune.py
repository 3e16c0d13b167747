"""Fine-tuning, in full or by adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mofang.catalog.huggingface.numerics import end_of_text, read_numerics
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Adapter, Finetune, Lengths, Optimisation, TextData
from mofang.domain.strategy import Method
from mofang.errors import SpecError
from mofang.spec.architecture import published_model
from mofang.spec.checks import check_sequence, check_strategy, check_vocabulary, fixed_choice
from mofang.spec.context import Context
from mofang.spec.data import BYTE_VOCABULARY, PYTHON_STDLIB, tokenizer_vocabulary
from mofang.spec.examples import inspect_examples
from mofang.spec.measure import measure_lengths
from mofang.spec.schema.finetune import FinetuneBody, FinetuneFile
from mofang.spec.tasks.training import optimisation_of, require_one_length, shared_settings
from mofang.spec.weights import check_weights

__all__ = ["finetune_task"]

_NAMED_SEQUENCE = 1024  # at most, where the file does not say
_ADAPTER_RATE = 2e-4
_FULL_RATE = 2e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What training begins from; ``folder`` None: only the sizes are known."""

    model: ModelArchitecture
    folder: Path | None
    sequence: int


def finetune_task(file: FinetuneBody, context: Context) -> Finetune:
    """Return the task.

    Raises:
        MofangError: something the file names does not exist, or its figures do not fit each other.
    """
    train, method = file.train, _method(file)
    start = _start(file, context)
    check_strategy(
        file.strategy,
        context,
        layers=start.model.layers,
        heads=start.model.heads,
        sequence=start.sequence,
        global_batch=train.global_batch,
    )
    adapter = _adapter(file, context, method, start.model)
    data, lengths = _data(file, context, start)
    require_one_length(train, context, {"steps": "600", "epochs": "3", "duration": "90s"})
    return Finetune(
        model=start.model,
        model_path=None if start.folder is None else str(start.folder),
        data=data,
        sequence=start.sequence,
        global_batch=train.global_batch,
        method=method,
        adapter=adapter,
        lengths=lengths,
        packing=train.packing,
        epochs=train.epochs,
        optimisation=_optimisation(file, method),
        strategy=fixed_choice(file.strategy),
        validation_batches=train.validation_batches,
        sample_tokens=train.sample_tokens,
        **shared_settings(train),
    )


def _method(file: FinetuneBody) -> Method | None:
    if not isinstance(file, FinetuneFile):
        return Method.LORA
    return None if file.method == "any" else Method(file.method)


def _optimisation(file: FinetuneBody, method: Method | None) -> Optimisation:
    usual = _FULL_RATE if method is Method.FULL else _ADAPTER_RATE
    return optimisation_of(file.train, file.train.lr or usual)


def _start(file: FinetuneBody, context: Context) -> _Start:
    with context.document.blame("model"):
        model, folder = published_model(file.model, base_dir=context.base_dir, catalog=context.catalog)
        sequence = file.train.sequence or min(model.max_sequence, _NAMED_SEQUENCE)
        if folder is not None:
            read_numerics(folder, sequence=sequence)
            check_weights(folder, model)
    check_sequence(sequence, model, context)
    return _Start(model=model, folder=folder, sequence=sequence)


def _adapter(file: FinetuneBody, context: Context, method: Method | None, model: ModelArchitecture) -> Adapter:
    keys = file.adapter
    if keys is None:
        return Adapter()
    if method is Method.FULL:
        raise context.document.error(
            ("adapter",), "method full trains no adapter", "leave it out, or write method: lora"
        )
    if keys.rank > model.hidden:
        raise context.document.error(
            ("adapter", "rank"), f"rank {keys.rank} is more than the model's width of {model.hidden}", "use 8 to 64"
        )
    return Adapter(
        rank=keys.rank,
        alpha=keys.alpha or 2.0 * keys.rank,
        dropout=keys.dropout,
        targets=Adapter().targets if keys.targets is None else tuple(dict.fromkeys(keys.targets)),
    )


def _data(file: FinetuneBody, context: Context, start: _Start) -> tuple[TextData, Lengths | None]:
    keys, blame = file.data, context.document.blame
    tokenizer = _tokenizer(file, context, start)
    if keys.text is None:
        data = TextData(paths=(), tokenizer=tokenizer, validation_fraction=keys.validation)
        return data, keys.lengths
    paths = tuple(text if text == PYTHON_STDLIB else context.path(text) for text in keys.text)
    with blame("data", "text"):
        size = inspect_examples(paths, tokenizer)
        end = start.folder is not None and end_of_text(start.folder) is not None
        measured = measure_lengths(paths, tokenizer, size, end=end)
    data = TextData(
        paths=paths,
        tokenizer=tokenizer,
        validation_fraction=keys.validation,
        size_bytes=size,
        tokens=None if measured is None else measured.tokens,
    )
    return data, keys.lengths or (None if measured is None else measured.lengths)


def _tokenizer(file: FinetuneBody, context: Context, start: _Start) -> str:
    """Return the tokenizer that the file names, the one of the model's folder, or bytes."""
    given, own = file.data.tokenizer, None if start.folder is None else start.folder / "tokenizer.json"
    with context.document.blame(*(("data", "tokenizer") if given else ("model",))):
        if given in {"bytes", None} and (given == "bytes" or own is None):
            check_vocabulary(start.model, BYTE_VOCABULARY)
            return "bytes"
        if given is None and own is not None and not own.exists():
            raise SpecError(
                f"{start.folder} has no tokenizer.json",
                hint="copy it there, or write data.tokenizer: its path, or bytes",
            )
        path = str(own) if given is None else context.path(given)
        check_vocabulary(start.model, tokenizer_vocabulary(path))
        return path
