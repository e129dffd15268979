"""uvicorn's HTTP connection with bounds: on a request's head, on its time, on unread answers, on connections.

Knows no route. uvicorn itself waits for ever for the end of a head or body, keeps a head of any length, and leaves a
client that never reads its answers connected. Invariant: a request that is whole with its first packet, as nearly all
are, starts no timer here.
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import HttpProblem
from serving.problem import problem_document, problem_headers

__all__ = ["ConnectionLimits", "bounded_protocol"]

_OVERHEAD = 8  # chunks of one byte take six bytes each on the wire


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one connection, and of their number.

    Attributes:
        max_connections: open at one time.
        max_head_bytes: of request line, headers and trailers.
        max_body_bytes: of a body; here it only bounds the bytes on the wire, loosely.
        receive_timeout_s: for one request to arrive.
        send_timeout_s: for a client to read on once its answers pile up.
    """

    max_connections: int
    max_head_bytes: int
    max_body_bytes: int
    receive_timeout_s: float
    send_timeout_s: float


class _HeadTooLarge(Exception):
    """Raised through the parser, which gives up on the connection then."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection; see the module."""

    limits: ClassVar[ConnectionLimits]

    _receive_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _in_request = False  # between the first byte of a request and its last
    _in_head = False
    _request_bytes = 0  # received for a request that did not end with the packet it began in
    _head_bytes = 0  # of the headers parsed so far
    _head_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, or refuses it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            detail = f"{len(self.connections)} connections: at most {self.limits.max_connections}"
            self._refuse(HttpProblem(503, "busy", detail, retry_after_s=1))
            return
        self._start_receive_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        self._stop_receive_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses, and starts or stops the clock by whether a request is still incomplete after it."""
        went_on = self._in_request
        super().data_received(data)
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if self._receive_timer is None and (self._in_request or idle):  # idle: empty lines, which begin no request
            self._start_receive_timer()
        if went_on and self._in_request:
            self._request_bytes += len(data)
            self._check_request_bytes()

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._in_request = self._in_head = True
        self._request_bytes = self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header or trailer."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_request = False
        self._stop_receive_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        super().pause_writing()
        self._stop_send_timer()
        self._send_timer = self.loop.call_later(self.limits.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_send_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        if self._head_refused:
            self._refuse(self._head_too_large())
        else:
            self._refuse(HttpProblem(400, "bad_http", msg))

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self.limits.max_head_bytes:
            self._head_refused = True
            raise _HeadTooLarge

    def _check_request_bytes(self) -> None:
        most = self.limits.max_head_bytes
        if not self._in_head:
            most += _OVERHEAD * self.limits.max_body_bytes
        if self._request_bytes > most:
            detail = f"request of more than {most} bytes on the wire"
            self._refuse(self._head_too_large() if self._in_head else HttpProblem(413, "body_too_large", detail))

    def _head_too_large(self) -> HttpProblem:
        detail = f"request line and headers of more than {self.limits.max_head_bytes} bytes"
        return HttpProblem(431, "head_too_large", detail)

    def _start_receive_timer(self) -> None:
        self._receive_timer = self.loop.call_later(self.limits.receive_timeout_s, self._receive_late)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _receive_late(self) -> None:
        self._receive_timer = None
        if self._in_request:
            detail = f"the request was not whole after {self.limits.receive_timeout_s} s"
            self._refuse(HttpProblem(408, "too_slow", detail))
        else:
            self.transport.close()  # a new connection that never asked for anything

    def _refuse(self, problem: HttpProblem) -> None:
        """Answers below the application and closes; a response that has begun is cut off."""
        self._stop_receive_timer()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started or self._in_head:  # another request's answer would be torn in two
                self.cycle.keep_alive = False
                if self.cycle.response_started:
                    self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = problem_document(problem)
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in problem_headers(problem, len(body))]
        self.transport.write(b"\r\n".join([*lines, b"connection: close", b"", body]))
        self.transport.close()


def bounded_protocol(bounds: ConnectionLimits) -> type[BoundedHttpProtocol]:
    """The protocol class with these limits, to be handed to uvicorn."""

    class Protocol(BoundedHttpProtocol):
        limits = bounds

    return Protocol
