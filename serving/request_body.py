"""Reads the body of a JSON request into memory, never more of it than allowed.

Knows no route and no JSON. Invariant: a body is refused by its announced length before a byte of it is read, and a
chunked one as soon as it outgrows the limit; all bodies being read together never hold more than their budget. How
long a client may take is bounded by `http_protocol`.
"""

from starlette.types import Receive, Scope

from serving.errors import ClientGone, HttpProblem

__all__ = ["BodyReader"]


class BodyReader:
    """Reads bodies for one server; for one event loop.

    Args:
        max_bytes: of one body.
        max_buffered_bytes: of all bodies that are being read.
    """

    def __init__(self, max_bytes: int, max_buffered_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._buffered_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of bodies that are not complete yet."""
        return self._buffered_bytes

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            HttpProblem: 415 for anything but plain JSON, 413 for a body beyond the limit, 503 where all bodies
                together are beyond theirs. The body is not read to its end then.
            ClientGone: the client went away before the end.
        """
        self._check_headers(scope)
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            return await self._read_on(body, receive)
        if len(body) > self._max_bytes:
            raise self._too_large(len(body))
        return body

    def _check_headers(self, scope: Scope) -> None:
        content_type = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length" and int(value) > self._max_bytes:
                raise self._too_large(int(value))
            elif name == b"content-encoding" and value.lower() != b"identity":
                seen = value.decode("latin-1")
                raise HttpProblem(415, "content_encoding", f"content-encoding {seen!r}: expected none")
        if content_type != b"application/json" and not _is_json(content_type):
            seen = content_type.decode("latin-1")
            raise HttpProblem(415, "content_type", f"content-type {seen!r}: expected 'application/json'")

    async def _read_on(self, first: bytes, receive: Receive) -> bytes:
        parts = [first]
        held = 0
        try:
            more = True
            while True:
                held += len(parts[-1])
                self._buffered_bytes += len(parts[-1])
                if held > self._max_bytes:
                    raise self._too_large(held)
                if self._buffered_bytes > self._max_buffered_bytes:
                    detail = f"bodies being read hold {self._buffered_bytes} bytes: at most {self._max_buffered_bytes}"
                    raise HttpProblem(503, "busy", detail, retry_after_s=1)
                if not more:
                    return b"".join(parts)
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
        finally:
            self._buffered_bytes -= held

    def _too_large(self, seen: int) -> HttpProblem:
        return HttpProblem(413, "body_too_large", f"body of {seen} bytes or more: expected at most {self._max_bytes}")


def _is_json(content_type: bytes) -> bool:
    kind, _, parameters = content_type.lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    return kind.strip() == b"application/json" and charset in {b"", b"charset=utf-8", b"charset=utf8"}
