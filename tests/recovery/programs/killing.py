"""What the tiny programs share: ``python PROGRAM FOLDER NAME STEPS [KILL_AT]``."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from mofang.recovery import Directory, Memory


def note(path, step, loss):
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "loss": loss}) + "\n")


def killed(step, kill_at, checkpointer):
    if step == kill_at:
        checkpointer.wait()
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)


def main(program):
    warnings.simplefilter("ignore")
    folder, name, steps, *kill = sys.argv[1:]
    torch.set_num_threads(1)
    tiers = [Memory(every=1, name=name), Directory(Path(folder) / f"ckpt-{name}", every=5)]
    program(Path(folder), Path(folder) / f"{name}.jsonl", tiers, int(steps), int(kill[0]) if kill else -1)
