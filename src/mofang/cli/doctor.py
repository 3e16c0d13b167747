"""``mofang doctor``: what every host has, how fast it is, and what is wrong with it."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mofang.cli import session
from mofang.cli.output import add_output_option, emit, line, note, paint, print_table
from mofang.cli.parser import did_you_mean, examples
from mofang.cli.settings import home
from mofang.errors import BackendError, NotFoundError
from mofang.units import show_bytes, show_rate

if TYPE_CHECKING:
    from mofang.client import Client
    from mofang.domain.hardware import Node
    from mofang.domain.rates import HostRates

__all__ = ["configure", "execute", "measure_new_hosts"]

_COLUMNS = ("host", "state", "cores", "memory", "disk free", "chips", "fp32", "bf16", "memory rate", "disk write")
_SMALL_SHM = 1e9
_BUSY = 0.35  # median spread of the repeats above which a host was busy while it was measured
_ADVANCE = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """A node and what became of looking at it."""

    node: Node
    rates: HostRates | None
    failure: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("--host", action="append", metavar="NAME", help="only this host; may be given several times")
    parser.add_argument("--force", action="store_true", help="measure again what was measured before")
    add_output_option(parser)
    parser.epilog = examples(
        "mofang doctor",
        "mofang doctor --force -o json",
        exit_codes="0 every host was measured, 2 no such host, 4 a host could not be measured",
    )


def execute(args: argparse.Namespace) -> int:
    """Measure the hosts that were not yet, and print what is known of all that were asked for."""
    with session.connect() as client:
        nodes = _chosen(client.fleet().nodes, args.host)
        visits = _measure(client, nodes, force=args.force)
    if args.output == "table":
        _print(visits)
    else:
        emit({"hosts": [_facts(visit) for visit in visits]}, args.output)
    return BackendError.exit_code if any(visit.failure for visit in visits) else 0


def measure_new_hosts(client: Client) -> None:
    """Measure every host that is up and was never measured; one that cannot be is told of and left alone."""
    from mofang.domain.hardware import NodeState  # noqa: PLC0415 - the domain is not needed for --help

    new = [node for node in client.fleet().nodes if node.rates is None and node.state is NodeState.UP]
    for visit in _measure(client, new, force=False):
        if visit.failure:
            note(f"{visit.failure}; predictions for it rest on assumptions")


def _chosen(nodes: Sequence[Node], names: Sequence[str] | None) -> list[Node]:
    known = {node.name: node for node in nodes}
    for name in names or ():
        if name not in known:
            hint = did_you_mean(name, list(known)) or f"the hosts are: {', '.join(known) or 'none'}"
            raise NotFoundError(f"there is no host {name!r}", hint=hint)
    return [known[name] for name in names] if names else list(nodes)


def _measure(client: Client, nodes: Sequence[Node], *, force: bool) -> list[_Visit]:
    wanted = [node for node in nodes if force or node.rates is None]
    if not wanted:
        return [_Visit(node=node, rates=node.rates) for node in nodes]
    with _bar() as advance:
        visits = {node.name: _probe(client, node, advance) for node in wanted}
    visits |= _between(client, visits)
    return [visits.get(node.name) or _Visit(node=node, rates=node.rates) for node in nodes]


def _probe(client: Client, node: Node, advance: _ADVANCE) -> _Visit:
    from mofang.backends.local.probe.remote import probe_node  # noqa: PLC0415 - only where something is measured

    try:
        rates = probe_node(node, home(), lambda fraction, what: advance(fraction, f"{node.name}: {what}"))
    except BackendError as error:
        return _Visit(node=node, rates=node.rates, failure=error.message)
    client.record_rates(rates)
    return _Visit(node=node, rates=rates)


def _between(client: Client, visits: Mapping[str, _Visit]) -> dict[str, _Visit]:
    """Time collectives between the hosts that were just measured, and keep them with each."""
    from mofang.backends.local.probe.remote import probe_between  # noqa: PLC0415 - only where something is measured

    done = [visit for visit in visits.values() if visit.rates is not None and not visit.failure]
    if len(done) < 2:
        return {}
    try:
        found = probe_between([visit.node for visit in done])
    except BackendError as error:
        note(f"{error.message}; transfers between hosts are not measured")
        return {}
    together = {}
    for visit in done:
        if visit.rates is not None:
            rates = replace(visit.rates, collectives=visit.rates.collectives + found)
            client.record_rates(rates)
            together[visit.node.name] = replace(visit, rates=rates)
    return together


@contextmanager
def _bar() -> Iterator[_ADVANCE]:
    """Show progress on stderr: a bar on a terminal, one line elsewhere."""
    if not sys.stderr.isatty():
        note("measuring hosts that were never measured; it takes about half a minute")
        yield lambda _fraction, _what: None
        return
    from rich.console import Console  # noqa: PLC0415 - a terminal is watching, and measuring takes seconds anyway
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("measuring"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda fraction, what: progress.update(task, completed=fraction, description=what)


def _print(visits: Sequence[_Visit]) -> None:
    print_table(_COLUMNS, [_row(visit) for visit in visits])
    for visit in visits:
        found = visit.rates.facts if visit.rates else {}
        versions = ", ".join(f"{name} {found[name]}" for name in ("python", "torch") if name in found)
        if versions:
            line(f"{visit.node.name}: {versions}, {found.get('processor', 'unknown processor')}")
        for warning in _warnings(visit):
            line(paint(f"{visit.node.name}: {warning}", "yellow"))


def _row(visit: _Visit) -> Sequence[str]:
    node, figures = visit.node, _figures(visit.rates)
    return (
        node.name,
        node.state.value,
        str(node.cores),
        show_bytes(node.memory_bytes),
        show_bytes(node.disk_free_bytes),
        _chips(node) or "-",
        _flops(figures.get("fp32_flops")),
        _flops(figures.get("bf16_flops")),
        show_rate(figures["memory_bandwidth"]) if figures.get("memory_bandwidth") else "-",
        show_rate(figures["disk_write"]) if figures.get("disk_write") else "-",
    )


def _flops(value: float | None) -> str:
    return "-" if not value else f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def _chips(node: Node) -> str:
    kinds = [device.accelerator for device in node.devices if device.accelerator != "cpu"]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _figures(rates: HostRates | None) -> dict[str, float]:
    """Return the best of what was measured, of the whole host: FLOP/s, bytes/s, seconds."""
    if rates is None:
        return {}
    best: dict[str, float] = {"disk_write": rates.disk_write, "dispatch_s": rates.dispatch_s}
    for row in rates.operators:
        if row.phase.value != "forward":
            continue
        size = row.workers * math.prod(row.shape) / row.seconds
        if row.operator.value == "linear":
            best[f"{row.dtype}_flops"] = max(best.get(f"{row.dtype}_flops", 0.0), 2.0 * size)
        elif row.operator.value == "add" and row.dtype == "fp32" and 12 * math.prod(row.shape) > _SMALL_SHM / 10:
            best["memory_bandwidth"] = max(best.get("memory_bandwidth", 0.0), 12.0 * size)
    for link in rates.collectives:
        if link.operation.value == "all-reduce":
            best[f"all_reduce_{link.workers}_workers_{link.hosts}_hosts"] = link.bandwidth
    return best


def _warnings(visit: _Visit) -> list[str]:
    if visit.rates is None:
        return [visit.failure or "not measured"]
    rates, found = visit.rates, visit.rates.facts
    figures = _figures(rates)
    said = [visit.failure] if visit.failure else []
    if 0 < float(found.get("shm_bytes", 0)) < _SMALL_SHM:
        said.append(
            f"its shared memory has only {show_bytes(float(found['shm_bytes']))}: workers use it to exchange data"
        )
    if found.get("bf16_hardware") == "false" and figures.get("bf16_flops", 0) < figures.get("fp32_flops", 0):
        slower = figures["fp32_flops"] / max(figures["bf16_flops"], 1.0)
        said.append(f"its cores have no bf16 arithmetic: bf16 is {slower:.0f} times slower than fp32 there")
    spreads = sorted(row.spread for row in rates.operators)
    if spreads and spreads[len(spreads) // 2] > _BUSY:
        said.append("the host was busy while it was measured: `mofang doctor --force` when it is quiet")
    if not rates.disk_write:
        said.append("nothing could be written to its disk")
    return said


def _facts(visit: _Visit) -> dict[str, Any]:
    node, rates = visit.node, visit.rates
    return {
        "name": node.name,
        "state": node.state.value,
        "cores": node.cores,
        "memory_bytes": node.memory_bytes,
        "disk_free_bytes": node.disk_free_bytes,
        "chips": _chips(node),
        "measured_at": rates.measured_at if rates else None,
        "seconds": rates.seconds if rates else None,
        "found": dict(rates.facts) if rates else {},
        "rates": _figures(rates),
        "warnings": _warnings(visit),
    }
