"""The process group of one generation, its device, and the memory settings of its process."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from traceback import clear_frames
from typing import TypeVar

import torch

# Its functions have the group of the moment as a default argument: loaded later, they would keep it for ever.
import torch.distributed.nn
from torch import distributed
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from mofang.clock import Clock
from mofang.domain.recipe import DeviceKind
from mofang.domain.strategy import Sharding
from mofang.errors import BackendError, JobFailedError, MofangError
from mofang.recovery.worker import Worker

__all__ = ["Gate", "choose_device", "first_then_all", "joined", "open_store", "peak_memory"]

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=10)  # compiling, or writing a large checkpoint, may hold one rank back for minutes
_POLL_S = 0.1
_LISTENER_S = 5.0
_LISTENER_POLL_S = 0.005
_FIRST_POLL_S = 0.002  # what rank 0 has to do is mostly done already: waiting grows with the time waited


def choose_device(wanted: DeviceKind, worker: Worker, *, threads: int) -> torch.device:
    """Return this worker's device and make it current; on cores it computes with ``threads``.

    Raises:
        BackendError: the plan wants a GPU and torch sees none.
    """
    if wanted is DeviceKind.CPU or (wanted is DeviceKind.AUTO and not torch.cuda.is_available()):
        torch.set_num_threads(threads)
        return torch.device("cpu")
    seen = torch.cuda.device_count()
    if worker.local_rank >= seen:
        raise BackendError(
            f"worker {worker.local_rank} of this node needs a GPU of its own, torch {torch.__version__} sees {seen}",
            hint="install a CUDA build of torch, or plan for fewer workers",
        )
    device = torch.device("cuda", worker.local_rank)
    torch.cuda.set_device(device)
    return device


def open_store(worker: Worker, clock: Clock) -> Store:
    """Return the key-value store of this generation; rank 0 hosts it.

    A single worker outside Mofang keeps it to itself.

    Keys carry the generation, so nothing of a dead one is ever read.
    """
    if worker.world_size == 1 and "MASTER_ADDR" not in os.environ:
        return HashStore()
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    if worker.rank != 0:
        _await_listener(address, port, clock)
    store = TCPStore(
        address,
        port,
        is_master=worker.rank == 0,
        timeout=_TIMEOUT,
        wait_for_workers=False,
    )
    return PrefixStore(f"generation-{worker.generation}", store)


def _await_listener(address: str, port: int, clock: Clock) -> None:
    """Wait until somebody listens: a store that finds nobody tries again only after half a second and more."""
    give_up = clock.monotonic() + _LISTENER_S
    while clock.monotonic() < give_up:
        try:
            socket.create_connection((address, port), timeout=_LISTENER_S).close()
        except OSError:
            clock.sleep(_LISTENER_POLL_S)
        else:
            return


@contextmanager
def joined(sharding: Sharding, worker: Worker, store: Store, device: torch.device) -> Iterator[None]:
    """Be joined with the other workers meanwhile; a single one that shards nothing needs no group.

    When it is left the group is gone, with its threads: one that drops a tensor while the interpreter is torn down
    aborts the process. So nothing that lives longer may hold on to it, a sharded model least of all.
    """
    if worker.world_size == 1 and sharding is not Sharding.FSDP:
        yield
        return
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(
        backend,
        store=store,
        rank=worker.rank,
        world_size=worker.world_size,
        timeout=_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
    except BaseException as error:
        clear_frames(error.__traceback__)  # the model is in them
        raise
    finally:
        distributed.destroy_process_group()
        if sharding is Sharding.FSDP:
            _forget_meshes()


def _forget_meshes() -> None:
    """Let go of sharded models, which are cycles, and of torch's cached layouts: all of them hold the group."""
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache  # noqa: PLC0415 - with FSDP it is loaded

    _clear_sharding_prop_cache()  # type: ignore[no-untyped-call]
    gc.collect()


class Gate:
    """Others wait here, showing signs of life, until rank 0 has done something or failed at it."""

    def __init__(self, store: Store, worker: Worker, clock: Clock, name: str) -> None:
        self._store, self._worker, self._clock = store, worker, clock
        self._done, self._failed = f"{name}/done", f"{name}/failed"

    def open(self) -> None:
        """Let the others through."""
        self._store.set(self._done, "1")

    def fail(self, message: str) -> None:
        """Send the others away."""
        self._store.set(self._failed, message)

    def wait(self) -> None:
        """Wait for rank 0.

        Raises:
            JobFailedError: it failed, or is gone.
        """
        pause = _FIRST_POLL_S
        try:
            while not self._store.check([self._done]):
                if self._store.check([self._failed]):
                    raise JobFailedError(f"rank 0 failed: {self._store.get(self._failed).decode()}")
                self._worker.heartbeat(0)
                self._clock.sleep(pause)
                pause = min(_POLL_S, pause * 1.2)
        except RuntimeError as error:
            raise JobFailedError("rank 0 is gone") from error


def first_then_all(gate: Gate, worker: Worker, action: Callable[[], T]) -> T:
    """Let rank 0 do something and the others do it after, when they find it done.

    Raises:
        JobFailedError: on the others, where rank 0 failed.
    """
    if worker.rank != 0:
        gate.wait()
        return action()
    try:
        done = action()
    except MofangError as error:
        gate.fail(error.message)
        raise
    gate.open()
    return done


def peak_memory(device: torch.device) -> int:
    """Return the most bytes used so far: on the accelerator, or in this process without the files that it maps.

    Pages of files (libraries, data) can be given back and are shared by processes, and shared memory holds snapshots,
    which are there where there is room for them: predictions leave both out too.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - _mapped_pages()


def _mapped_pages() -> int:
    """Return the resident bytes of mapped files and of shared memory (proc(5), RssFile and RssShmem)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssFile:", "RssShmem:")))
