"""A storm of SIGKILLs over real jobs, judged from outside.

    python benchmarks/kill_storm.py --kills 200 --seed 1 --json

Short jobs of the user's own program (1-20 s of work, kept in the checkpoint directory) run through the controller. Some
fork a grandchild that leaves its session and clears its environment, some hold a shared-memory segment. Meanwhile the
controller, agents, shims and workers are killed. The checker knows only the ledger that the workers append to, /proc,
/dev/shm and the final states:

1. every accepted job ends;
2. no two generations' or attempts' workers of a job overlap;
3. none starts again after its success;
4. 5 s after an attempt ended no process of it and no shared-memory segment remains.

Beside it: how many jobs a system without recovery would have lost, namely those in which a worker was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mofang.client import Client
from mofang.domain.scenario import Command, RestartPolicy, Scenario
from mofang.errors import MofangError

PROGRAM = r"""
import json, os, subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

from mofang.recovery.worker import Worker

ledger, seconds, kind, tag = sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4]
worker = Worker.from_environment()
line = {"marker": os.environ["MOFANG_MARKER"], "generation": worker.generation, "rank": worker.rank, "pid": os.getpid()}
descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def note(what):
    os.write(descriptor, json.dumps({"what": what, "time": time.time(), **line}).encode() + b"\n")

note("start")
if kind == "setsid":
    subprocess.Popen(["sleep", tag], env={}, start_new_session=True)
if kind == "segment":
    name = os.environ["MOFANG_SHM_PREFIX"] + f"g{worker.generation}r{worker.rank}"
    segment = shared_memory.SharedMemory(name, create=True, size=1 << 16)
    resource_tracker.unregister(segment._name, "shared_memory")
progress = Path(worker.checkpoint_dir) / f"progress-{worker.rank}"
done = int(progress.read_text()) if progress.exists() else 0
while done * 0.05 < seconds:
    time.sleep(0.05)
    done += 1
    progress.with_suffix(".new").write_text(str(done))
    os.replace(progress.with_suffix(".new"), progress)
    worker.heartbeat(step=done)
    note("alive")
note("success")
os._exit(0)
"""

KINDS = ("plain", "setsid", "segment")
VICTIMS = ("controller", "agent", "worker", "shim")
SHARES = (0.3, 0.3, 0.3, 0.1)
CLEAN_S = 5.0
NARROW_S = 0.3
PATIENCE_S = 300.0


@dataclass
class Storm:
    """Everything that was done, and what was seen from outside."""

    home: Path
    rng: random.Random  # of the kills
    lengths: random.Random  # of the jobs
    ledger: Path
    program: Path
    jobs: dict[str, str] = field(default_factory=dict)  # id -> tag
    kills: list[dict[str, Any]] = field(default_factory=list)
    ended_at: dict[str, float] = field(default_factory=dict)  # attempt directory -> time
    leftovers: list[str] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)

    def submit(self, client: Client, number: int) -> None:
        """Hand in one more job; its key makes a repeated submission harmless."""
        seconds = self.lengths.uniform(1.0, 20.0)
        tag = f"3600.{os.getpid()}{number:05d}"
        kind = KINDS[number % len(KINDS)]
        scenario = Scenario(
            name=f"storm-{number}",
            task=Command(
                argv=(sys.executable, str(self.program), str(self.ledger), f"{seconds:.2f}", kind, tag),
                workers=2 if number % 4 == 3 else 1,
            ),
            restart=RestartPolicy(hang_timeout_s=30.0),
            grace_s=2.0,
        )
        plans = client.plan(scenario).plans
        self.jobs[client.submit(scenario, plans, key=f"storm-{number}").job_id] = tag

    def strike(self, kind: str) -> bool:
        """Kill one process of this kind, if there is one."""
        victims = [(pid, where) for pid, what, where in processes() if what == kind and str(self.home) in where]
        if not victims:
            return False
        pid, where = self.rng.choice(victims)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append({"what": kind, "pid": pid, "time": time.time(), "worker": identity(where)})
        return True

    def inspect(self) -> None:
        """Look for what ended attempts left behind, once they ended 5 s ago."""
        now = time.time()
        for outcome in self.home.glob("runs/*/attempt-*/outcome.json"):
            self.ended_at.setdefault(str(outcome.parent), outcome.stat().st_mtime)
        for directory, ended in self.ended_at.items():
            if directory not in self.checked and now - ended >= CLEAN_S:
                self.checked.add(directory)
                self.leftovers += list(self._left_of(Path(directory)))

    def _left_of(self, directory: Path) -> Iterator[str]:
        job = directory.parent.name
        marker = f"{job}.{int(directory.name.rpartition('-')[2])}"
        for pid, command, environment in raw_processes():
            if f"MOFANG_MARKER={marker}".encode() in environment.split(b"\0"):
                yield f"{marker}: process {pid} {command!r}"
            elif b"sleep" in command and self.jobs.get(job, "?").encode() in command:
                yield f"{marker}: grandchild {pid}"
        for segment in Path("/dev/shm").glob(f"mofang.{marker}.*"):  # noqa: S108 - where segments live
            yield f"{marker}: segment {segment.name}"


def raw_processes() -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, command line and environment of every living process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue


def processes() -> Iterator[tuple[int, str, str]]:
    """Yield number, kind and whereabouts of every process that the storm may hit."""
    for pid, command, environment in raw_processes():
        words = command.decode(errors="replace").split("\0")
        where = " ".join(words) + "\0" + environment.decode(errors="replace")
        if "mofang.control" in words:
            yield pid, "controller", where
        elif "mofang.recovery.agent" in words:
            yield pid, "agent", where
        elif "MOFANG_MARKER=" in where and words[3:4] and words[3].endswith("shim.py"):
            yield pid, "shim", where
        elif "MOFANG_MARKER=" in where and words[1:2] and words[1].endswith("storm_program.py"):
            yield pid, "worker", where


def identity(where: str) -> str:
    """Return which worker a process is, or keeps: marker, generation and rank."""
    found = dict(item.partition("=")[::2] for item in where.split("\0") if "=" in item)
    return " ".join(found.get(name, "") for name in ("MOFANG_MARKER", "MOFANG_GENERATION", "RANK"))


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the lines that workers appended; a line cut short by a kill is not one."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def overlaps(ledger: list[dict[str, Any]]) -> list[str]:
    """Return where workers of two generations or attempts of one job lived at the same time."""
    lives: dict[str, dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in ledger:
        job, _, attempt = line["marker"].rpartition(".")
        lives[job][(int(attempt), line["generation"])].append(line["time"])
    found = []
    for job, generations in lives.items():
        spans = sorted((min(times), max(times), which) for which, times in generations.items())
        found += [
            f"{job}: {earlier[2]} until {earlier[1]:.3f}, {later[2]} from {later[0]:.3f}"
            for earlier, later in itertools.pairwise(spans)
            if later[0] <= earlier[1]
        ]
    return found


def restarts_after_success(
    ledger: list[dict[str, Any]], kills: list[dict[str, Any]], workers: dict[str, int], narrow_s: float
) -> list[str]:
    """Return the jobs whose workers started again after all of one generation had succeeded.

    A worker killed, itself or with its shim, between its last ledger line and its recorded exit has succeeded for
    nobody but the ledger: kills within ``narrow_s`` of that line excuse it.
    """
    killed = {kill["worker"]: kill["time"] for kill in kills if kill["what"] in {"worker", "shim"}}
    successes: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in ledger:
        name = f"{line['marker']} {line['generation']} {line['rank']}"
        if line["what"] == "success" and abs(killed.get(name, 0.0) - line["time"]) > narrow_s:
            successes[(line["marker"], line["generation"])].append(line)
    found = []
    for (marker, generation), lines in successes.items():
        job = marker.rpartition(".")[0]
        if len(lines) < workers[job]:
            continue
        last = max(line["time"] for line in lines)
        found += [
            f"{line['marker']}: generation {line['generation']} started after generation {generation} succeeded"
            for line in ledger
            if line["what"] == "start" and line["marker"].rpartition(".")[0] == job and line["time"] > last
        ]
    return found


def run(storm: Storm, kills: int) -> list[dict[str, Any]]:
    """Raise the storm, wait for calm, and return the jobs' final rows."""
    wanted = [kind for kind, share in zip(VICTIMS, SHARES, strict=True) for _ in range(round(kills * share))]
    storm.rng.shuffle(wanted)
    calm = threading.Event()
    killer = threading.Thread(target=rage, args=(storm, wanted, calm))
    killer.start()
    rows: list[dict[str, Any]] = []
    number = 0
    give_up = float("inf")
    try:
        while time.time() < give_up:
            live = 1
            with contextlib.suppress(MofangError, OSError), Client.connect(storm.home) as client:
                rows = client.jobs(limit=100000)
                live = sum(row["state"] in {"waiting", "running", "stopping"} for row in rows)
                while wanted and live < 4:
                    storm.submit(client, number)
                    number, live = number + 1, live + 1
            print(f"\r{len(storm.kills)}/{kills} kills, {number} jobs", end="", file=sys.stderr, flush=True)
            if not wanted:
                give_up = min(give_up, time.time() + PATIENCE_S)
                if not live:
                    break
            time.sleep(1.0)
        time.sleep(CLEAN_S + 1)
    finally:
        calm.set()
        killer.join()
    storm.inspect()
    return rows


def rage(storm: Storm, wanted: list[str], calm: threading.Event) -> None:
    """Kill at moments of chance, whether or not somebody is there to be hit, and look at what ended attempts leave."""
    next_kill = time.time() + 1.0
    while not calm.wait(0.05):
        if wanted and time.time() >= next_kill:
            strike_one(storm, wanted)
            next_kill = time.time() + storm.rng.uniform(0.3, 2.5)
        storm.inspect()


def strike_one(storm: Storm, wanted: list[str]) -> None:
    """Kill the next kind on the list that has a living process now."""
    for index, kind in enumerate(wanted):
        if kind not in wanted[:index] and storm.strike(kind):
            del wanted[index]
            return


def judge(storm: Storm, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the figures and the verdict."""
    ledger = read_ledger(storm.ledger)
    states = Counter(row["state"] for row in rows)
    unfinished = [row["id"] for row in rows if row["state"] not in {"succeeded", "failed", "stopped"}]
    missing = sorted(set(storm.jobs) - {row["id"] for row in rows})
    workers = {job: 2 if int(tag[-5:]) % 4 == 3 else 1 for job, tag in storm.jobs.items()}
    hit = {kill["worker"].partition(".")[0] for kill in storm.kills if kill["what"] in {"worker", "shim"}}
    violations = {
        "jobs that did not end": unfinished + missing,
        "overlaps": overlaps(ledger),
        "restarts after success": restarts_after_success(ledger, storm.kills, workers, NARROW_S),
        "left behind": storm.leftovers,
    }
    every = restarts_after_success(ledger, storm.kills, workers, 0.0)
    return {
        "benchmark": "kill_storm",
        "kills": dict(Counter(kill["what"] for kill in storm.kills)),
        "jobs": len(storm.jobs),
        "states": dict(states),
        "failed": [f"{row['name']}: {row['message']}" for row in rows if row["state"] == "failed"],
        "generations": len({(line["marker"], line["generation"]) for line in ledger}),
        "attempts_checked": len(storm.checked),
        "lost_without_recovery": len(hit),
        "excused_restarts": len(every) - len(violations["restarts after success"]),
        "seconds": round(seconds, 1),
        "violations": violations,
        "ok": not any(violations.values()),
    }


def main() -> int:
    """Run the storm and print its verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mofang-storm-"))
    home = folder / "home"
    program = folder / "storm_program.py"
    program.write_text(PROGRAM)
    os.environ["MOFANG_HOME"] = str(home)
    storm = Storm(
        home=home,
        rng=random.Random(options.seed),
        lengths=random.Random(options.seed + 1),
        ledger=folder / "ledger.jsonl",
        program=program,
    )
    start = time.time()
    try:
        rows = run(storm, options.kills)
        print(file=sys.stderr)
        result = judge(storm, rows, time.time() - start)
    finally:
        shut_down(home)
        if options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    for name, value in result.items():
        if name != "violations":
            print(f"{name:24} {value}")
    for name, found in result["violations"].items():
        print(f"{name:24} {len(found)}")
        for line in found[:10]:
            print(f"    {line}")
    if options.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


def shut_down(home: Path) -> None:
    """Leave nothing of the storm behind, whatever happened."""
    with contextlib.suppress(MofangError, OSError):
        Client(home, start=False).shutdown()
    end = time.time() + 5
    while time.time() < end:
        left = [pid for pid, _, where in processes() if str(home) in where]
        if not left:
            return
        time.sleep(0.2)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    raise SystemExit(main())
