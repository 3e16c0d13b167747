"""One rank of a node of its own: ``python node_loop.py STEPS NAME OUT [KILL_AT]``; a whole copy lies on each node."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn

from mofang.recovery import Checkpointer, Memory


def main():
    steps, name, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    kill = int(sys.argv[4]) if len(sys.argv) > 4 else -1
    distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(distributed.get_rank())
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = {"model": model, "optimizer": optimizer}
    ckpt = Checkpointer(state=state, tiers=[Memory(every=1, name=name, replicas=1)])
    start = ckpt.restore()
    out.with_suffix(f".{distributed.get_rank()}").write_text(json.dumps({"start": start, "now": time.time()}))
    for step in range(start, steps):
        model(torch.ones(1, 4)).sum().backward()
        for parameter in model.parameters():
            distributed.all_reduce(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
        ckpt.step(step)
        time.sleep(0.02)
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
    ckpt.close()
    distributed.destroy_process_group()


main()
