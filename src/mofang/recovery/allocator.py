"""How a worker's memory allocator is set. Training workers and what measures for them must agree on it."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# mallopt(3)
_OPTIONS = {
    -4: 0,  # M_MMAP_MAX: no allocation is mapped on its own
    -1: -1,  # M_TRIM_THRESHOLD: nothing goes back to the kernel
    -2: 64 << 20,  # M_TOP_PAD: grow in large pieces
    -8: 1,  # M_ARENA_MAX: one arena, so that what one thread freed another can use
}


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the kernel (mallopt(3)).

    Activations are freed and allocated again every step; by default each one of 128 KiB or more is mapped afresh and
    its pages fault in again, which costs more than the arithmetic done on them. Elsewhere than glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _OPTIONS.items():
            mallopt(option, value)
