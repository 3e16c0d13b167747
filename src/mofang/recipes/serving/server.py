"""HTTP: the completions of OpenAI's API, health, and metrics for Prometheus."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tokenizers import Tokenizer

from mofang.clock import new_token
from mofang.errors import MofangError, SpecError
from mofang.recipes.serving.engine import Engine, Request
from mofang.recipes.serving.meter import Meter

__all__ = ["Service", "make_server"]

_LARGEST = 8 << 20  # bytes of one request's body


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a handler answers with."""

    engine: Engine
    tokenizer: Tokenizer
    meter: Meter
    name: str
    token: str | None  # None: anyone who reaches the address may ask


def make_server(service: Service, host: str, port: int) -> ThreadingHTTPServer:
    """Return the server, bound and not yet serving.

    Raises:
        SpecError: the address cannot be had.
    """
    handler = type("Handler", (_Handler,), {"service": service})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise SpecError(f"{host}:{port} cannot be listened on: {error.strerror}", hint="choose another port") from error
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    service: Service
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: prompts are nobody's business, counts are in the metrics."""

    def do_GET(self) -> None:
        """Answer health, models and metrics."""
        if self.path == "/health":
            alive = self.service.engine.alive
            self._json({"status": "ok" if alive else "failed"}, HTTPStatus.OK if alive else _UNAVAILABLE)
        elif self.path == "/metrics":
            self._send(_metrics(self.service.meter).encode(), "text/plain; version=0.0.4")
        elif self.path == "/v1/models":
            self._json({"object": "list", "data": [{"id": self.service.name, "object": "model"}]})
        else:
            self._refuse(f"there is nothing at {self.path}", HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Answer ``/v1/completions``."""
        if self.path != "/v1/completions":
            self._refuse(f"there is nothing at {self.path}", HTTPStatus.NOT_FOUND)
        elif not self._known():
            self._refuse("a token is needed: Authorization: Bearer ...", HTTPStatus.UNAUTHORIZED)
        else:
            try:
                self._complete(self._body())
            except MofangError as error:
                self._refuse(error.message, HTTPStatus.BAD_REQUEST)
            except RuntimeError as error:
                self._refuse(str(error), HTTPStatus.INTERNAL_SERVER_ERROR)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client left

    def _known(self) -> bool:
        token = self.service.token
        return token is None or hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {token}")

    def _body(self) -> dict[str, Any]:
        size = self.headers.get("Content-Length", "")
        if not size.isdigit() or int(size) > _LARGEST:
            self.close_connection = True
            raise SpecError(f"a body of 1 to {_LARGEST} bytes is needed, with its Content-Length")
        try:
            data = json.loads(self.rfile.read(int(size)))
        except ValueError as error:
            raise SpecError(f"the body is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise SpecError("the body must be an object with a prompt")
        return data

    def _complete(self, data: dict[str, Any]) -> None:
        request = _request(data, self.service.tokenizer)
        self.service.engine.check(request)
        name = f"cmpl-{new_token()}"
        if data.get("stream"):
            self._stream(name, request)
            return
        tokens = [token for fresh in self.service.engine.stream(request) for token in fresh]
        usage = {"prompt_tokens": len(request.tokens), "completion_tokens": len(tokens)}
        reason = "length" if len(tokens) >= request.max_tokens else "stop"
        self._json({**self._piece(name, self.service.tokenizer.decode(tokens), reason), "usage": usage})

    def _piece(self, name: str, text: str, reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "finish_reason": reason}
        return {"id": name, "object": "text_completion", "model": self.service.name, "choices": [choice]}

    def _stream(self, name: str, request: Request) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        count = 0
        for number, text in _texts(self.service, request):
            count += number
            self._event(json.dumps(self._piece(name, text, None)))
        self._event(json.dumps(self._piece(name, "", "length" if count >= request.max_tokens else "stop")))
        self._event("[DONE]")

    def _event(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def _refuse(self, message: str, status: HTTPStatus) -> None:
        self._json({"error": {"message": message, "type": status.phrase}}, status)

    def _json(self, data: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(data).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


def _texts(service: Service, request: Request) -> Iterator[tuple[int, str]]:
    """Yield how many tokens came and the text they add; half a character waits for its other half."""
    tokens: list[int] = []
    shown = 0
    for fresh in service.engine.stream(request):
        tokens += fresh
        text = service.tokenizer.decode(tokens)
        whole = len(text) if not text.endswith("\N{REPLACEMENT CHARACTER}") else shown
        yield len(fresh), text[shown:whole]
        shown = max(shown, whole)


def _request(data: dict[str, Any], tokenizer: Tokenizer) -> Request:
    """Return the request in a body of OpenAI's API.

    Raises:
        SpecError: a field is wrong.
    """
    prompt = data.get("prompt")
    if isinstance(prompt, str):
        tokens = tuple(tokenizer.encode(prompt).ids)
    elif isinstance(prompt, list) and all(type(token) is int and token >= 0 for token in prompt):
        tokens = tuple(prompt)
        if any(token >= tokenizer.get_vocab_size() for token in tokens):
            raise SpecError(f"prompt has a token beyond the vocabulary of {tokenizer.get_vocab_size()}")
    else:
        raise SpecError("prompt must be text, or a list of tokens")
    return Request(
        tokens=tokens,
        max_tokens=int(_number(data, "max_tokens", 16, 1, 1e6)),
        temperature=_number(data, "temperature", 0.0, 0.0, 10.0),
        top_p=_number(data, "top_p", 1.0, 1e-6, 1.0),
    )


def _number(data: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise SpecError(f"{name} must be a number from {least:g} to {most:g}, not {json.dumps(value)[:40]}")
    return float(value)


def _metrics(meter: Meter) -> str:
    """Return the counts in Prometheus' text format."""
    kinds = {"running": "gauge", "ttft_s": "gauge", "tpot_s": "gauge"}
    lines = []
    for name, value in asdict(meter.read()).items():
        if value is not None:
            kind = kinds.get(name, "counter")
            full = f"mofang_serving_{name}" + ("_total" if kind == "counter" else "")
            lines += [f"# TYPE {full} {kind}", f"{full} {value:.12g}"]
    return "\n".join(lines) + "\n"
