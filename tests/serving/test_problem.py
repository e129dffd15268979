import asyncio
from typing import Any

import msgspec

from serving.errors import HttpProblem
from serving.problem import problem_document, problem_headers, send_problem


def test_the_document_has_the_standard_members() -> None:
    document = msgspec.json.decode(problem_document(HttpProblem(422, "invalid_request", "why", pointer="/instances/3")))

    assert document == {
        "type": "urn:dimflow:problem:invalid_request",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "why",
        "pointer": "/instances/3",
    }
    assert "pointer" not in msgspec.json.decode(problem_document(HttpProblem(503, "busy", "why")))


def test_headers_carry_when_to_retry_and_what_is_allowed() -> None:
    headers = dict(problem_headers(HttpProblem(503, "busy", "why", retry_after_s=3), 10))
    assert headers[b"content-type"] == b"application/problem+json"
    assert (headers[b"retry-after"], headers[b"content-length"]) == (b"3", b"10")
    assert dict(problem_headers(HttpProblem(405, "x", "why", allow="POST"), 1))[b"allow"] == b"POST"


def test_an_unread_body_is_thrown_away_before_the_connection_closes() -> None:
    order: list[str] = []
    chunks = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, True, False)]

    async def send(message: Any) -> None:
        order.append(f"{message['type']} {message.get('more_body')}")

    async def receive() -> Any:
        order.append("receive")
        return chunks.pop(0)

    asyncio.run(send_problem(send, HttpProblem(413, "body_too_large", "why"), receive))

    assert order[:2] == ["http.response.start None", "http.response.body True"]
    assert order[2:] == ["receive"] * 3 + ["http.response.body False"]


def test_a_client_that_never_stops_is_not_waited_for_long() -> None:
    async def send(_message: Any) -> None:
        pass

    async def receive() -> Any:
        await asyncio.Event().wait()

    asyncio.run(asyncio.wait_for(send_problem(send, HttpProblem(413, "body_too_large", "why"), receive), 5))
