"""Over real sockets: what a client can do that uvicorn alone would wait for, or keep."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from serving.http_protocol import ConnectionLimits, bounded_protocol

LIMITS = ConnectionLimits(
    max_connections=8, max_head_bytes=2000, max_body_bytes=10_000, receive_timeout_s=0.3, send_timeout_s=0.3
)


async def echo_length(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        length += len(message["body"])
        if not message["more_body"]:
            break
    body = b"y" * 4_000_000 if scope["path"] == "/large" else str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Server:
    address: tuple[str, int]
    server: uvicorn.Server

    @property
    def open_connections(self) -> int:
        return len(self.server.server_state.connections)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    config = uvicorn.Config(
        echo_length, http=bounded_protocol(LIMITS), ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Server(listener.getsockname(), running)
        finally:
            running.should_exit = True
            thread.join(10)


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=10) as client:
        yield client


def read_all(client: socket.socket) -> tuple[int | None, dict[str, Any] | bytes]:
    """Status and body of the only answer; (None, b"") where the server closed without one."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            data += chunk
    if not data:
        return None, b""
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    return status, json.loads(body) if b"problem+json" in head else body


def test_whole_requests_pass_one_after_another(server: Server) -> None:
    with connected(server) as client:
        for length in (0, 5, 9000):
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length + b"x" * length)
            answer = client.recv(65536)
            assert answer.endswith(str(length).encode()), answer


@pytest.mark.parametrize(
    "part",
    [
        b"POST / HT",
        b"POST / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n",
    ],
    ids=["request line", "headers", "body", "chunks"],
)
def test_a_request_that_does_not_become_whole_is_answered_408(server: Server, part: bytes) -> None:
    with connected(server) as client:
        started = time.monotonic()
        client.sendall(part)
        status, problem = read_all(client)
        assert status == 408
        assert isinstance(problem, dict)
        assert problem["type"] == "urn:dimflow:problem:too_slow"
        assert time.monotonic() - started < 5


def test_dripping_bytes_does_not_buy_time(server: Server) -> None:
    with connected(server) as client:
        client.settimeout(0.05)
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n")
        deadline = time.monotonic() + 5
        data = b""
        while not data and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                client.sendall(b"a: b\r\n")
                data = client.recv(65536)
        assert b" 408 " in data.split(b"\r\n")[0]


def test_a_connection_that_never_asks_is_closed(server: Server) -> None:
    with connected(server) as client:
        assert read_all(client) == (None, b"")
    with connected(server) as client:
        client.sendall(b"\r\n\r\n")
        assert read_all(client) == (None, b"")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1500 + b"\r\n",
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 1500 + b"\r\n",
    ],
    ids=["long header", "many headers", "long path", "trailers"],
)
def test_a_head_beyond_its_limit_is_431(server: Server, head: bytes) -> None:
    with connected(server) as client:
        client.sendall(head)
        status, problem = read_all(client)
        assert status == 431
        assert isinstance(problem, dict)
        assert "2000" in problem["detail"]


def test_a_header_without_end_is_refused_while_it_comes(server: Server) -> None:
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\na: ")
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while sent < 50_000_000:
                client.sendall(b"b" * 10_000)
                sent += 10_000
        assert sent < 50_000_000


def test_what_is_no_http_is_a_problem_too(server: Server) -> None:
    with connected(server) as client:
        client.sendall(b"hello there\r\n\r\n")
        status, problem = read_all(client)
        assert status == 400
        assert isinstance(problem, dict)
        assert problem["type"] == "urn:dimflow:problem:bad_http"


def test_connections_beyond_the_limit_are_told_so(server: Server, kit: Any) -> None:
    kit.eventually(lambda: server.open_connections == 0, "no connection of an earlier test")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(LIMITS.max_connections)]
        for client in held:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536)
        status, problem = read_all(stack.enter_context(connected(server)))
        assert status == 503
        assert isinstance(problem, dict)
        assert problem["type"] == "urn:dimflow:problem:busy"


def test_a_client_that_does_not_read_is_cut_off(server: Server, kit: Any) -> None:
    kit.eventually(lambda: server.open_connections == 0, "no connection of an earlier test")
    with connected(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n" * 10)
        kit.eventually(lambda: server.open_connections == 1, "it is connected")
        kit.eventually(lambda: server.open_connections == 0, "it is cut off")
