"""Real runs with injected faults: two workers on this machine degrade until one is killed, recorded by the collector.

Recording is ``SPEED`` times faster than a job's collector samples, and times are stretched by as much: a degradation of
a minute takes three seconds. What the kernel and the workers show is real; that the time is stretched is said wherever
such traces are used. Most kinds announce themselves, ``kill`` does not, and every trace has harmless disturbances.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mofang.clock import Chance, Clock, seeded
from mofang.recovery.kernel_log import KernelLog
from mofang.recovery.prediction.short_lead.traces import NO_FAULT, Trace
from mofang.recovery.prediction.short_lead.workload import Control
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.telemetry.collector import Collector
from mofang.recovery.telemetry.probe import Place, probes_of
from mofang.recovery.telemetry.series import Series, read_series

__all__ = ["KINDS", "SPEED", "inject"]

SPEED = 20.0
RANKS = 2
_LIMIT_BYTES = 1.5e9  # of the workers' memory, stated as a cgroup states it
_QUIET_S = (130.0, 260.0)  # stretched seconds before a degradation begins
_LENGTH_S = (30.0, 160.0)  # of the degradation
_NORMAL_S = 900.0  # of a trace without a fault
_MOST_THIEVES = 7
_LONG_HARM = 0.15  # of the disturbances

_BURN = "while True: pass"
_WRITE = (
    "import os,sys\nf=os.open(sys.argv[1],os.O_WRONLY|os.O_CREAT,0o600)\n"
    "while True:\n os.pwrite(f,bytes(1<<20),0)\n os.fsync(f)\n"
)


@dataclass(slots=True, kw_only=True)
class _Run:
    """The processes of one run, and what they suffer."""

    folder: Path
    controls: list[Control]
    workers: list[subprocess.Popen[bytes]]
    crowd: list[subprocess.Popen[bytes]] = field(default_factory=list)  # burn processors or write to the disk
    victim: int = 0
    leak: float = 0.0
    slower: float = 0.0
    pause: float = 0.0

    def apply(self) -> None:
        for rank, control in enumerate(self.controls):
            mine = rank == self.victim
            control.set(slower=self.slower * mine, leak=self.leak * mine, pause=self.pause)

    def crowd_of(self, many: int, program: str) -> None:
        """Have so many processes of a kind beside the workers."""
        while len(self.crowd) < many:
            words = [sys.executable, "-S", "-c", program, str(self.folder / f"waste-{len(self.crowd)}")]
            self.crowd.append(subprocess.Popen(words))
        while len(self.crowd) > many:
            _end(self.crowd.pop())

    def memory(self) -> float:
        """Return the resident bytes of the workers."""
        pages = [Path(f"/proc/{one.pid}/statm").read_text().split()[1] for one in self.workers]
        return float(sum(map(int, pages)) * os.sysconf("SC_PAGESIZE"))


def _leak(run: _Run, part: float) -> None:
    run.leak = part * _LIMIT_BYTES


def _thieves(run: _Run, part: float) -> None:
    run.crowd_of(round(part * _MOST_THIEVES), _BURN)


def _disk(run: _Run, part: float) -> None:
    run.crowd_of(round(part * _MOST_THIEVES), _WRITE)
    run.pause = 0.02 * part  # the program waits for its disk as well


def _straggler(run: _Run, part: float) -> None:
    run.slower = 6.0 * part


def _nothing(_run: _Run, _part: float) -> None:
    """Give no sign."""


KINDS: dict[str, Callable[[_Run, float], None]] = {
    "leak": _leak,
    "thieves": _thieves,
    "disk": _disk,
    "straggler": _straggler,
    "kill": _nothing,
    NO_FAULT: _nothing,
}


def inject(kind: str, seed: int, clock: Clock) -> Trace:
    """Run two workers, let them degrade in one way and kill one at the end; return what was recorded."""
    chance = seeded(seed)
    quiet = chance.uniform(*_QUIET_S)
    length = _LENGTH_S[0] * (_LENGTH_S[1] / _LENGTH_S[0]) ** chance.random()
    total = _NORMAL_S if kind == NO_FAULT else quiet + length
    bend = chance.choice((0.7, 1.0, 2.0))  # early, even or late
    with tempfile.TemporaryDirectory() as name, _running(Path(name), chance, clock) as run:
        collector = _collector(run, clock)
        begin, harm = clock.now(), _Harm(chance)
        end = begin
        while True:
            end = clock.now()
            passed = (end - begin) * SPEED
            out_of_memory = run.memory() >= _LIMIT_BYTES
            if passed >= total or out_of_memory:
                break
            if passed > quiet and KINDS[kind] is not _nothing:
                KINDS[kind](run, ((passed - quiet) / length) ** bend)
            else:
                harm.apply(run, passed)
            run.apply()
            (run.folder / "fs/cgroup/memory.current").write_text(str(int(run.memory())))
            collector.tick()
            clock.sleep(1.0 / SPEED / 20.0)
        if kind != NO_FAULT:
            run.workers[run.victim].send_signal(signal.SIGKILL)
        collector.close()
        series = read_series(collector.path)
    stretched = Series(time=(series.time - begin) * SPEED, columns=series.columns)
    return Trace(series=stretched, fault=kind, end=(end - begin) * SPEED, source="injected", seed=seed)


class _Harm:
    """Disturbances that mean nothing: pauses as of a validation, bursts of writes or work, memory that settles."""

    def __init__(self, chance: Chance) -> None:
        self._chance, self._next, self._until = chance, chance.uniform(20.0, 60.0), 0.0
        self._what = ""
        self._kept = 0.0

    def apply(self, run: _Run, passed: float) -> None:
        if passed >= self._next:
            self._what = self._chance.choice(("pause", "burn", "write", "grow"))
            lasts = (30.0, 90.0) if self._chance.random() < _LONG_HARM else (4.0, 15.0)
            self._until = passed + self._chance.uniform(*lasts)
            self._next = self._until + self._chance.expovariate(1.0 / 60.0) + 10.0
            self._kept += 60e6 if self._what == "grow" else 0.0
        here = passed < self._until
        run.pause = 0.05 if here and self._what == "pause" else 0.0
        run.leak = max(self._kept, 0.0)
        programs = {"burn": _BURN, "write": _WRITE}
        run.crowd_of(1 if here and self._what in programs else 0, programs.get(self._what, _BURN))


def _collector(run: _Run, clock: Clock) -> Collector:
    place = Place(kernel_log=KernelLog(clock))
    stated = Place(sys=run.folder)
    probes = {**probes_of(place), "host": probes_of(stated)["host"]}
    collector = Collector(AttemptDir(run.folder), 0, place, clock, probes=probes, period_s=1.0 / SPEED)
    collector.workers.follow(1, {rank: worker.pid for rank, worker in enumerate(run.workers)})
    return collector


@contextmanager
def _running(folder: Path, chance: Chance, clock: Clock) -> Iterator[_Run]:
    (folder / "heartbeat").mkdir()
    (folder / "fs/cgroup").mkdir(parents=True)
    (folder / "fs/cgroup/memory.max").write_text(str(int(_LIMIT_BYTES)))
    controls = [Control(folder / f"control-{rank}") for rank in range(RANKS)]
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mofang.recovery.prediction.short_lead.workload",
                str(folder),
                str(rank),
                str(RANKS),
                str(folder / f"control-{rank}"),
            ]
        )
        for rank in range(RANKS)
    ]
    run = _Run(folder=folder, controls=controls, workers=workers, victim=chance.randrange(RANKS))
    try:
        while not all((folder / "heartbeat" / f"r{rank:04d}-g0001").exists() for rank in range(RANKS)):
            clock.sleep(0.01)
        yield run
    finally:
        for process in [*run.workers, *run.crowd]:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
