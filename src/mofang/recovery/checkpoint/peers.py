"""How ranks agree: collectives on whole numbers. No object collectives: those pickle."""

from __future__ import annotations

from collections.abc import Sequence

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

    def gather(self, row: Sequence[int]) -> list[list[int]]:
        """Return the row of every rank; rows may differ in length, numbers have 63 bits."""
        if self.world_size == 1:
            return [list(row)]
        longest = torch.tensor([len(row)], dtype=torch.int64)
        distributed.all_reduce(longest, op=distributed.ReduceOp.MAX, group=self._group)
        mine = torch.zeros(int(longest.item()) + 1, dtype=torch.int64)
        mine[: len(row) + 1] = torch.tensor([len(row), *row], dtype=torch.int64)
        rows = [torch.empty_like(mine) for _ in range(self.world_size)]
        distributed.all_gather(rows, mine, group=self._group)
        return [values[1 : values[0] + 1] for values in (tensor.tolist() for tensor in rows)]

    def gather_text(self, text: str) -> list[str]:
        """Return the text of every rank."""
        if self.world_size == 1:
            return [text]
        raw = text.encode()
        lengths = [row[0] for row in self.gather([len(raw)])]
        if not any(lengths):
            return [""] * self.world_size
        mine = torch.zeros(max(lengths), dtype=torch.uint8)
        mine[: len(raw)] = torch.frombuffer(bytearray(raw) or bytearray(1), dtype=torch.uint8)[: len(raw)]
        rows = [torch.empty_like(mine) for _ in range(self.world_size)]
        distributed.all_gather(rows, mine, group=self._group)
        return [bytes(row[:length].tolist()).decode() for row, length in zip(rows, lengths, strict=True)]
