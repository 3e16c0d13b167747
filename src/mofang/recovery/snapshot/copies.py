"""How tensors get into a slot: from the host's memory at once, from accelerators on a stream of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mofang.errors import CheckpointError
from mofang.recovery.snapshot.arena import SLOTS, Arena

__all__ = ["Copies", "copies_for"]


class Copies(Protocol):
    """Copies from tensors to the views of a slot."""

    def start(self, views: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """Begin; whatever changes the sources later, on this thread's stream, must call ``guard`` first."""

    def guard(self) -> None:
        """Let the stream of this thread wait until the sources may be changed; the thread itself goes on."""

    def wait(self) -> None:
        """Wait until every byte is there; the interpreter's lock is free meanwhile."""

    def close(self) -> None:
        """Let go of the arena's memory."""


class _HostCopies:
    """Done when ``start`` returns."""

    @torch.no_grad()
    def start(self, views: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(views), list(sources))

    def guard(self) -> None:
        return

    def wait(self) -> None:
        return

    def close(self) -> None:
        return


class _DeviceCopies:
    """The arena is registered as pinned memory, so the device's copy engine fills it while kernels go on.

    https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html (cudaHostRegister)
    """

    def __init__(self, arena: Arena, device: torch.device) -> None:
        self._runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        self._addresses: list[int] = []
        self._device = device
        for index in range(SLOTS):
            self._register(arena.slot(index))
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _register(self, slot: memoryview) -> None:
        address = torch.frombuffer(slot, dtype=torch.uint8).data_ptr()
        code = int(self._runtime.cudaHostRegister(address, len(slot), 0))
        if code != 0:
            self.close()
            raise CheckpointError(
                f"shared memory cannot be pinned for copies from the GPU (cudaHostRegister: {code})",
                hint="raise the limit of locked memory (ulimit -l), or do without the memory tier",
            )
        self._addresses.append(address)

    @torch.no_grad()
    def start(self, views: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(list(views), list(sources), non_blocking=True)
            self._done.record(self._stream)
        for source in sources:
            if source.is_cuda:
                source.record_stream(self._stream)  # its memory is not given to others before the copy is done

    def guard(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._done)

    def wait(self) -> None:
        self._done.synchronize()

    def close(self) -> None:
        for address in self._addresses:
            self._runtime.cudaHostUnregister(address)
        self._addresses.clear()


def copies_for(arena: Arena, device: torch.device | None) -> Copies:
    """Return what copies tensors into an arena, from the host and from an accelerator where one is given.

    Raises:
        CheckpointError: the arena cannot be pinned.
    """
    return _DeviceCopies(arena, device) if device is not None else _HostCopies()
