"""How ranks agree: two collectives on one number. No object collectives: those pickle."""

from __future__ import annotations

import torch
from torch import distributed

__all__ = ["Peers"]


class Peers:
    """The ranks of a process group, or this process alone where there is none.

    The numbers travel on the CPU, so the group needs a backend for it (gloo, beside NCCL on accelerators).

    Args:
        group: the process group; None is the default one.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        self._group = group
        joined = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank(group) if joined else 0
        self.world_size = distributed.get_world_size(group) if joined else 1

    def all_ok(self, ok: bool) -> bool:
        """Return whether every rank says so; it is a barrier too."""
        if self.world_size == 1:
            return ok
        flag = torch.tensor([int(ok)], dtype=torch.int64)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MIN, group=self._group)
        return bool(flag.item())

    def from_first(self, value: int) -> int:
        """Return rank 0's value on every rank."""
        if self.world_size == 1:
            return value
        number = torch.tensor([value], dtype=torch.int64)
        distributed.broadcast(number, group=self._group, group_src=0)
        return int(number.item())
