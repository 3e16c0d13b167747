"""A snapshot from a peer over loopback, beside plain copies of the same bytes: seconds and GB/s, and what a copy costs.

Run: python benchmarks/peer_copy.py [--gb 1.0] [--repeats 5]

Both ends are on this machine and share its memory bandwidth and cores; over a network the link is the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mofang.clock import SystemClock
from mofang.recovery.replica.client import Replicas
from mofang.recovery.replica.config import ServerConfig
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.replica.start import start_server
from mofang.recovery.snapshot.arena import Arena, Record
from mofang.recovery.snapshot.offers import Offer

PREFIX, TOKEN = "mofang.bench.1.", "bench"


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    length = int(options.gb * 1e9)
    with tempfile.TemporaryDirectory(prefix="mofang-bench-", dir="/dev/shm") as folder:
        rows = _measure(Path(folder), length, options.repeats)
    print(f"{'what':<58} {'median s':>9} {'best s':>8} {'GB/s':>6}")
    for name, seconds in rows.items():
        median = statistics.median(seconds)
        print(f"{name:<58} {median:9.3f} {min(seconds):8.3f} {length / median / 1e9:6.2f}")
    print(json.dumps({"bytes": length, "load": os.getloadavg()[0], "seconds": rows}))


def _measure(folder: Path, length: int, repeats: int) -> dict[str, list[float]]:
    owner, newcomer = folder / "owner", folder / "newcomer"
    owner.mkdir()
    newcomer.mkdir()
    arena = Arena.create(owner / f"{PREFIX}snapshot.r0000", length)
    arena.slot(0)[:length] = np.random.default_rng(0).bytes(length)
    arena.commit(0, Record(step=1, fence=1, length=length, sum=arena.sum(0, length)))
    server = start_server(ServerConfig(node=0, domains=("",), prefix=PREFIX, token=TOKEN, folder=str(owner)))
    client = Replicas(Shelf(newcomer, PREFIX), {0: server.address()}, token=TOKEN, node=1, clock=SystemClock())
    part, path, plain = Offer(rank=0, fence=1, step=1), Shelf(newcomer, PREFIX).replica(0), folder / "plain"
    target = memoryview(bytearray(length))
    fresh: list[float] = []
    warm: list[float] = []
    copies: list[float] = []
    again: list[float] = []
    sums: list[float] = []
    try:
        for _ in range(repeats):
            path.unlink(missing_ok=True)
            fresh.append(_timed(lambda: client.bring(part)))
            for index in Arena.open(path).records():
                Arena.open(path).invalidate(index)
            warm.append(_timed(lambda: client.bring(part)))
            plain.unlink(missing_ok=True)
            copies.append(_timed(lambda: shutil.copyfile(arena.path, plain)) / 2)  # it has two slots
            again.append(_timed(lambda: target.__setitem__(slice(None), arena.slot(0)[:length])))
            sums.append(_timed(lambda: arena.sum(0, length)))
    finally:
        server.stop()
    return {
        "from the peer, into a new arena (two slots are touched)": fresh,
        "from the peer, into an arena that is there": warm,
        "copy of the file in /dev/shm into a new file": copies,
        "copy in memory, warm": again,
        "its sum alone": sums,
    }


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    if what() is False:
        raise SystemExit("the part did not come")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
