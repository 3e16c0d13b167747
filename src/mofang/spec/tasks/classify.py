"""Image classification."""

from __future__ import annotations

from mofang.domain.scenario import Classify, ImageData, VisionModel
from mofang.errors import SpecError
from mofang.spec.checks import check_strategy, fixed_choice
from mofang.spec.context import Context
from mofang.spec.document import shown
from mofang.spec.images import Images, inspect_images
from mofang.spec.schema.classify import PRESETS, ClassifyFile, VisionKeys
from mofang.spec.schema.section import nearest
from mofang.spec.tasks.training import optimisation_of, require_one_length, shared_settings

__all__ = ["classify_task"]

_USUAL_SIZE, _USUAL_PATCH = 224, 16  # pixels (arXiv:2010.11929)
_SMALL = 128  # pixels: below, patches are about an eighth of the image


def classify_task(file: ClassifyFile, context: Context) -> Classify:
    """Return the task.

    Raises:
        MofangError: the images are not there or not images, or the figures do not fit each other.
    """
    train, blame = file.train, context.document.blame
    images = _images(file, context)
    with blame("model"):
        model = _model(file.model, images, context.name)
    check_strategy(
        file.strategy,
        context,
        layers=model.layers,
        heads=model.heads,
        sequence=model.sequence,
        global_batch=train.global_batch,
    )
    require_one_length(train, context, {"steps": "600", "epochs": "20", "duration": "90s"})
    return Classify(
        model=model,
        data=images.data,
        global_batch=train.global_batch,
        epochs=train.epochs,
        optimisation=optimisation_of(train, train.lr),
        strategy=fixed_choice(file.strategy),
        **shared_settings(train),
    )


def _images(file: ClassifyFile, context: Context) -> Images:
    """Return what is there, or what the file says would be there."""
    keys, document = file.data, context.document
    if keys.images is not None:
        for name in ("count", "classes"):
            if getattr(keys, name) is not None:
                raise document.error(("data", name), f"images and {name} exclude each other", "keep one of them")
        with document.blame("data", "images"):
            return inspect_images(context.path(keys.images), keys.validation)
    if keys.count is None or keys.classes is None:
        raise document.error(("data",), "'images' is missing", "add images: ..., or count and classes to plan with")
    if keys.classes < 2:
        raise document.error(("data", "classes"), "one class needs no classifier", "write 2 or more")
    data = ImageData(path="", num_classes=keys.classes, num_images=keys.count, validation_fraction=keys.validation)
    return Images(data=data)


def _model(given: str | VisionKeys, images: Images, name: str) -> VisionModel:
    keys = VisionKeys.model_validate({"preset": _preset(given)}) if isinstance(given, str) else given
    layers, hidden, heads, ffn = _sizes(keys)
    size = keys.image_size or images.side or _USUAL_SIZE
    patch = keys.patch_size or _patch(size)
    if size % patch:
        raise SpecError(
            f"patches must tile the image: {size} = {size // patch} x {patch} + {size % patch}",
            hint="change patch_size or image_size",
        )
    if hidden % heads:
        raise SpecError(
            f"hidden must be a multiple of heads: {hidden} = {hidden // heads} x {heads} + {hidden % heads}",
            hint="change hidden or heads",
        )
    return VisionModel(
        name=keys.name or keys.preset or name,
        image_size=size,
        patch_size=patch,
        layers=layers,
        hidden=hidden,
        heads=heads,
        ffn=ffn,
    )


def _preset(text: str) -> str:
    if text not in PRESETS:
        hint = (
            nearest(text, PRESETS) or f"known are {', '.join(PRESETS)}; or write {{layers: 6, hidden: 128, heads: 4}}"
        )
        raise SpecError(f"there is no preset {shown(text)}", hint=hint)
    return text


def _sizes(keys: VisionKeys) -> tuple[int, int, int, int]:
    """Return layers, width, heads and feed-forward width: as given, else those of the preset."""
    preset = dict(zip(("layers", "hidden", "heads", "ffn"), PRESETS.get(keys.preset or "", ()), strict=False))
    found = {name: getattr(keys, name) or preset.get(name) for name in ("layers", "hidden", "heads")}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise SpecError(f"{missing[0]!r} is missing", hint=f"add {missing[0]}: ..., or preset: vit-tiny")
    layers, hidden, heads = (int(value or 0) for value in found.values())
    kept = preset.get("ffn") if keys.hidden is None else None  # a width of one's own changes the feed-forward's too
    return layers, hidden, heads, keys.ffn or kept or 4 * hidden


def _patch(size: int) -> int:
    if size >= _SMALL:
        return _USUAL_PATCH
    return next(patch for patch in (8, 4, 2, 1) if patch <= max(1, size // 8) and size % patch == 0)
