import asyncio
from typing import Any

import pytest

from serving.errors import ClientGone, HttpProblem
from serving.request_body import BodyReader

JSON = (b"content-type", b"application/json")


def read(reader: BodyReader, chunks: list[Any], *headers: tuple[bytes, bytes]) -> bytes:
    taken = 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        chunk = chunks[taken - 1]
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": taken < len(chunks)}

    async def run() -> bytes:
        try:
            return await reader.read({"headers": list(headers) or [JSON]}, receive)
        finally:
            run.taken = taken  # type: ignore[attr-defined]

    try:
        return asyncio.run(run())
    finally:
        reader.taken = taken  # type: ignore[attr-defined]


def test_one_chunk_and_many_chunks() -> None:
    reader = BodyReader(10, 100)

    assert read(reader, [b"0123456789"]) == b"0123456789"
    assert read(reader, [b"01234", b"", b"56", b"789"]) == b"0123456789"
    assert read(reader, [b""]) == b""
    assert reader.buffered_bytes == 0


@pytest.mark.parametrize(
    "value",
    [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b'application/json;charset="UTF-8"'],
)
def test_json_under_its_names(value: bytes) -> None:
    assert read(BodyReader(10, 100), [b"{}"], (b"content-type", value)) == b"{}"


@pytest.mark.parametrize(
    "header",
    [
        (b"content-type", b"text/plain"),
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"content-type", b"application/json; charset=latin-1"),
        (b"accept", b"*/*"),
    ],
)
def test_anything_else_is_415_before_a_byte_is_read(header: tuple[bytes, bytes]) -> None:
    reader = BodyReader(10, 100)
    with pytest.raises(HttpProblem) as caught:
        read(reader, [b"{}"], header)
    assert caught.value.status == 415
    assert reader.taken == 0  # type: ignore[attr-defined]


def test_a_compressed_body_is_415() -> None:
    with pytest.raises(HttpProblem) as caught:
        read(BodyReader(10, 100), [b"{}"], JSON, (b"content-encoding", b"gzip"))
    assert (caught.value.status, caught.value.kind) == (415, "content_encoding")


def test_an_announced_length_beyond_the_limit_is_refused_unread() -> None:
    reader = BodyReader(10, 100)
    with pytest.raises(HttpProblem) as caught:
        read(reader, [b"x" * 11], JSON, (b"content-length", b"11"))
    assert caught.value.status == 413
    assert reader.taken == 0  # type: ignore[attr-defined]


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_long() -> None:
    reader = BodyReader(10, 100)
    with pytest.raises(HttpProblem) as caught:
        read(reader, [b"x" * 6] * 50)
    assert caught.value.status == 413
    assert reader.taken == 2  # type: ignore[attr-defined]
    assert reader.buffered_bytes == 0

    with pytest.raises(HttpProblem):
        read(reader, [b"x" * 11])


def test_all_bodies_together_have_a_budget() -> None:
    reader = BodyReader(100, 15)
    with pytest.raises(HttpProblem) as caught:
        read(reader, [b"x" * 10, b"x" * 10, b"x"])
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1)
    assert reader.buffered_bytes == 0


def test_a_client_that_goes_away() -> None:
    reader = BodyReader(100, 100)
    for chunks in ([None], [b"x", None, b"y"]):
        with pytest.raises(ClientGone):
            read(reader, chunks)
    assert reader.buffered_bytes == 0
