"""Which effects the calibration has, and how far each is allowed to move a prediction."""

from __future__ import annotations

from mofang.matching.serving.effects import BORROWED, Block

__all__ = ["LABELS", "START", "TIME"]

LABELS = (
    "framework", "generation", "chip", "vendor", "precision", "kind", "model", "mode", "target", "version", "publisher",
    "source", "regime",
)  # fmt: skip

_HOST = ("sequences", "iteration", "communication", "experts", "interference")

# A chip that borrows its operators is off by a factor of its own, about as far as its relatives were (``BORROWED`` is
# that log deviation), until services were measured on it.
_BORROWING = Block(labels=("chip",), features=(BORROWED,), sd=1.0)

# Time of iterations: what a measured time per token, and the inverse of a measured throughput, are over the model's.
# Engines and chips move it little once their operators are known; who measured, and how, moves it most.
TIME = (
    Block(labels=(), features=("one",), sd=0.03),
    Block(labels=(), features=("batch", "tp", "attention", "dp", "ep", *_HOST), sd=0.03),
    Block(labels=("framework",), features=("one", *_HOST), sd=0.03),
    Block(labels=("generation",), features=("one",), sd=0.03),
    Block(labels=("chip",), features=("one",), sd=0.03),
    Block(labels=("vendor",), features=("one",), sd=0.06),
    Block(labels=("precision",), features=("one",), sd=0.03),
    Block(labels=("kind",), features=("one", "experts", "communication", "dp", "ep"), sd=0.03),
    Block(labels=("model",), features=("one",), sd=0.03),
    Block(labels=("mode",), features=("one",), sd=0.03),
    Block(labels=("target",), features=("one", "saturated"), sd=0.03),
    Block(labels=("framework", "version"), features=("one",), sd=0.03),
    Block(labels=("framework", "generation"), features=("one",), sd=0.03),
    Block(labels=("framework", "kind"), features=("one",), sd=0.03),
    Block(labels=("framework", "precision"), features=("one",), sd=0.03),
    Block(labels=("generation", "precision"), features=("one",), sd=0.03),
    Block(labels=("publisher",), features=("one",), sd=0.25),
    Block(labels=("publisher",), features=("batch", *_HOST), sd=0.04),
    Block(labels=("publisher", "framework"), features=("one",), sd=0.04),
    Block(labels=("publisher", "generation"), features=("one",), sd=0.04),
    Block(labels=("source",), features=("one",), sd=0.1),
    Block(labels=("source",), features=("batch",), sd=0.05),
    _BORROWING,
)

# Time to the first token: engines differ in how they schedule prompts, and load generators in how they start.
START = (
    Block(labels=(), features=("one", "start", "queue", "batch"), sd=0.1),
    Block(labels=("framework",), features=("one", "start", "queue", "batch"), sd=0.05),
    Block(labels=("generation",), features=("one",), sd=0.025),
    Block(labels=("chip",), features=("one",), sd=0.025),
    Block(labels=("vendor",), features=("one",), sd=0.05),
    Block(labels=("precision",), features=("one",), sd=0.025),
    Block(labels=("kind",), features=("one", "start"), sd=0.05),
    Block(labels=("model",), features=("one",), sd=0.025),
    Block(labels=("mode",), features=("one", "start"), sd=0.1),
    Block(labels=("framework", "version"), features=("one",), sd=0.05),
    Block(labels=("framework", "kind"), features=("one",), sd=0.05),
    Block(labels=("framework", "generation"), features=("one",), sd=0.05),
    Block(labels=("publisher",), features=("one",), sd=0.4),
    Block(labels=("publisher",), features=("start", "queue", "batch"), sd=0.2),
    Block(labels=("source",), features=("one",), sd=0.1),
    _BORROWING,
)
