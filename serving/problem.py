"""A request that failed, as an `application/problem+json` document (RFC 9457).

Knows no route and no framework beyond ASGI's messages. Invariant: whatever goes wrong, a client gets this one shape:
type, title, status, detail, and a pointer into its body where there is one.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.types import Receive, Send

from serving.errors import HttpProblem

__all__ = ["PROBLEM_TYPE", "problem_document", "problem_headers", "send_problem"]

PROBLEM_TYPE = "application/problem+json"

_LINGER_S = 1.0


def problem_document(problem: HttpProblem) -> bytes:
    """The JSON body."""
    document: dict[str, Any] = {
        "type": f"urn:dimflow:problem:{problem.kind}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.pointer is not None:
        document["pointer"] = problem.pointer
    return msgspec.json.encode(document)


def problem_headers(problem: HttpProblem, length: int) -> list[tuple[bytes, bytes]]:
    """Response headers for a body of `length` bytes."""
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(length).encode()),
        (b"cache-control", b"no-store"),
    ]
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", str(problem.retry_after_s).encode()))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.allow is not None:
        headers.append((b"allow", problem.allow.encode()))
    return headers


async def send_problem(send: Send, problem: HttpProblem, unread: Receive | None = None) -> None:
    """Answers with the document.

    Args:
        send: of the request.
        problem: what went wrong.
        unread: `receive` of a request whose body was not read to its end. The connection is closed then, but what the
            client is still sending is thrown away for a moment first: closed at once, it would be cut off by a reset
            before it could read why.
    """
    body = problem_document(problem)
    headers = problem_headers(problem, len(body))
    if unread is not None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": unread is not None})
    if unread is not None:
        await _discard(unread)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return
