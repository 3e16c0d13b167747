"""A 64-bit sum of tensors: alike for every rank that holds the same bytes, different after any one flipped bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import xxhash
from torch import Tensor

__all__ = ["checksum", "odd_ones"]

_SIGN = 1 << 63
_MIX = 6364136223846793005  # odd, so that multiplying by it loses nothing (Knuth's MMIX)
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def checksum(tensors: Iterable[Tensor]) -> int:
    """Return the sum of all bytes as a signed number of 64 bits.

    On the CPU it is XXH3. On an accelerator the words of each tensor are added up there, modulo 2 to the 64th, so that
    eight bytes are all that is copied: every change of a single word changes it.
    """
    hashed = xxhash.xxh3_64()
    sums: list[Tensor] = []
    for tensor in tensors:
        if tensor.device.type == "cpu":
            hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            words = tensor.contiguous().reshape(-1).view(_WORDS[tensor.element_size()])
            sums.append(words.sum(dtype=torch.int64))
    value = hashed.intdigest()
    for part in torch.stack(sums).tolist() if sums else ():
        value = (value * _MIX + part) % (2 * _SIGN)
    return value - 2 * _SIGN if value >= _SIGN else value


def odd_ones(sums: Sequence[int]) -> list[int]:
    """Return the ranks whose sum is not that of most ranks; all of them where no sum is that of most."""
    counts = {one: sums.count(one) for one in set(sums)}
    most = max(counts, key=counts.__getitem__)
    if 2 * counts[most] <= len(sums):
        return list(range(len(sums)))
    return [rank for rank, one in enumerate(sums) if one != most]
