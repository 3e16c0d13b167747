"""How many processes the kernel has killed because memory ran out, as near to this process as can be seen."""

from __future__ import annotations

from pathlib import Path

__all__ = ["count_memory_kills"]


def count_memory_kills(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> int:
    """Return the kills for memory in this process's own cgroup, where workers are too; else on the whole machine.

    A container next door that runs out of memory is none of a job's business, so the machine's count is the last
    resort. (cgroup-v2.rst, ``memory.events``; cgroup-v1/memory.rst, ``memory.oom_control``; proc(5), ``vmstat``.)

    Args:
        proc: where processes are shown; elsewhere in tests.
        sys: where the kernel shows its cgroups; elsewhere in tests.
    """
    known = (_kills(path) for path in (*_of_cgroup(proc, sys), proc / "vmstat"))
    return next((kills for kills in known if kills is not None), 0)


def _of_cgroup(proc: Path, sys: Path) -> list[Path]:
    """Return the files that count: of the cgroup by its path, then of what a container sees as the root."""
    try:
        rows = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in (row for row in rows if len(row) == 3):
        if "memory" in controllers.split(","):
            root, name = sys / "fs/cgroup/memory", "memory.oom_control"
        elif not controllers:
            root, name = sys / "fs/cgroup", "memory.events"
        else:
            continue
        found += [root / path.lstrip("/") / name, root / name]
    return found


def _kills(path: Path) -> int | None:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill" and row[1].isdigit()), None)
