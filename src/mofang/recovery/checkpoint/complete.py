"""A draft in which every rank has committed becomes a checkpoint. Rank 0's work; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts, records
from mofang.recovery.checkpoint.manifest import assemble

__all__ = ["complete"]


def complete(directory: Path, draft: Path, *, step: int, world_size: int, scalars: Mapping[str, Any], keep: int) -> int:
    """Write the manifest of a draft, give it its name, move ``latest`` and let go of old steps.

    Returns:
        The size of all shards in bytes.

    Raises:
        CheckpointError: the ranks' parts do not make a whole.
        OSError: it could not be written.
    """
    manifest = assemble(parts.read_commits(draft, world_size), scalars)
    if manifest.step != step:
        raise CheckpointError(f"the ranks committed step {manifest.step}, not {step}")
    for shard in manifest.shards:
        if (draft / shard.file).stat().st_size != shard.bytes:
            raise CheckpointError(f"{shard.file} is torn")
    records.write_manifest(draft / "manifest.json", manifest)
    files.publish(draft, directory, step)
    files.retain(directory, step, keep)
    return manifest.bytes
