"""The probe's command line: one host alone, one worker of a team on it, or one rank of a team over several hosts."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mofang.backends.local.probe.collectives import measure_collectives
from mofang.backends.local.probe.machine import (
    cpu_settings,
    disk_write,
    facts,
    usable_cores,
    worker_memory,
)
from mofang.backends.local.probe.shapes import ACCELERATOR_GRID, CPU_GRID, cases
from mofang.backends.local.probe.team import Setting, dispatch_seconds, measure_cases, plausible
from mofang.backends.local.probe.timing import Timer
from mofang.clock import SystemClock
from mofang.domain.codec import from_data, to_data
from mofang.domain.rates import CollectiveRate, HostRates, OperatorRate
from mofang.errors import BackendError
from mofang.recovery.allocator import keep_freed_memory

_TIMEOUT = timedelta(seconds=60)
_LONGEST_S = 0.04  # operators slower than this are timed once, larger ones of their kind left out


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201 - the probe's output is its protocol


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mofang.backends.local.probe", description=__doc__)
    parser.add_argument("--host", default=socket.gethostname(), help="the name to report")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where writing is timed")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds to spend on operators")
    parser.add_argument("--rank", type=int, help="rank of this worker in a team")
    parser.add_argument("--world", type=int, default=1, help="workers in the team")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--rendezvous", default="", help="file:///... or tcp://ADDRESS:PORT where the team meets")
    parser.add_argument("--hosts", type=int, default=1, help="hosts the team spans; more than one: collectives only")
    return parser


def _measure(setting: Setting, budget_s: float, done: float, part: float) -> list[OperatorRate]:
    """Time the grid under one setting; ``done`` and ``part`` place it in the whole for the progress bar."""
    grid = CPU_GRID if setting.device == "cpu" else ACCELERATOR_GRID
    chosen = cases(grid, ("fp32", "bf16"))
    timer = Timer(SystemClock(), device=setting.device, budget_s=budget_s / (4 * len(chosen)), longest_s=_LONGEST_S)
    where = f"{setting.workers} x {setting.threads} threads" if setting.device == "cpu" else setting.name

    def report(fraction: float, what: str) -> None:
        _say(progress=done + part * fraction, what=f"{what}, {where}")

    return measure_cases(chosen, setting, timer, report)


@contextmanager
def _group(rendezvous: str, rank: int, world: int) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=_TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _team_member(options: argparse.Namespace) -> None:
    """Run one worker of a team; rank 0 reports."""
    setting = Setting(device="cpu", name="cpu", workers=options.world, threads=options.threads)
    timer = Timer(SystemClock(), device="cpu", budget_s=0.05, longest_s=1.0)
    torch.set_num_threads(options.threads)
    with _group(options.rendezvous, options.rank, options.world):
        operators = [] if options.hosts > 1 else _measure(setting, options.budget, 0.0, 1.0)
        collectives = measure_collectives(timer, name="cpu", device="cpu", hosts=options.hosts)
    if options.rank == 0:
        _say(operators=to_data(tuple(operators)), collectives=to_data(tuple(collectives)))


def _team(workers: int, threads: int, budget_s: float, done: float, part: float) -> dict[str, Any]:
    """Start a team on this host and return what its rank 0 reported."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mofang.backends.local.probe", "--world", str(workers), "--threads"]
        command += [str(threads), "--budget", str(budget_s), "--rendezvous", f"file://{folder}/meet", "--rank"]
        members = [
            subprocess.Popen(
                [*command, str(rank)], stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL, text=True
            )
            for rank in range(workers)
        ]
        try:
            result = _follow(members[0], done, part)
        finally:
            _reap(members)
    if not result or any(member.returncode for member in members):
        raise BackendError(f"{workers} workers at once could not be measured", hint="the lines above say why")
    return result


def _follow(first: subprocess.Popen[str], done: float, part: float) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for line in first.stdout or ():
        values = json.loads(line)
        if "progress" in values:
            _say(progress=done + part * values["progress"], what=values["what"])
        else:
            result = values
    return result


def _reap(members: list[subprocess.Popen[str]]) -> None:
    for member in members:
        try:
            member.wait(timeout=20)
        except subprocess.TimeoutExpired:
            member.kill()
            member.wait()


def _probe(options: argparse.Namespace) -> HostRates:
    clock = SystemClock()
    start = clock.monotonic()
    memory = worker_memory()
    settings = cpu_settings(usable_cores())
    budget = options.budget / len(settings)
    part = 0.95 / (len(settings) + torch.cuda.is_available())
    one = Setting(device="cpu", name="cpu", workers=1, threads=1)
    small = Timer(clock, device="cpu", budget_s=0.05, longest_s=1.0)
    dispatch, backward = dispatch_seconds(one, small)
    operators: list[OperatorRate] = []
    collectives: list[CollectiveRate] = []
    for index, (workers, threads) in enumerate(settings):
        if workers == 1:
            setting = Setting(device="cpu", name="cpu", workers=1, threads=threads)
            operators += _measure(setting, budget, index * part, part)
            continue
        result = _team(workers, threads, budget, index * part, part)
        operators += from_data(tuple[OperatorRate, ...], result.get("operators", ()))
        collectives += from_data(tuple[CollectiveRate, ...], result.get("collectives", ()))
    if torch.cuda.is_available():
        gpu = Setting(device="cuda", name=torch.cuda.get_device_name(0), workers=1, threads=1)
        dispatch, backward = dispatch_seconds(gpu, Timer(clock, device="cuda", budget_s=0.05, longest_s=1.0))
        operators += _measure(gpu, budget, 0.95 - part, part)
    _say(progress=0.96, what="disk")
    return HostRates(
        host=options.host,
        measured_at=clock.now(),
        torch_version=torch.__version__,
        operators=tuple(plausible(operators)),
        collectives=tuple(collectives),
        dispatch_s=dispatch,
        backward_dispatch_s=backward,
        worker_memory_bytes=memory,
        disk_write=disk_write(options.directory, clock),
        seconds=clock.monotonic() - start,
        facts=facts(options.directory),
    )


def main() -> int:
    """Probe this host and print what was measured; return the exit code."""
    options = _parser().parse_args()
    keep_freed_memory()
    if options.rank is not None:
        _team_member(options)
        return 0
    _say(progress=0.0, what="start")
    try:
        rates = _probe(options)
    except BackendError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    _say(progress=1.0, what="done", rates=to_data(rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
