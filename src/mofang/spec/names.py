"""Names for jobs that were given none."""

from __future__ import annotations

import re
from pathlib import Path

from mofang.clock import new_token

__all__ = ["name_of_file", "new_name"]

_ADJECTIVES = (
    *("bold", "brave", "bright", "brisk", "calm", "clear", "crisp", "eager", "fair", "fleet", "gentle", "golden"),
    *("hardy", "keen", "kind", "light", "lively", "lucid", "mellow", "merry", "nimble", "noble", "plain", "quick"),
    *("quiet", "rosy", "sage", "sharp", "silver", "sleek", "solid", "steady", "still", "sunny", "swift", "warm"),
)
_NOUNS = (
    *("badger", "bear", "crane", "deer", "dove", "eagle", "egret", "falcon", "finch", "fox", "gull", "hare", "hawk"),
    *("heron", "ibex", "jay", "kite", "lark", "lynx", "magpie", "marten", "mayfly", "mole", "moth", "newt", "otter"),
    *("owl", "plover", "quail", "raven", "robin", "seal", "shrew", "sparrow", "stork", "swan", "tern", "thrush"),
)
_COMMON = {"job", "mofang", "plan", "train", "run"}  # says nothing about the job


def name_of_file(path: Path) -> str:
    """Return a name from the file's own, or from its folder's where the file's says nothing."""
    stem = path.stem if path.stem.lower() not in _COMMON else path.absolute().parent.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:63].rstrip("-._")
    return name or new_name()


def new_name() -> str:
    """Return a fresh name that people can say: ``gentle-mayfly-4f``."""
    token = int(new_token(8), 16)
    token, adjective = divmod(token, len(_ADJECTIVES))
    token, noun = divmod(token, len(_NOUNS))
    return f"{_ADJECTIVES[adjective]}-{_NOUNS[noun]}-{token % 256:02x}"
