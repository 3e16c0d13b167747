"""How long commands take as whole processes, beside an interpreter that does nothing.

    python benchmarks/cli_latency.py [--repeats 15] [--json]

A fresh home gets 1,000 ended jobs through the store. ``ps`` is measured with the controller running and, apart, where
it has to start one first. Every round runs each command once, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mofang.client import Client
from mofang.domain.job import JobState
from mofang.domain.reasons import Reason
from mofang.store import Store, jobs
from mofang.store.endings import JobEnd

NUM_JOBS = 1000
LIMITS_S = {"mofang --help": 0.3, "mofang ps": 0.8, "mofang ps -a": 0.8}


def fill(home: Path) -> None:
    """Put ended jobs into the store of a home."""
    with Store(home / "mofang.db") as store:
        for number in range(NUM_JOBS):
            row = jobs.NewJob(
                id=f"{number:08x}",
                key=f"key-{number}",
                user="bench",
                name=f"job-{number}",
                state=JobState.WAITING.value,
                message="",
                priority=0,
                scenario="{}",
                plans="[]",
                submitted_at=1.79e9 + number,
                retries=0,
                devices="",
                steps=600,
            )
            store.write(jobs.accept, jobs.Submission(row=row, num_plans=1))
            end = JobEnd(
                job_id=row.id,
                attempt=0,
                time=row.submitted_at + 90,
                state=JobState.SUCCEEDED,
                reason=Reason.COMPLETED,
                message="",
            )
            store.write(jobs.fail, end)


def seconds(command: list[str], env: dict[str, str], lines: int) -> float:
    """Run a command and return its wall time; check that it printed at least this many lines."""
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    took = time.perf_counter() - began
    assert len(done.stdout.splitlines()) >= lines, done.stdout + done.stderr
    return took


def main() -> None:
    """Measure and print a table; with ``--json`` one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    mofang = [sys.executable, "-m", "mofang"]
    commands = {
        "python -c pass (baseline)": ([sys.executable, "-c", "pass"], 0),
        "mofang --help": ([*mofang, "--help"], 10),
        "mofang ps": ([*mofang, "ps"], 11),
        "mofang ps -a": ([*mofang, "ps", "-a"], NUM_JOBS + 1),
    }
    with tempfile.TemporaryDirectory(prefix="mofang-bench-") as folder:
        home = Path(folder)
        env = os.environ | {"MOFANG_HOME": folder}
        fill(home)
        try:
            cold = seconds(commands["mofang ps"][0], env, 11)
            took: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(args.repeats):
                for name, (command, lines) in commands.items():
                    took[name].append(seconds(command, env, lines))
        finally:
            Client(home, start=False).shutdown()
    report(took, cold, as_json=args.json)


def report(took: dict[str, list[float]], cold: float, *, as_json: bool) -> None:
    """Print the medians beside their limits."""
    print(f"{NUM_JOBS:,} ended jobs in the store, {len(next(iter(took.values())))} rounds, seconds a whole process\n")
    print(f"{'command':32}{'median':>8}{'fastest':>9}{'slowest':>9}{'limit':>7}")
    medians = {name: statistics.median(times) for name, times in took.items()}
    for name, times in took.items():
        limit = f"{LIMITS_S[name]:.1f}" if name in LIMITS_S else ""
        print(f"{name:32}{medians[name]:8.3f}{min(times):9.3f}{max(times):9.3f}{limit:>7}")
    print(f"{'mofang ps, starts a controller':32}{cold:8.3f}   (once)")
    if as_json:
        within = all(medians[name] < limit for name, limit in LIMITS_S.items())
        print(json.dumps({"medians_s": medians, "cold_ps_s": cold, "limits_s": LIMITS_S, "within": within}))


if __name__ == "__main__":
    main()
