"""Versions over HTTP: GET /versions, POST /rollback, /pin and /unpin, behind the API key.

Knows no Redis beyond `VersionPins`. Invariants: without a key the paths are not there; the key is compared in constant
time, and stands in no answer, log line or error; nothing here runs on the event loop, and no request for a
prediction waits for it.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from serving.errors import HttpProblem, VersionRefused, VersionsUnavailable
from serving.request_body import BodyReader
from serving.version_pins import VersionPins, describe_pin

__all__ = ["add_version_paths"]

_BODY_BYTES = 4096
_BODIES_BYTES = 16 * _BODY_BYTES
_SCHEME = "bearer"

T = TypeVar("T")


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an order; every part may be left out, where the path does not need it."""

    version: str | None = None
    by: str = ""


def add_version_paths(app: FastAPI, pins: VersionPins, api_key: str) -> None:
    """Adds the four paths; `api_key` is what they ask for, not empty."""
    expected = _digest(api_key.encode())
    bodies = BodyReader(_BODY_BYTES, _BODIES_BYTES)

    def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != _SCHEME or not given:
            raise HttpProblem(401, "no_key", "no key: expected the header authorization: Bearer KEY")
        if not hmac.compare_digest(_digest(given.strip().encode("latin-1")), expected):
            raise HttpProblem(403, "wrong_key", "the key is not this server's")

    async def order(request: Request) -> Order:
        headers = request.headers
        empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        body = b"{}" if empty else await bodies.read(request.scope, request.receive)
        try:
            given = msgspec.json.decode(body, type=Order)
        except msgspec.DecodeError as error:
            raise HttpProblem(422, "invalid_request", str(error), pointer="") from error
        given.by = given.by or f"HTTP from {request.client.host if request.client else 'somewhere'}"
        return given

    async def pinned(given: Order) -> Response:
        return _answer({"pinned": describe_pin(await _asked(lambda: pins.pin(given.version, given.by)))})

    @app.get("/versions", summary="Versions that can be pinned, the pin, and why the trainer holds back, if it does")
    async def versions(request: Request) -> Response:
        check(request)
        return _answer((await _asked(pins.versions)).report())

    @app.post("/rollback", summary="All servers serve this version, and stay there until /unpin")
    async def rollback(request: Request) -> Response:
        check(request)
        given = await order(request)
        if given.version is None:
            raise HttpProblem(422, "invalid_request", "no version: expected one of /versions", pointer="/version")
        return await pinned(given)

    @app.post("/pin", summary="The same; without a version, all servers serve the newest base")
    async def pin(request: Request) -> Response:
        check(request)
        return await pinned(await order(request))

    @app.post("/unpin", summary="All servers follow the trainer again")
    async def unpin(request: Request) -> Response:
        check(request)
        await order(request)
        await _asked(pins.unpin)
        return _answer({"pinned": None})


def _digest(key: bytes) -> bytes:
    """Of one length whatever the key's: comparing two tells nothing of either."""
    return hashlib.sha256(key).digest()


async def _asked(work: Callable[[], T]) -> T:
    try:
        return await run_in_threadpool(work)
    except VersionRefused as error:
        raise HttpProblem(422, "unknown_version", str(error), pointer="/version") from error
    except VersionsUnavailable as error:
        raise HttpProblem(503, "no_versions", str(error), retry_after_s=1) from error


def _answer(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json", headers={"cache-control": "no-store"})
