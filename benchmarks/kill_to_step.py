"""From the SIGKILL of one of two ranks to the first optimiser step that is completed after it.

    python benchmarks/kill_to_step.py --kills 20 --json
    python benchmarks/kill_to_step.py --quick

A GPT of 8M parameters trains on two cores, data-parallel. A rank drawn at random is killed at a moment drawn at random,
again and again, and each time the clock runs from the signal to the end of the first optimiser step of the workers that
follow. Ours is an attempt as jobs have it: a real agent, the recipe, its checkpoints. Beside it torchrun runs the same
model class on the same batches with DistributedDataParallel and torch's distributed checkpoint, with its store sharing
switched off and a monitor interval of 0.1 s, both of which help it; restarts of it that never step again are counted
apart, and it is then started anew. Kills come no sooner than 5.5 s after a start: both sides then restart at once.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _gpt_runs import write_text
from mofang.backends.local import LocalBackend
from mofang.clock import SystemClock, seeded
from mofang.domain.codec import encode
from mofang.domain.events import Event, EventKind
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.model import ModelArchitecture
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Pretrain, RestartPolicy, TextData
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import read_spool

MODEL = ModelArchitecture(
    name="8M", layers=4, hidden=384, heads=6, kv_heads=6, ffn=1056, vocab=512, head_dim=64, max_sequence=64
)
RANKS = 2
MICRO_BATCH = 4
EVERY_STEPS = 10
QUIET_S = (5.5, 8.0)  # a generation lives so long before its rank is killed
LIMIT_S = 60.0  # without a step for this long, a restart has failed
PARTS = ("noticed, new process", "libraries and group", "model", "state loaded", "first step")

TORCHRUN = r"""
import json, os, sys, time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

from mofang.domain.model import ModelArchitecture
from mofang.recipes.gpt.model import Gpt

folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
rank = int(os.environ["RANK"])
generation = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what, step=0):
    line = {"what": what, "rank": rank, "pid": os.getpid(), "generation": generation, "step": step, "time": time.time()}
    os.write(ledger, json.dumps(line).encode() + b"\n")


note("imported")
torch.set_num_threads(1)
dist.init_process_group("gloo")
note("joined")
torch.manual_seed(0)
model = Gpt(ModelArchitecture(**plan["model"]), sequence=plan["sequence"], dtype=torch.float32)
model.fill_tables()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
wrapped = DistributedDataParallel(model)
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
step = 0
note("built")
latest = folder / "latest"
if latest.exists():
    weights, moments = get_state_dict(wrapped, optimiser)
    state = {"model": weights, "optimiser": moments, "step": 0}
    dcp.load(state, checkpoint_id=folder / latest.read_text())
    set_state_dict(wrapped, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"])
    step = state["step"]
note("loaded", step)
tokens = np.frombuffer((folder / "text.txt").read_bytes(), dtype=np.uint8).astype(np.int64)
length, size = plan["sequence"] + 1, plan["micro_batch"]
while True:
    first = (step * dist.get_world_size() + rank) * size
    starts = [(first + index) * plan["sequence"] % (len(tokens) - length) for index in range(size)]
    batch = torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]))
    loss = wrapped(batch[:, :-1], batch[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=False)
    loss.item()
    step += 1
    note("step", step)
    if step % plan["every_steps"] == 0:
        weights, moments = get_state_dict(wrapped, optimiser)
        name = f"step-{step}"
        dcp.save({"model": weights, "optimiser": moments, "step": step}, checkpoint_id=folder / name)
        if rank == 0:
            (folder / "latest.new").write_text(name)
            os.replace(folder / "latest.new", latest)
"""


def wait_for(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Return the first true value, or None after the limit."""
    end = time.time() + limit_s
    while time.time() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    return None


@dataclass
class Tally:
    """What the kills on one side came to; seconds."""

    totals: list[float] = field(default_factory=list)
    parts: list[list[float]] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)
    failed: int = 0

    def note(self, moments: list[float], lost: int) -> None:
        """Take in one restart: the times of the kill and of the end of every part."""
        self.totals.append(moments[-1] - moments[0])
        self.parts.append([after - before for before, after in itertools.pairwise(moments)])
        self.lost_steps.append(lost)

    def summary(self) -> dict[str, Any]:
        """Return the figures."""
        if not self.totals:
            return {"restarts": 0, "failed": self.failed}
        medians = [statistics.median(column) for column in zip(*self.parts, strict=True)]
        return {
            "restarts": len(self.totals),
            "failed": self.failed,
            "median_s": statistics.median(self.totals),
            "min_s": min(self.totals),
            "max_s": max(self.totals),
            "parts_s": dict(zip(PARTS, medians, strict=True)),
            "lost_steps": statistics.median(self.lost_steps),
        }


class Ours:
    """An attempt of the GPT recipe under a real agent."""

    def __init__(self, folder: Path, *, standby: bool) -> None:
        text = write_text(folder, seed=1)
        self.spec = LaunchSpec(
            job_id=f"killtostep{os.getpid()}{'w' if standby else 'c'}",
            attempt=1,
            fence=1,
            run_dir=str(folder / "runs" / "job"),
            nodes=(
                NodeLaunch(
                    node="n0", address="127.0.0.1", prefix=(), accelerator="cpu", device_indices=(0, 1), workers=RANKS
                ),
            ),
            argv=(sys.executable, "-m", "mofang.recipes.gpt", "--config", "recipe.json"),
            env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            files={"recipe.json": encode(recipe(text))},
            restart=RestartPolicy(same_failure=10_000),
            standby=standby,
        )
        self.directory = AttemptDir(Path(self.spec.attempt_dir))
        self.backend = LocalBackend(folder, SystemClock(), hosts=())
        self.generation = 1
        self.begun_s = time.time()
        self.backend.launch(self.spec)

    def close(self) -> None:
        """Leave nothing behind."""
        self.backend.clear(self.spec)

    def _agent(self, kind: EventKind, generation: int) -> Event | None:
        events = read_spool(self.directory.agent_spool(0)).events
        return next((event for event in events if event.kind is kind and event.generation == generation), None)

    def _worker(self, generation: int) -> list[Event]:
        return list(read_spool(self.directory.spool(0, generation)).events)

    def first_step(self) -> Event | None:
        """Return the first step that the newest generation has completed."""
        return next((event for event in self._worker(self.generation) if event.kind is EventKind.STEP), None)

    def last_step(self) -> int:
        """Return the last step that the newest generation has completed."""
        steps = [event.data["step"] for event in self._worker(self.generation) if event.kind is EventKind.STEP]
        return int(steps[-1]) if steps else 0

    def age(self) -> float:
        """Return for how long the newest generation has run."""
        return time.time() - (self._agent(EventKind.GENERATION_STARTED, self.generation) or _never()).time

    def kill(self, rank: int, tally: Tally) -> bool:
        """Kill a rank, wait for the next step, and take in how long it took; False: there was none."""
        started = self._agent(EventKind.GENERATION_STARTED, self.generation) or _never()
        killed = time.time()
        os.kill(started.data["pids"][str(rank)], signal.SIGKILL)
        last = self.last_step()
        self.generation += 1
        first = wait_for(self.first_step)
        if first is None:
            tally.failed += 1
            return False
        tally.note(self._moments(killed, first), last - first.data["step"] + 1)
        return True

    def _moments(self, killed: float, first: Event) -> list[float]:
        started = self._agent(EventKind.GENERATION_STARTED, self.generation) or _never()
        phases = {event.data["name"]: event.time for event in self._worker(self.generation) if event.kind == "phase"}
        return [killed, started.time, phases["build"], phases["load"], phases["train"], first.time]


def _never() -> Event:
    raise RuntimeError("the agent recorded no such event")


def recipe(text: Path) -> GptConfig:
    """Return the training job: it never ends by itself."""
    strategy = Strategy(
        parallelism=Parallelism(dp=RANKS), sharding=Sharding.DDP, micro_batch=MICRO_BATCH, accumulation=1, threads=1
    )
    task = Pretrain(
        model=MODEL,
        data=TextData(paths=(str(text),), validation_fraction=0.0),
        sequence=MODEL.max_sequence,
        global_batch=strategy.global_batch,
        steps=1_000_000,
        checkpoint_every_steps=EVERY_STEPS,
        log_every=1,
        validate_every=0,
        sample_tokens=0,
    )
    return GptConfig(task=task, strategy=strategy, steps=1_000_000, device=DeviceKind.CPU)


class Torchrun:
    """The same job under torchrun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_text(folder, seed=1)
        (folder / "train.py").write_text(TORCHRUN)
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        """Start it, again where an earlier one did not survive a restart."""
        self.close()
        self.starts += 1
        self.ledger().unlink(missing_ok=True)
        self.generation = 0
        names = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "head_dim", "max_sequence")
        plan = {
            "model": {"name": MODEL.name, **{name: getattr(MODEL, name) for name in names}},
            "sequence": MODEL.max_sequence,
            "micro_batch": MICRO_BATCH,
            "every_steps": EVERY_STEPS,
        }
        log = (self.folder / f"log-{self.starts}").open("wb")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        self.begun_s = time.time()
        self.process = subprocess.Popen(
            [
                *launcher,
                "--max-restarts=1000",
                "--monitor-interval=0.1",
                "train.py",
                str(self.folder),
                json.dumps(plan),
            ],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is None:
            return
        for line in self.lines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(line["pid"], signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def ledger(self) -> Path:
        """Return the file that the ranks write to."""
        return self.folder / "ledger"

    def lines(self) -> list[dict[str, Any]]:
        """Return what the ranks wrote."""
        path = self.ledger()
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def _said(self, what: str, rank: int = 0) -> Iterator[dict[str, Any]]:
        wanted = (what, rank, self.generation)
        return (line for line in self.lines() if (line["what"], line["rank"], line["generation"]) == wanted)

    def first_step(self) -> dict[str, Any] | None:
        """Return the first step that the newest generation has completed."""
        return next(self._said("step"), None)

    def last_step(self) -> int:
        """Return the last step that the newest generation has completed."""
        return max((line["step"] for line in self._said("step")), default=0)

    def age(self) -> float:
        """Return for how long the newest generation has run."""
        return time.time() - next(self._said("imported"))["time"]

    def kill(self, rank: int, tally: Tally) -> bool:
        """Kill a rank, wait for the next step, and take in how long it took; False: there was none."""
        killed = time.time()
        os.kill(next(self._said("imported", rank))["pid"], signal.SIGKILL)
        last = self.last_step()
        self.generation += 1
        first = wait_for(lambda: self.first_step() or (self.process and self.process.poll() is not None))
        if not isinstance(first, dict):
            tally.failed += 1
            return False
        moments = [next(self._said(what))["time"] for what in ("joined", "built", "loaded")]
        started = killed + max(0.0, _process_start(first["pid"]) - killed)
        tally.note([killed, started, *moments, first["time"]], last - first["step"] + 1)
        return True


def _process_start(pid: int) -> float:
    """Return when a process was started, seconds since the epoch (proc(5))."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return float(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def storm(side: Ours | Torchrun, kills: int, chance: random.Random, tally: Tally) -> float | None:
    """Kill ``kills`` times; return the seconds from the start of the job to its first step."""
    first = wait_for(side.first_step, 3 * LIMIT_S)
    if first is None:
        raise RuntimeError("the job never took its first step")
    begun = (first.time if isinstance(first, Event) else first["time"]) - side.begun_s
    for number in range(kills):
        quiet = chance.uniform(*QUIET_S)
        while side.age() < quiet or side.last_step() <= EVERY_STEPS:
            time.sleep(0.02)
        well = side.kill(chance.randrange(RANKS), tally)
        print(f"\r{type(side).__name__} {number + 1}/{kills}", end="", file=sys.stderr, flush=True)
        if not well and isinstance(side, Torchrun):
            side.begin()
            wait_for(side.first_step, 3 * LIMIT_S)
        elif not well:
            break
    print(file=sys.stderr)
    return begun


def main() -> int:
    """Run both sides and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sides", default="standby,cold,torchrun", help="which of them to run")
    parser.add_argument("--quick", action="store_true", help="five kills a side")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    kills = 5 if options.quick else options.kills
    result: dict[str, Any] = {"benchmark": "kill_to_step", "parameters": MODEL.params, "kills": kills, "sides": {}}
    for name in options.sides.split(","):
        folder = Path(tempfile.mkdtemp(prefix=f"mofang-kill-{name}-"))
        tally = Tally()
        side = Torchrun(folder) if name == "torchrun" else Ours(folder, standby=name == "standby")
        try:
            begun = storm(side, kills, seeded(options.seed), tally)
        finally:
            side.close()
            if not options.keep:
                subprocess.run(["rm", "-rf", str(folder)], check=True)
            else:
                print(f"kept: {folder}", file=sys.stderr)
        result["sides"][name] = {**tally.summary(), "first_start_s": begun}
    show(result)
    if options.json:
        print(json.dumps(result))
    return 0


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['parameters'] / 1e6:.1f}M parameters, {RANKS} ranks, {result['kills']} kills a side; seconds")
    names = ("median_s", "min_s", "max_s", "restarts", "failed", "lost_steps", "first_start_s")
    sides = result["sides"]
    print(f"{'':22}" + "".join(f"{name:>12}" for name in sides))
    for name in names:
        print(f"{name:22}" + "".join(f"{sides[side].get(name, float('nan')):12.2f}" for side in sides))
    for part in PARTS:
        print(f"  {part:20}" + "".join(f"{sides[side].get('parts_s', {}).get(part, 0.0):12.2f}" for side in sides))
    if {"standby", "torchrun"} <= set(sides) and "median_s" in sides["torchrun"]:
        result["times_faster_than_torchrun"] = sides["torchrun"]["median_s"] / sides["standby"]["median_s"]
        print(f"{'torchrun / ours':22}{result['times_faster_than_torchrun']:12.2f}")


if __name__ == "__main__":
    raise SystemExit(main())
