"""From a configuration to a service that answers until it is told to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from mofang.clock import Clock
from mofang.domain.events import EventKind
from mofang.domain.recipe import DeviceKind, ServingConfig
from mofang.errors import BackendError, MofangError, SpecError
from mofang.recipes.serving.engine import Engine
from mofang.recipes.serving.folder import load_model, load_tokenizer
from mofang.recipes.serving.meter import Meter, Pulse, Traffic
from mofang.recipes.serving.server import Service, make_server
from mofang.recovery.worker import Worker

__all__ = ["TOKEN", "serve"]

TOKEN = "MOFANG_SERVICE_TOKEN"  # noqa: S105 - the name of a variable
_BEAT_S = 1.0
_TELL_S = 5.0  # between reports at first; later ones come less often
_TELL_MOST_S = 60.0
_DRAIN_S = 8.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def serve(config: ServingConfig, worker: Worker, clock: Clock) -> None:
    """Serve as this worker until SIGTERM, then let requests in flight finish.

    Raises:
        MofangError: with one clear line: no such folder, no free port, an address without a token.
    """
    token = os.environ.get(TOKEN) or None
    if config.host not in _LOOPBACK and token is None:
        raise SpecError(
            f"{config.host} can be reached by others, and no token is set",
            hint=f"name a secret {TOKEN} in the job's environment, or listen on 127.0.0.1",
        )
    folder = Path(config.model_path)
    _tell(worker, EventKind.PHASE, name="load", done=0, total=0, detail=str(folder))
    tokenizer = load_tokenizer(folder) if folder.is_dir() else None
    model = load_model(folder, config.precision, _device(config, worker))
    meter = Meter(clock)
    with Engine(model, config, meter, clock) as engine:
        service = Service(
            engine=engine, tokenizer=tokenizer or load_tokenizer(folder), meter=meter, name=config.name, token=token
        )
        _run(_listen(service, config, worker), service, worker, clock)


def _listen(service: Service, config: ServingConfig, worker: Worker) -> ThreadingHTTPServer:
    """Return the server at the wanted port, else at the one it had before a restart, else at any."""
    if config.port:
        return make_server(service, config.host, config.port + worker.rank)
    record = worker.attempt_dir.parent / f"port-{worker.rank:04d}" if worker.attempt_dir is not None else None
    with suppress(OSError, ValueError, MofangError):
        if record is not None:
            return make_server(service, config.host, int(record.read_text(encoding="ascii")))
    server = make_server(service, config.host, 0)
    with suppress(OSError):
        if record is not None:
            record.write_text(str(server.server_address[1]), encoding="ascii")
    return server


def _device(config: ServingConfig, worker: Worker) -> torch.device:
    if config.device is DeviceKind.CPU or not torch.cuda.is_available():
        if config.device is DeviceKind.CUDA:
            raise BackendError("no GPU is visible to this worker", hint="`mofang doctor` shows the devices")
        return torch.device("cpu")
    return torch.device("cuda", worker.local_rank % torch.cuda.device_count())


def _run(server: ThreadingHTTPServer, service: Service, worker: Worker, clock: Clock) -> None:
    meter, engine = service.meter, service.engine
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    host, port = str(server.server_address[0]), int(server.server_address[1])
    _tell(worker, EventKind.SERVING, url=f"http://{host}:{port}", model=service.name)
    start = told = clock.monotonic()
    before, pulse = meter.read(), Pulse()
    pause = _TELL_S
    while not ending.wait(_BEAT_S):
        if not engine.alive:
            raise BackendError("decoding ended unexpectedly", hint="the log above says why")
        now, traffic = clock.monotonic(), meter.read()
        if pulse.beats(traffic):
            # The time stands where a training has its step: two failures far apart are not the same one again.
            worker.heartbeat(int(clock.now()))
        if now - told >= pause and traffic != before:
            _tell(worker, EventKind.TRAFFIC, **_rates(before, traffic, now - told))
            told, before, pause = now, traffic, min(2.0 * pause, _TELL_MOST_S)
    server.shutdown()
    _drain(meter, worker, clock)
    last = meter.read()
    seconds = clock.monotonic() - start
    _tell(worker, EventKind.TRAFFIC, **_rates(before, last, max(clock.monotonic() - told, 1e-9)))
    _tell(worker, EventKind.RESULT, requests=last.requests, tokens=last.output_tokens, seconds=seconds)


def _drain(meter: Meter, worker: Worker, clock: Clock) -> None:
    """Wait a while for the requests in flight."""
    start = clock.monotonic()
    while meter.read().running and clock.monotonic() - start < _DRAIN_S:
        worker.heartbeat(int(clock.now()))
        clock.sleep(0.05)


def _rates(before: Traffic, after: Traffic, seconds: float) -> dict[str, Any]:
    made = after.output_tokens - before.output_tokens
    return {**asdict(after), "tokens_per_s": made / seconds}


def _tell(worker: Worker, kind: EventKind, **data: Any) -> None:
    worker.emit(kind, **data)
    sys.stdout.write(f"{kind} {data}\n")
    sys.stdout.flush()
