"""Requests in, tokens out: transformers' continuous batching over a paged key-value cache (arXiv:2309.06180)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from mofang.clock import Clock, new_token
from mofang.domain.recipe import ServingConfig
from mofang.errors import SpecError
from mofang.recipes.serving.meter import Meter

__all__ = ["Engine", "Request"]

_PAGE = 32  # tokens of one page of the cache
_BATCH_TOKENS = 512  # tokens that one forward pass computes at most: prompts are cut into such chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one completion asks for; ``temperature`` 0 always takes the likeliest token."""

    tokens: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Engine:
    """Decodes many requests together. Enter it to start its thread, leave it to stop."""

    def __init__(self, model: Any, config: ServingConfig, meter: Meter, clock: Clock) -> None:
        self._config, self._meter, self._clock = config, meter, clock
        stop = model.generation_config.eos_token_id if model.generation_config is not None else None
        # Values other than the neutral ones make transformers build the processors that requests may then set.
        sampling = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True, temperature=0.7, top_k=50, top_p=0.95, eos_token_id=-1 if stop is None else stop
        )
        batching = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=max(2, -(-config.kv_tokens // _PAGE)),
            max_batch_tokens=max(_BATCH_TOKENS, config.concurrency),
            max_requests_per_batch=config.concurrency,
            per_request_processors=True,
            seed=config.seed,
        )
        self._inboxes: dict[str, queue.SimpleQueue[Any]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._sorter = threading.Thread(target=self._sort, name="results", daemon=True)
        self._stop_tokens = {stop} if isinstance(stop, int) else set(stop or ())
        self._manager: Any = model.init_continuous_batching(
            generation_config=sampling, continuous_batching_config=batching
        )

    def __enter__(self) -> Self:
        """Start decoding in a thread of its own."""
        self._manager.start()
        self._sorter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; requests in flight end where they are."""
        self._ending.set()
        self._sorter.join()
        self._manager.stop(block=True, timeout=10)

    def _sort(self) -> None:
        """Hand every result to whom it belongs, in order; the manager has one queue for all requests."""
        while not self._ending.is_set():
            output = self._manager.get_result(timeout=0.1)
            if output is None:
                if not self.alive:
                    break
                continue
            with self._lock:
                inbox = self._inboxes.get(output.request_id)
            if inbox is not None:
                inbox.put(output)
        with self._lock:
            for inbox in self._inboxes.values():
                inbox.put(None)

    @property
    def alive(self) -> bool:
        """Whether the decoding thread still runs."""
        return bool(self._manager.is_running())

    def check(self, request: Request) -> None:
        """Raise ``SpecError`` where the request can never be answered."""
        most = min(self._config.max_sequence, self._config.kv_tokens)
        if not request.tokens:
            raise SpecError("the prompt is empty", hint="send a prompt of at least one token")
        if request.max_tokens < 1:
            raise SpecError(f"max_tokens must be at least 1, not {request.max_tokens}")
        if len(request.tokens) + request.max_tokens > most:
            raise SpecError(
                f"{len(request.tokens)} prompt tokens and {request.max_tokens} new ones exceed the {most} allowed",
                hint="shorten the prompt or lower max_tokens",
            )

    def stream(self, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the new tokens as they come, without the one that ends the text.

        Raises:
            SpecError: the request can never be answered.
            RuntimeError: decoding failed.
        """
        self.check(request)
        ticket = self._meter.arrived(len(request.tokens))
        sampling = {"temperature": request.temperature, "top_k": 0, "top_p": request.top_p}
        greedy = {"temperature": 1.0, "top_k": 1, "top_p": 1.0}
        name, inbox = new_token(), queue.SimpleQueue[Any]()
        with self._lock:
            self._inboxes[name] = inbox
        self._manager.add_request(
            list(request.tokens),
            request_id=name,
            max_new_tokens=request.max_tokens,
            streaming=True,
            **(sampling if request.temperature > 0 else greedy),
        )
        seen = 0
        try:
            while not ticket.done:
                output = inbox.get()
                if output is None or output.error:
                    raise RuntimeError(output.error if output is not None else "the service is ending")
                fresh = tuple(output.generated_tokens[seen:])
                seen = len(output.generated_tokens)
                ticket.tokens(len(fresh))
                if fresh and fresh[-1] in self._stop_tokens:
                    fresh = fresh[:-1]
                if output.is_finished():
                    ticket.finished()
                if fresh:
                    yield fresh
        finally:
            with self._lock:
                del self._inboxes[name]
            if not ticket.done:  # the client left, or decoding failed
                ticket.failed()
                self._manager.cancel_request(name)
