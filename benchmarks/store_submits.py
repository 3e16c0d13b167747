"""Durable submits through the controller, beside raw SQLite with the same settings.

The baseline inserts the same rows (a job and its first event, equally long) into the same tables one at a time, each in
a transaction of its own, with ``sqlite3`` and nothing else: WAL, synchronous FULL. Submits go to a real controller
process over its unix socket, first one at a time, then from many clients at once. All three take turns in one run, on
one disk. As in a sweep, every job has arguments of its own, and the plans are alike.

    python benchmarks/store_submits.py [--rounds 7] [--clients 64] [--json]
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mofang.client import Client
from mofang.control.address import bound_address, socket_path
from mofang.domain.codec import encode, to_data
from mofang.store.engine import PRAGMAS
from mofang.store.events import APPEND
from mofang.store.jobs import NewJob
from mofang.store.store import Store
from mofang.testing import a_plan, a_scenario

SCENARIO = a_scenario("bench", argv=("python", "train.py", "--seed", "NUMBER"))
PLANS = (a_plan(cluster="elsewhere"),)  # no such cluster: the jobs wait, and nothing but submitting is measured
AIMS = {"single": 0.3, "concurrent": 2.0}


class Raw:
    """The baseline: the controller's tables, filled one transaction at a time."""

    def __init__(self, path: Path) -> None:
        Store(path).close()  # the same tables and indices
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in PRAGMAS:
            self._connection.execute(pragma)
        columns = ", ".join(f'"{column}"' for column in NewJob._fields)
        self._job = f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * len(NewJob._fields))})"  # noqa: S608
        self._scenario, self._plans = encode(SCENARIO), encode(PLANS)
        self._count = 0

    def submit(self, number: int) -> None:
        """Insert this many jobs."""
        for _ in range(number):
            self._count += 1
            name, now = _scattered(self._count), time.time()
            job = (name, name, "bench", "bench", "waiting", "", 0, self._scenario, self._plans, now, 0, "", None)
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(self._job, job)
            self._connection.execute(APPEND, (0, 0, "control", 1, now, "submitted", '{"plans":1}', name))
            self._connection.execute("COMMIT")


def _scattered(number: int) -> str:
    """Return a key as scattered as a random one, so that the index is written all over."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**48:012x}"


class Clients:
    """Connections that each keep one submit under way."""

    def __init__(self, home: Path, number: int) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._number = 0
        params = {"scenario": to_data(SCENARIO), "plans": [to_data(plan) for plan in PLANS], "user": "bench"}
        self._params = json.dumps(params)[:-1]
        for _ in range(number):
            line = socket.socket(socket.AF_UNIX)
            with bound_address(socket_path(home)) as address:
                line.connect(address)
            self._sockets[line.fileno()] = line
            self._poll.register(line, select.EPOLLIN)

    def submit(self, number: int) -> None:
        """Submit this many jobs; every client waits for its answer before its next one."""
        to_send, to_come = number, number
        for line in list(self._sockets.values())[:number]:
            self._send(line)
            to_send -= 1
        while to_come:
            for descriptor, _ in self._poll.poll():
                line = self._sockets[descriptor]
                answer = line.recv(65536)
                assert b'"created":true' in answer, answer
                assert answer.endswith(b"\n"), answer
                to_come -= 1
                if to_send:
                    to_send -= 1
                    self._send(line)

    def _send(self, line: socket.socket) -> None:
        self._number += 1
        key = f"{id(self)}-{self._number}"
        params = self._params.replace("NUMBER", str(self._number))
        request = f'{{"jsonrpc":"2.0","id":1,"method":"submit","params":{params},"key":"{key}"}}}}\n'
        line.sendall(request.encode())


def per_second(submit: Callable[[int], None], number: int) -> float:
    """Return submits a second."""
    begin = time.perf_counter()
    submit(number)
    return number / (time.perf_counter() - begin)


def measure(home: Path, rounds: int, clients: int) -> dict[str, list[float]]:
    """Return submits a second in every round, the three ways in turn."""
    raw, single, many = Raw(home / "raw.db"), Clients(home, 1), Clients(home, clients)
    found: dict[str, list[float]] = {"raw": [], "single": [], "concurrent": []}
    for turn in range(rounds + 1):
        speeds = {
            "raw": per_second(raw.submit, 300),
            "single": per_second(single.submit, 200),
            "concurrent": per_second(many.submit, 20 * clients),
        }
        for name, speed in speeds.items():
            found[name] += [speed] if turn else []  # the first round warms up
    return found


def main() -> int:
    """Measure, print, and return 0 where both aims are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        words = [sys.executable, "-m", "mofang.control", "--home", folder, "--backend", "memory"]
        controller = subprocess.Popen(words)
        try:
            while not socket_path(home).exists() and controller.poll() is None:
                time.sleep(0.02)
            found = measure(home, args.rounds, args.clients)
            with Client.connect(home, start=False) as client:
                stored = len(client.jobs())
        finally:
            controller.terminate()
            controller.wait()
    return report(found, stored, args)


def report(found: dict[str, list[float]], stored: int, args: argparse.Namespace) -> int:
    """Print the table and, where asked, JSON."""
    row = len(encode(SCENARIO)) + len(encode(PLANS))
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    ratios = {
        name: statistics.median(mine / raw for mine, raw in zip(found[name], found["raw"], strict=True))
        for name in AIMS
    }
    print(f"durable submits, {args.rounds} rounds in turn, about {row} bytes of JSON a job")
    print(f"{'way':34} {'submits/s':>10} {'us each':>9} {'x raw':>7} {'aim':>6}")
    print(f"{'raw SQLite, one at a time':34} {medians['raw']:10.0f} {1e6 / medians['raw']:9.0f} {1:7.2f} {'':>6}")
    for name, title in (("single", "controller, one client"), ("concurrent", f"controller, {args.clients} clients")):
        speed = medians[name]
        print(f"{title:34} {speed:10.0f} {1e6 / speed:9.0f} {ratios[name]:7.2f} {AIMS[name]:6.1f}")
    print(f"{stored} jobs accepted and listed afterwards")
    reached = all(ratios[name] >= aim for name, aim in AIMS.items())
    if args.json:
        facts = {"submits_per_s": medians, "ratio": ratios, "aims": AIMS, "reached": reached, "rounds": found}
        print(json.dumps({"benchmark": "store_submits", "clients": args.clients, "row_bytes": row, **facts}))
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
