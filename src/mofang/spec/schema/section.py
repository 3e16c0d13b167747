"""What every part of a job file has in common: keys that nobody knows are refused, with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Discriminator, model_validator

from mofang.spec.document import shown
from mofang.spec.quantities import refuse

__all__ = ["Section", "by_type", "nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'X'?`` for the known word nearest to this one, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


class Section(BaseModel):
    """A part of a job file: unknown keys are refused, an empty value means that it is not given."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise refuse("keys and values are expected here", f"keys here: {', '.join(cls.model_fields)}")
        for key in data:
            if key not in cls.model_fields:
                keys = f"keys here: {', '.join(cls.model_fields)}"
                hint = "; ".join(part for part in (nearest(key, cls.model_fields), keys) if part)
                raise refuse(f"there is no key {shown(key)} here", hint, key)
        return {key: value for key, value in data.items() if value is not None}


def by_type(kind: type) -> Discriminator:
    """Return what tells text (tagged ``(text)``) from keys and values of this kind (``(mapping)``)."""
    return Discriminator(lambda value: "(mapping)" if isinstance(value, dict | kind) else "(text)")
