"""Which chip, model and framework a source means, however it spells them."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from mofang.catalog.frameworks import framework_named
from mofang.catalog.names import key
from mofang.domain.hardware import CPU

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.domain.hardware import Accelerator
    from mofang.domain.model import ModelArchitecture

__all__ = ["Names"]

_BRACKETS = re.compile(r"\(([^()]*)\)")
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)\s*$")
# What says nothing about which chip it is: makers, memory generations, partitions, cooling, counts.
_CHIP_NOISE = re.compile(
    r"(?i)\b(?:nvidia|google|huawei|intel|habana|amd|instinct|hbm\d?e?|dlc|cts|virtualized|tensor ?core|gpus?|npus?|"
    r"accelerators?|nps\d|spx|cpx|\d{3,4} ?w|x ?\d{1,2}|\d{1,2} ?x)\b"
)
_MODEL_NOISE = re.compile(
    r"(?i)[-_ ]?\b(?:lora|qlora|mlperf|instruct|chat|it|hf|base|pt|fp8|fp4|nvfp4|mxfp4|bf16|int4|int8|awq|w8a8|gptq|"
    r"thinking|25\d\d|24\d\d|0\d\d\d|v0\.\d)\b"
)
_VERSION = re.compile(r"(?i)(?<= )v(?=\d)")
_SIZE = re.compile(r"(?i)[-_ ](?:\d+x)?\d+(?:\.\d+)?[bmt](?:[-_ ]a\d+(?:\.\d+)?b)?$")
_EXPERTS = re.compile(r"(?i)-\d+e$")


class Names:
    """Looks names up in one catalogue, each spelling once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._chips: dict[str, Accelerator | None] = {}
        self._frameworks: dict[tuple[str, str, bool, bool], str] = {}
        self._models: dict[tuple[str, int | None], ModelArchitecture | None] = {}

    def chip(self, written: str) -> Accelerator | None:
        """Return the chip that a source means; None where nothing matches, or where it names several kinds."""
        if written not in self._chips:
            found = self._chip(written)
            self._chips[written] = None if found is None or found.name == CPU else found  # a core is no processor
        return self._chips[written]

    def _chip(self, written: str) -> Accelerator | None:
        """Look for the text, for what its brackets hold, and for both without what says nothing, in this order."""
        outside = _BRACKETS.sub(" ", written)
        if "," in outside:
            return None  # a list of chips is none of them
        spellings = (written, _LAST_BRACKET.sub("", written), *_BRACKETS.findall(written), outside)
        find = self._catalog.accelerator_table.find
        exact = next((chip for name in spellings if (chip := find(name))), None)
        return exact or next((chip for name in spellings if (chip := self._bare_chips.get(_bare(name)))), None)

    @cached_property
    def _bare_chips(self) -> dict[str, Accelerator]:
        """Chips by what is left of their names and aliases; what is left of two chips' names is neither's."""
        found: dict[str, Accelerator] = {}
        shared = set()
        for entry in self._catalog.accelerator_table.entries:
            for bare in {_bare(name) for name in (entry.name, *entry.aliases)}:
                if found.setdefault(bare, entry.value).name != entry.value.name:
                    shared.add(bare)
        return {bare: chip for bare, chip in found.items() if bare and bare not in shared}

    def model(self, written: str, hidden: int | None = None) -> ModelArchitecture | None:
        """Return the model that a source means, whatever it was tuned for; None where the catalogue has none.

        A name with a size of its own (``DeepSeek-V2 60B``) is the model without it only where the width agrees.
        """
        asked = (written, hidden)
        if asked not in self._models:
            self._models[asked] = self._model(written, hidden)
        return self._models[asked]

    def _model(self, written: str, hidden: int | None) -> ModelArchitecture | None:
        find = self._catalog.model_table.find
        spellings = _model_spellings(written)
        found = next((model for name in spellings if (model := find(name))), None)
        if found is not None:
            return found.architecture
        unsized = find(_SIZE.sub("", spellings[-1]))
        return None if unsized is None or unsized.architecture.hidden != hidden else unsized.architecture

    def framework(self, written: str, *, vendor: str, benchmark: bool, serving: bool = False) -> str:
        """Return the framework's name, or "".

        MLPerf submissions name the container, not the framework: on NVIDIA chips all of them train language models
        with NeMo on Megatron-Core, and serve them with TensorRT-LLM.
        """
        asked = (written, vendor, benchmark, serving)
        if asked not in self._frameworks:
            self._frameworks[asked] = _framework(*asked)
        return self._frameworks[asked]


def _framework(written: str, vendor: str, benchmark: bool, serving: bool) -> str:
    found = framework_named(written)
    generic = found is None or found.name == "pytorch"
    if benchmark and vendor == "NVIDIA" and generic:
        return "tensorrt-llm" if serving else "megatron"
    return "" if found is None else found.name


def _bare(written: str) -> str:
    """Return what a spelling of a chip says: letters and digits without what says nothing."""
    return key(_CHIP_NOISE.sub(" ", written.replace("-", " ")))


def _model_spellings(written: str) -> tuple[str, ...]:
    """Return the text, then without its maker, its tuning and its quantisation, the likeliest first."""
    plain = _BRACKETS.sub(" ", written).strip()
    bare = plain.rsplit("/", 1)[-1].replace("_", " ")
    bare = _VERSION.sub("", _MODEL_NOISE.sub(" ", bare)).strip(" -")
    return written, plain, _EXPERTS.sub("", bare), bare
