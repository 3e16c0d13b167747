"""The nodes of the local backend: looked at now and then, remembered in between."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mofang.backends.local.hosts import HostEntry, behind, own_domain
from mofang.backends.local.inventory import Inventory, inventory_from_text, take_inventory
from mofang.clock import Clock
from mofang.domain.hardware import Node, NodeState

__all__ = ["CLUSTER", "LocalNodes"]

CLUSTER = "local"
_LOCAL_S = 3.0
_HOST_S = 20.0
_TIMEOUT_S = 15.0


class LocalNodes:
    """This machine and the hosts, as they were when last looked at.

    Args:
        home: whose disk counts.
        hosts: the extra hosts.
        clock: the time.
    """

    def __init__(self, home: Path, hosts: Sequence[HostEntry], clock: Clock) -> None:
        self._home, self._hosts, self._clock = home, tuple(hosts), clock
        self._local: Node | None = None
        self._local_at = self._hosts_at = float("-inf")
        self._others: dict[str, Node] = {}

    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes; a host that does not answer is down, with the devices it had."""
        now = self._clock.monotonic()
        if self._local is None or now - self._local_at > _LOCAL_S:
            self._local_at = now
            entry = HostEntry(
                name=socket.gethostname(),
                address=_own_address(self._hosts),
                prefix=(),
                domain=own_domain(self._home),
            )
            self._local = _node(entry, take_inventory(self._home))
        if self._hosts and now - self._hosts_at > _HOST_S:
            self._hosts_at = now
            self._look_at_hosts()
        return (self._local, *(self._others[entry.name] for entry in self._hosts))

    def _look_at_hosts(self) -> None:
        with ThreadPoolExecutor(max_workers=min(16, len(self._hosts))) as pool:
            found = pool.map(lambda entry: _ask(entry, self._home), self._hosts)
        for entry, inventory in zip(self._hosts, found, strict=True):
            if inventory is not None:
                self._others[entry.name] = _node(entry, inventory)
            else:
                self._others[entry.name] = _down(entry, self._others.get(entry.name))


def _own_address(hosts: Sequence[HostEntry]) -> str:
    """Return the address that the hosts reach this machine at; nothing is sent to find it."""
    for entry in hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.connect((entry.address, 9))
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def _ask(entry: HostEntry, home: Path) -> Inventory | None:
    argv = [sys.executable, "-P", "-m", "mofang.backends.local.inventory", str(home)]
    try:
        answer = subprocess.run(
            behind(entry.prefix, argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return inventory_from_text(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _node(entry: HostEntry, inventory: Inventory) -> Node:
    labels = {"host": inventory.host}
    if inventory.problems:
        labels["problems"] = "; ".join(inventory.problems)
    return Node(
        name=entry.name,
        cluster=CLUSTER,
        devices=inventory.devices,
        cores=inventory.cores,
        memory_bytes=inventory.memory_bytes,
        disk_free_bytes=inventory.disk_free_bytes,
        address=entry.address,
        prefix=entry.prefix,
        domain=entry.domain,
        labels=labels,
    )


def _down(entry: HostEntry, before: Node | None) -> Node:
    return Node(
        name=entry.name,
        cluster=CLUSTER,
        devices=before.devices if before is not None else (),
        cores=before.cores if before is not None else 0,
        memory_bytes=before.memory_bytes if before is not None else 0,
        address=entry.address,
        prefix=entry.prefix,
        domain=entry.domain,
        state=NodeState.DOWN,
    )
