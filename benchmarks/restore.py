"""How fast a state comes back: from memory, from a peer, from the disk, beside torch's distributed checkpoint.

    python benchmarks/restore.py --json
    python benchmarks/restore.py --gigabytes 0.5 --rounds 3

A state of 2.4 GB in 192 tensors goes back into the tensors of a model. Every byte is verified before it is used, which
``dcp.load`` does not do. Files are read from the page cache on both sides. The peer is a real server of snapshots on
this machine, over loopback.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp

from mofang.clock import SystemClock
from mofang.recovery.checkpoint.load import load_checkpoint
from mofang.recovery.checkpoint.peers import Peers
from mofang.recovery.checkpoint.save import save_checkpoint
from mofang.recovery.checkpoint.state import TrainingState, part_of
from mofang.recovery.replica.client import Replicas
from mofang.recovery.replica.config import ServerConfig
from mofang.recovery.replica.shelf import Shelf
from mofang.recovery.replica.start import StartedServer, start_server
from mofang.recovery.snapshot.memory import MemoryTier
from mofang.recovery.snapshot.place import Place
from mofang.recovery.snapshot.restore import restore

TENSORS = 192


class Bench:
    """One state, saved in every way."""

    def __init__(self, gigabytes: float, folder: Path) -> None:
        count = int(gigabytes * 1e9 / 4 / TENSORS)
        self.tensors = {f"layer.{index:03d}": torch.rand(count) for index in range(TENSORS)}
        self.bytes = sum(tensor.nbytes for tensor in self.tensors.values())
        self.target = {name: torch.zeros_like(tensor) for name, tensor in self.tensors.items()}
        self.folder, self.clock, self.peers = folder, SystemClock(), Peers()
        self.place = Place(prefix=f"mofang.benchmark-{os.getpid()}.")
        self.far = Place(prefix=f"mofang.benchmark-far-{os.getpid()}.")
        self.server: StartedServer | None = None
        self.replicas: Replicas | None = None

    def save(self) -> None:
        """Keep the state in memory and on the disk."""
        state = TrainingState(step=1, parts={name: part_of(tensor) for name, tensor in self.tensors.items()})
        tier = MemoryTier(self.place, fence=1, clock=self.clock)
        tier.prepare(state)
        tier.take(state)
        tier.close()
        self._serve()
        save_checkpoint(self.folder / "ours", state, keep=1, peers=self.peers, clock=self.clock)
        dcp.save(self.tensors, checkpoint_id=self.folder / "dcp", no_dist=True)

    def _serve(self) -> None:
        """Start the server of the node that has the snapshot, for a newcomer that has nothing."""
        shared = {"token": "benchmark", "folder": str(self.place.folder)}
        self.server = start_server(ServerConfig(node=0, domains=("", ""), prefix=self.place.prefix, **shared))
        self.replicas = Replicas(
            Shelf(self.far.folder, self.far.prefix),
            {0: self.server.address()},
            token=shared["token"],
            node=1,
            clock=self.clock,
        )

    def from_peer(self) -> None:
        """Restore on a newcomer: the snapshot comes over the wire into an arena of its own."""
        for path in self.far.arenas():
            path.unlink()
        loaded = restore(
            self.far,
            self._state(),
            peers=self.peers,
            clock=self.clock,
            on_refused=self._refused,
            fetch=self.replicas,
        )
        self._check(loaded, "peer")

    def _state(self) -> TrainingState:
        return TrainingState(step=0, parts={name: part_of(tensor) for name, tensor in self.target.items()})

    def from_memory(self) -> None:
        """Restore from this node's arena."""
        self._check(
            restore(self.place, self._state(), peers=self.peers, clock=self.clock, on_refused=self._refused), "memory"
        )

    def from_disk(self) -> None:
        """Load our checkpoint."""
        self._check(
            load_checkpoint(
                self.folder / "ours", self._state(), peers=self.peers, clock=self.clock, on_refused=self._refused
            ),
            "disk",
        )

    def from_dcp(self) -> None:
        """Load torch's checkpoint."""
        dcp.load(self.target, checkpoint_id=self.folder / "dcp", no_dist=True)

    def _check(self, loaded: Any, tier: str) -> None:
        if loaded is None or loaded.tier != tier:
            raise SystemExit(f"nothing came back from {tier}")

    def _refused(self, path: Path, why: str) -> None:
        sys.stderr.write(f"{path}: {why}\n")

    def remove(self) -> None:
        """Leave nothing in shared memory, and no server."""
        if self.server is not None:
            self.server.stop()
        for place in (self.place, self.far):
            for path in place.folder.glob(f"{place.prefix}*"):
                path.unlink()


def timed(bench: Bench, action: Callable[[], None]) -> float:
    """Return the seconds of a restore into tensors of zeros, once it is known to be exact."""
    for tensor in bench.target.values():
        tensor.zero_()
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    if any(not torch.equal(tensor, bench.target[name]) for name, tensor in bench.tensors.items()):
        raise SystemExit("what came back is not what was saved")
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.4, help="of state (default: 2.4)")
    parser.add_argument("--rounds", type=int, default=5, help="of each way (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    folder = Path(tempfile.mkdtemp())
    bench = Bench(options.gigabytes, folder)
    ways = {"memory": bench.from_memory, "peer": bench.from_peer, "disk": bench.from_disk, "dcp.load": bench.from_dcp}
    try:
        bench.save()
        rows: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, action in ways.items():
                seconds = timed(bench, action)
                if number:  # the first one warms up
                    rows[name].append(seconds)
    finally:
        bench.remove()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"state of {bench.bytes / 1e9:.2f} GB in {TENSORS} tensors, {torch.get_num_threads()} threads")
    for name, values in rows.items():
        median = statistics.median(values)
        print(
            f"{name:12}{median:8.3f} s [{min(values):.3f} .. {max(values):.3f}]{bench.bytes / median / 1e9:7.1f} GB/s"
        )
    if options.json:
        print(json.dumps({"bytes": bench.bytes, "seconds": rows}))


if __name__ == "__main__":
    main()
