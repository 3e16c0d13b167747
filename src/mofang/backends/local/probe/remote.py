"""Probing a host from here: the probe is started behind the host's prefix and its lines are read. No torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mofang.backends.local.hosts import behind
from mofang.domain.codec import from_data
from mofang.domain.hardware import Node
from mofang.domain.rates import CollectiveRate, HostRates
from mofang.errors import BackendError

__all__ = ["probe_between", "probe_node"]

Progress = Callable[[float, str], None]

_MODULE = ["-m", "mofang.backends.local.probe"]
_PORT = 29731  # where the ranks of a team over several hosts meet
_LAST_WORDS = 2000  # characters of standard error kept


def probe_node(node: Node, directory: Path, progress: Progress) -> HostRates:
    """Return what the probe measured on a node; ``progress`` gets the fraction done and what comes next.

    Raises:
        BackendError: the host cannot be reached, or the probe failed there.
    """
    argv = [sys.executable, *_MODULE, "--host", node.name, "--directory", str(directory)]
    values = _follow(node, argv, progress)
    return from_data(HostRates, values["rates"])


def probe_between(nodes: Sequence[Node]) -> tuple[CollectiveRate, ...]:
    """Return the collectives measured between nodes, one worker on each.

    Raises:
        BackendError: a host cannot be reached, or the hosts cannot reach each other.
    """
    team = ["--world", str(len(nodes)), "--hosts", str(len(nodes))]
    team += ["--rendezvous", f"tcp://{nodes[0].address}:{_PORT}", "--rank"]
    others = [
        subprocess.Popen(
            behind(node.prefix, [sys.executable, *_MODULE, *team, str(rank)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank, node in enumerate(nodes)
        if rank > 0
    ]
    try:
        values = _follow(nodes[0], [sys.executable, *_MODULE, *team, "0"], lambda _fraction, _what: None)
    finally:
        for process in others:
            process.terminate()
            process.wait()
    return from_data(tuple[CollectiveRate, ...], values["collectives"])


def _follow(node: Node, argv: list[str], progress: Progress) -> dict[str, Any]:
    """Run a probe to its end and return its last object."""
    values: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+", errors="replace") as words:
        try:
            with subprocess.Popen(
                behind(node.prefix, argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                errors="replace",
            ) as process:
                _read(process, values, progress)
        except OSError as error:
            raise BackendError(
                f"host {node.name} cannot be reached: {error.strerror}", hint="check its prefix"
            ) from error
        if process.returncode != 0 or not _finished(values):
            words.seek(0)
            raise _failed(node, words.read()[-_LAST_WORDS:])
    return values


def _read(process: subprocess.Popen[str], values: dict[str, Any], progress: Progress) -> None:
    """Follow the probe's lines; it is ended with us."""
    try:
        for line in process.stdout or ():
            with suppress(ValueError):
                values.clear()
                values.update(json.loads(line))
                progress(float(values.get("progress", 1.0)), str(values.get("what", "")))
    except BaseException:
        process.terminate()
        raise


def _finished(values: dict[str, Any]) -> bool:
    return "rates" in values or "collectives" in values


def _failed(node: Node, words: str) -> BackendError:
    last = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "it printed nothing")
    hint = "install the training extra there: pip install 'mofang[train]'" if "No module named" in last else ""
    return BackendError(f"host {node.name} could not be probed: {last}", hint=hint or "can the host be reached?")
