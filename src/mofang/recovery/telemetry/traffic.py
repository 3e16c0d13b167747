"""Disks and networks: how long a transfer takes, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mofang.recovery.telemetry.probe import Place
from mofang.recovery.telemetry.reading import Rate, text_in

__all__ = ["TrafficProbe"]

_DISK = re.compile(r"(sd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+)")  # whole disks, not their parts
_NO_WIRE = ("lo", "veth", "docker", "br-", "virbr")


class TrafficProbe:
    """Columns ``disk.latency_s`` (mean of the transfers since the last sample), ``disk.errors``, ``network.*``.

    Errors and drops count since the machine started (Documentation/admin-guide/iostats.rst, proc(5)).
    """

    def __init__(self, place: Place) -> None:
        self._proc, self._sys = place.proc, place.sys
        self._transfers = Rate()
        self._errors = sorted(self._sys.glob("block/*/device/ioerr_cnt"))

    def sample(self) -> Mapping[str, float]:
        """Return what the disks and networks do now."""
        found = {}
        rows = (line.split() for line in text_in(self._proc / "diskstats").splitlines())
        disks = [words for words in rows if len(words) > 10 and _DISK.fullmatch(words[2])]
        if disks:
            done = sum(float(words[3]) + float(words[7]) for words in disks)
            spent = sum(float(words[6]) + float(words[10]) for words in disks)
            grown = self._transfers.step((done, spent))
            if grown is not None:
                found["disk.latency_s"] = grown[1] / 1000.0 / grown[0] if grown[0] else 0.0
        if self._errors:
            found["disk.errors"] = float(sum(_hexadecimal(text_in(path)) for path in self._errors))
        return {**found, **self._network()}

    def _network(self) -> dict[str, float]:
        rows = (line.replace(":", " ").split() for line in text_in(self._proc / "net/dev").splitlines()[2:])
        wires = [words for words in rows if len(words) >= 17 and not words[0].startswith(_NO_WIRE)]
        if not wires:
            return {}
        errors, drops = (sum(float(words[at]) + float(words[at + 8]) for words in wires) for at in (3, 4))
        return {"network.errors": errors, "network.drops": drops}


def _hexadecimal(text: str) -> int:
    try:
        return int(text.strip() or "0", 16)
    except ValueError:
        return 0
