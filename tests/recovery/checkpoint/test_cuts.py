"""The box that a rank has of a DTensor is the one that torch says, on every rank of a mesh and in any order of cuts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial
from torch.testing._internal.distributed.fake_pg import FakeStore

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint.state import part_of

PROGRAM = Path(__file__).parents[1] / "programs" / "cuts.py"


@pytest.mark.serial
def test_boxes_are_those_of_torch_under_fsdp_over_tensor_parallelism_and_hybrid_sharding():
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_partial_sums_are_refused():
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        with pytest.raises(CheckpointError, match="partial sums"):
            part_of(DTensor.from_local(torch.zeros(4), mesh, [Partial()], run_check=False))
    finally:
        distributed.destroy_process_group()
