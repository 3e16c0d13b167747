"""Real processes, killed and started again: the losses are bit for bit those of the undisturbed run."""

import json
import multiprocessing
import os
import signal
import socket
from collections import defaultdict
from multiprocessing import forkserver
from pathlib import Path

import pytest

from mofang.recovery import Directory, Memory

SHM = Path("/dev/shm")
LIMIT_S = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    """Starts the ranks of the program in ``programs/looping.py``."""

    def __init__(self, folder, context):
        self.folder, self._context = folder, context
        self.name = f"test{os.getpid()}{folder.name[-14:]}".replace("-", "").replace("_", "")
        self.runs = 0

    def start(self, mode, tiers, steps, *, world=2, name=None, **options):
        from looping import train  # noqa: PLC0415 - found once the fixture has set the path

        self.runs += 1
        losses = self.folder / f"losses-{self.runs}"
        port = free_port()
        processes = []
        for rank in range(1 if mode == "plain" else world):
            environ = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "1" if mode == "plain" else str(world),
                "LOCAL_WORLD_SIZE": "1" if mode == "plain" else str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": name or self.name,
            }
            arguments = (environ, mode, tiers, steps, str(losses))
            processes.append(self._context.Process(target=train, args=arguments, kwargs=options))
        for process in processes:
            process.start()
        return losses, processes

    def run(self, mode, tiers, steps, **options):
        """Return the exit codes and the lines of each rank; where one rank dies the others are killed."""
        losses, processes = self.start(mode, tiers, steps, **options)
        if options.get("kill"):
            processes[options["kill"][0]].join(LIMIT_S)
            for process in processes:
                process.kill()
        for process in processes:
            process.join(LIMIT_S)
        lines = {
            rank: [json.loads(line) for line in Path(f"{losses}.{rank}").read_text().splitlines()]
            for rank in range(len(processes))
        }
        return [process.exitcode for process in processes], lines

    def left(self):
        return sorted(path.name for path in SHM.glob(f"mofang.run-{self.name}*"))

    def clean(self):
        for path in SHM.glob(f"mofang.run-{self.name}*"):
            path.unlink()


@pytest.fixture(scope="session")
def warm():
    """A fork server that has imported torch and the program already."""
    context, folder = multiprocessing.get_context("forkserver"), str(Path(__file__).parent / "programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder)  # the server's own path
        context.set_forkserver_preload(["looping"])
        yield context
        forkserver._forkserver._stop()


@pytest.fixture
def program(tmp_path, warm):
    made = Program(tmp_path, warm)
    yield made
    made.clean()


def merged(*runs):
    """The lines that count: of each step the last one written."""
    lines = defaultdict(dict)
    for run in runs:
        for rank, written in run.items():
            lines[rank] |= {line["step"]: line for line in written}
    return lines


def tiers_of(tier, folder):
    memory, directory = Memory(every=1), Directory(folder / "ckpt", every=5)
    return {"memory": [memory], "disk": [directory], "both": [memory, directory]}[tier]


@pytest.mark.serial
@pytest.mark.parametrize("mode", ["plain", "ddp", "fsdp"])
def test_a_killed_program_goes_on_bit_for_bit(mode, program, tmp_path):
    ranks = 1 if mode == "plain" else 2
    codes, whole = program.run(mode, [Directory(tmp_path / "whole", every=1000)], 24, name=f"{program.name}w")
    assert codes == [0] * ranks
    for tier in ("memory", "disk", "both"):
        tiers = tiers_of(tier, tmp_path / tier)
        codes, first = program.run(mode, tiers, 24, kill=(ranks - 1, 13))
        assert codes == [-signal.SIGKILL] * ranks
        assert bool(program.left()) == (tier != "disk")
        codes, second = program.run(mode, tiers, 24)
        assert codes == [0] * ranks
        begun = second[0][0]["step"]
        assert begun == 10 if tier == "disk" else 1 <= begun <= 13
        assert merged(first, second) == merged(whole)
        assert program.left() == []


@pytest.mark.serial
def test_another_number_of_ranks_goes_on_within_the_rounding_of_sums(program, tmp_path):
    """4 ranks, then 2, then 4 again.

    The gradient of a step is a sum over the same 8 rows, added in another order. Reordering a sum of n terms in float32
    changes it by at most 2 (n - 1) u of the sum of the terms' sizes, u = 2^-24 (Higham, Accuracy and Stability of
    Numerical Algorithms, section 4.2): 8.4e-7 for n = 8. AdamW divides by the size of the gradient, so a relative error
    of the gradient becomes one of the update, and those of the steps add up to first order. Terms that cancel make it
    worse by the sum of their sizes over the size of their sum, for which 10 is allowed.
    """
    steps = 24
    tolerance = steps * 2 * 7 * 2**-24 * 10

    def means(lines):
        return [sum(lines[rank][step]["loss"] for rank in lines) / len(lines) for step in sorted(lines[0])]

    options = {"data": "step"}
    tiers = [Memory(every=4), Directory(tmp_path / "whole", every=1000)]
    _, whole = program.run("fsdp", tiers, steps, world=4, name=f"{program.name}w", **options)
    expected = means(merged(whole))
    found = {}
    for mode, world, until in (("fsdp", 4, 8), ("fsdp", 2, 16), ("fsdp", 4, steps)):
        codes, lines = program.run(
            mode, [Memory(every=4), Directory(tmp_path / "ckpt", every=8)], until, world=world, **options
        )
        assert codes == [0] * world
        found |= dict(zip([line["step"] for line in lines[0]], means(merged(lines)), strict=True))
    assert list(found) == list(range(steps))
    assert list(found.values()) == pytest.approx(expected, rel=tolerance)


@pytest.mark.serial
def test_sigterm_to_one_rank_saves_all_and_leaves(program, tmp_path):
    tiers = [Memory(every=1000), Directory(tmp_path / "ckpt", every=1000)]
    codes, first = program.run("ddp", tiers, 24, stop=(1, 9))
    assert codes == [143, 143]
    codes, second = program.run("ddp", tiers, 24)
    assert codes == [0, 0]
    assert second[0][0]["step"] == first[0][-1]["step"] + 1 in (11, 12)


@pytest.mark.serial
def test_what_memory_lost_is_on_the_disk(program, tmp_path):
    tiers = [Memory(every=1), Directory(tmp_path / "ckpt", every=5)]
    program.run("ddp", tiers, 24, kill=(0, 14))
    for name in program.left():
        if ".snapshot.r0001" in name:
            (SHM / name).write_bytes(b"garbage")
    codes, lines = program.run("ddp", tiers, 24)
    assert codes == [0, 0]
    assert 5 <= lines[0][0]["step"] < 14
