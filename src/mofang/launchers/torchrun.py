"""The command that starts a program's workers without Mofang's own agents: torchrun on every node."""

from __future__ import annotations

from mofang.domain.plan import Plan
from mofang.launchers.program import Program

__all__ = ["torchrun_words"]


def torchrun_words(program: Program, plan: Plan, *, rendezvous: str = "127.0.0.1:29500") -> tuple[str, ...]:
    """Return what to execute on every node; a program that starts its own ranks is executed as it is.

    Args:
        program: what a launcher made of the plan; the interpreter in front of its words gives way to torchrun.
        plan: for how many workers on how many nodes.
        rendezvous: host and port of one node that all reach.
    """
    if program.one_per_node:
        return program.argv
    nodes = plan.placement.num_nodes
    each = plan.workers // nodes
    return (
        "torchrun",
        f"--nnodes={nodes}",
        f"--nproc-per-node={each}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={rendezvous}",
        *program.argv[1:],
    )
