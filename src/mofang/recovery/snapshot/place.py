"""Where the snapshots of a node lie, and how much of its memory they may take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mofang.errors import CheckpointError
from mofang.units import show_bytes

__all__ = ["SHARED_MEMORY", "Place", "available_memory", "check_memory"]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place where POSIX shared memory lives
_MOST = 0.5  # of the memory that is free on the node: what training still allocates must fit beside the snapshots
_CGROUPS = Path("/sys/fs/cgroup")
_SNAPSHOT, _REPLICA, _DRAFT = "snapshot", "replica", ".draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One rank and the node that it runs on.

    Attributes:
        prefix: what the names of all files of this job start with.
        rank: of this process.
        world_size: number of ranks.
        ranks_of_node: the ranks that run on this node, in order.
        folder: a file system that lives in memory.
    """

    prefix: str
    rank: int = 0
    world_size: int = 1
    ranks_of_node: tuple[int, ...] = (0,)
    folder: Path = SHARED_MEMORY

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Place | None:
        """Return where this worker keeps its snapshots, or None outside Mofang."""
        prefix = environ.get("MOFANG_SHM_PREFIX")
        if not prefix:
            return None
        rank, world_size = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
        first = rank - int(environ.get("LOCAL_RANK", "0"))
        last = min(world_size, first + int(environ.get("LOCAL_WORLD_SIZE", world_size)))
        return cls(prefix=prefix, rank=rank, world_size=world_size, ranks_of_node=tuple(range(first, last)))

    @property
    def local_rank(self) -> int:
        """The index of this rank among those of its node."""
        return self.ranks_of_node.index(self.rank)

    def snapshot(self, rank: int) -> Path:
        """Return the arena that a rank of this node writes."""
        return self.folder / f"{self.prefix}{_SNAPSHOT}.r{rank:04d}"

    def replica(self, rank: int) -> Path:
        """Return the arena that holds a copy of a rank of another node."""
        return self.folder / f"{self.prefix}{_REPLICA}.r{rank:04d}"

    def own_arenas(self) -> list[Path]:
        """Return the arenas of this rank: one, or two while one takes the other's place."""
        return [path for path in self.arenas() if path.name.startswith(self.snapshot(self.rank).name)]

    def arenas(self, kinds: tuple[str, ...] = (_SNAPSHOT, _REPLICA)) -> list[Path]:
        """Return all arenas on this node, those of its own ranks first."""
        found = [path for kind in kinds for path in sorted(self.folder.glob(f"{self.prefix}{kind}.r[0-9]*"))]
        return [path for path in found if path.suffix != _DRAFT]

    def snapshots(self) -> list[Path]:
        """Return the arenas that ranks of this node wrote, now or in an earlier generation."""
        return self.arenas((_SNAPSHOT,))

    def drafts(self) -> list[Path]:
        """Return what an earlier process of this rank left unfinished."""
        return sorted(self.folder.glob(f"{self.snapshot(self.rank).name}*{_DRAFT}"))

    def is_replica(self, path: Path) -> bool:
        """Return whether an arena holds a copy."""
        return path.name.startswith(f"{self.prefix}{_REPLICA}.")


def check_memory(need: int, ranks: int) -> None:
    """Raise unless every one of a node's ranks can take so many bytes and training keeps enough.

    Raises:
        CheckpointError: they would take more than half of the memory that is free.
    """
    free = available_memory()
    if need * ranks > free * _MOST:
        raise CheckpointError(
            f"snapshots in memory need {show_bytes(need * ranks)}, the node has {show_bytes(free)} free",
            hint="use nodes with more memory, or do without the memory tier",
        )


def available_memory() -> int:
    """Return the bytes that can still be allocated: on the machine, and in the control groups of this process."""
    return min([_on_machine(), *_in_groups()])


def _on_machine() -> int:
    with Path("/proc/meminfo").open() as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 1 << 62)


def _in_groups() -> list[int]:
    """Return what each level of the hierarchy leaves (cgroup v2); files in the page cache can be given back."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return []
    levels = [_CGROUPS / own, *(_CGROUPS / own).parents]
    return [left for level in levels if level.is_relative_to(_CGROUPS) and (left := _left_in(level)) is not None]


def _left_in(group: Path) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
