"""A program without agents on two nodes: what a lost node had in memory comes back from the other one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SHM = Path("/dev/shm")
PROGRAM = Path(__file__).parent / "programs" / "node_loop.py"


def start(name, out, steps, kill=None):
    """Two nodes of one rank each, on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(steps), name, str(out), *([str(kill)] if kill else [])]
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith("MOFANG_")},
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


@pytest.mark.serial
def test_a_lost_nodes_memory_comes_back_from_its_neighbour(tmp_path):
    name, out = f"test{os.getpid()}n", tmp_path / "out"
    try:
        killed = start(name, out, 1000, kill=60)
        for process in killed:
            process.communicate(timeout=60)
        assert killed[1].returncode == -signal.SIGKILL
        assert list(SHM.glob(f"mofang.run-{name}-n00.replica.r0001"))
        for path in SHM.glob(f"mofang.run-{name}-n01.*"):  # the node's memory is gone
            path.unlink()
        again = start(name, out, 90)
        errors = [process.communicate(timeout=60)[1] for process in again]
        assert [process.returncode for process in again] == [0, 0], errors
        assert "restored from peer" in errors[0]
        begun = [json.loads(out.with_suffix(f".{rank}").read_text())["start"] for rank in (0, 1)]
        assert begun[0] == begun[1]
        assert 40 <= begun[0] <= 61
        assert not list(SHM.glob(f"mofang.run-{name}*"))
    finally:
        for path in SHM.glob(f"mofang.run-{name}*"):
            path.unlink()
