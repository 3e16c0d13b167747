"""Which operators are timed, and at which sizes: a declared grid, spread over what small and large models use.

Sizes ascend for each operator, so that a slow host can leave out the large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from mofang.domain.rates import Operator

__all__ = ["ACCELERATOR_GRID", "CPU_GRID", "Case", "cases"]

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operator at one size in one precision."""

    operator: Operator
    shape: tuple[int, ...]
    dtype: str


CPU_GRID: dict[Operator, Shapes] = {
    Operator.LINEAR: (
        (128, 128, 128),
        (512, 128, 128),
        (512, 512, 128),
        (512, 128, 512),
        (256, 2048, 128),
        (2048, 128, 128),
        (1024, 256, 256),
        (512, 512, 512),
        (2048, 512, 256),
        (256, 8192, 256),
        (1024, 1536, 512),
        (512, 1024, 1024),
    ),
    Operator.ATTENTION: ((16, 64, 32), (16, 128, 32), (16, 256, 32), (8, 256, 64), (8, 512, 64), (4, 1024, 64)),
    Operator.NORM: ((128, 128), (1024, 128), (1024, 512), (4096, 512)),
    Operator.ROPE: ((128, 128), (1024, 128), (1024, 512), (4096, 512)),
    Operator.GATED: ((128, 384), (1024, 384), (1024, 1536), (4096, 1536)),
    Operator.ADD: ((16, 16), (128, 128), (1024, 128), (1024, 1024), (4096, 1024), (12288, 1024)),
    Operator.CROSS_ENTROPY: ((128, 256), (2048, 256), (512, 4096), (1024, 16384)),
    Operator.EMBEDDING: ((512, 256, 128), (1024, 4096, 256), (1024, 16384, 256)),
    Operator.CAST: ((16384,), (1048576,)),
    Operator.ADAMW: ((65536,), (1048576,), (4194304,)),
    Operator.CLIP: ((65536,), (1048576,), (4194304,)),
}

ACCELERATOR_GRID: dict[Operator, Shapes] = {
    Operator.LINEAR: (
        (1024, 1024, 1024),
        (2048, 2048, 2048),
        (8192, 1024, 4096),
        (4096, 4096, 4096),
        (8192, 8192, 2048),
        (8192, 4096, 4096),
        (8192, 14336, 4096),
        (8192, 32768, 2048),
        (16384, 4096, 14336),
    ),
    Operator.ATTENTION: ((16, 1024, 64), (32, 2048, 64), (32, 2048, 128), (32, 4096, 128), (32, 8192, 128)),
    Operator.NORM: ((2048, 1024), (8192, 2048), (8192, 4096), (16384, 4096)),
    Operator.ROPE: ((2048, 1024), (8192, 2048), (8192, 4096), (16384, 4096)),
    Operator.GATED: ((2048, 4096), (8192, 8192), (8192, 14336)),
    Operator.ADD: ((16, 16), (2048, 1024), (8192, 4096), (16384, 16384)),
    Operator.CROSS_ENTROPY: ((1024, 32768), (4096, 32768), (8192, 65536)),
    Operator.EMBEDDING: ((4096, 32768, 2048), (8192, 65536, 4096)),
    Operator.CAST: ((1048576,), (67108864,)),
    Operator.ADAMW: ((8388608,), (134217728,)),
    Operator.CLIP: ((8388608,), (134217728,)),
}

# These work on fp32 whatever the matrix products run in.
_FP32_ONLY = frozenset({Operator.EMBEDDING, Operator.ADAMW, Operator.CLIP})


def cases(grid: dict[Operator, Shapes], dtypes: tuple[str, ...]) -> list[Case]:
    """Return every case of a grid, precision by precision; a cast to fp32 is none."""
    found = []
    for dtype in dtypes:
        for operator, shapes in grid.items():
            if (dtype != "fp32" and operator in _FP32_ONLY) or (dtype == "fp32" and operator is Operator.CAST):
                continue
            # What is bound by memory differs little between precisions: half the sizes are enough for the second.
            fewer = dtype != "fp32" and operator not in {Operator.LINEAR, Operator.ATTENTION}
            found += [
                Case(operator=operator, shape=shape, dtype=dtype)
                for shape in shapes[1 if fewer else 0 :: 2 if fewer else 1]
            ]
    return found
