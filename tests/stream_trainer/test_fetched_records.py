"""The columns and pieces of a fetch."""

from typing import Any

import numpy as np
import pytest
from aiokafka.structs import ConsumerRecord

from stream_trainer.fetched_records import ContentTypes, batch_of, interleaved
from stream_trainer.records import TopicPartition

SOURCE = TopicPartition("samples", 1)


def record(offset: int, value: bytes | None = b"v", **more: Any) -> ConsumerRecord[bytes, bytes]:
    size = -1 if value is None else len(value)
    fields = {"key": None, "timestamp": 1_700_000_000_000 + offset, "headers": (), **more}
    key, timestamp, headers = fields["key"], fields["timestamp"], fields["headers"]
    return ConsumerRecord("samples", 1, offset, timestamp, 0, key, value, None, -1, size, headers)


def test_a_fetch_becomes_columns() -> None:
    typed = (("content-type", b"a/b"),)
    records = [
        record(7, b"abc", key=b"k"),
        record(8, None, headers=typed),
        record(11, b"", timestamp=-1),
    ]
    batch = batch_of(SOURCE, records, ContentTypes())
    assert batch.source == SOURCE
    assert batch.values == [b"abc", None, b""]
    assert batch.keys == [b"k", None, None]
    assert batch.headers == [(), typed, ()]
    assert batch.content_types == [None, "a/b", None]
    assert batch.timestamps_ms.tolist() == [1_700_000_000_007, 1_700_000_000_008, 0]
    assert batch.offsets.tolist() == [7, 8, 11]
    assert (batch.timestamps_ms.dtype, batch.offsets.dtype) == (np.int64, np.int64)
    assert batch.next_offset == 12


def test_without_headers_no_content_type_is_looked_up() -> None:
    assert batch_of(SOURCE, [record(0), record(1)], ContentTypes()).content_types == [None, None]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        ((("other", b"x"),), None),
        ((("content-type", b"a/b"),), "a/b"),
        ((("Content-Type", b"a/b"),), "a/b"),
        ((("content-type", b"first"), ("content-type", b"last")), "last"),
        ((("content-type", None),), None),
        ((("content-type", b"\xff"),), "\ufffd"),
    ],
)
def test_the_content_type_is_the_last_header_of_that_name(headers: Any, expected: str | None) -> None:
    types = ContentTypes()
    assert types[headers] == expected
    assert types[headers] == expected


def test_headers_that_never_repeat_do_not_fill_the_memory() -> None:
    types = ContentTypes()
    for number in range(5000):
        headers = (("trace", b"%d" % number), ("content-type", b"a/b"))
        assert types[headers] == "a/b"
    assert len(types) <= 1024


def test_a_fetch_is_cut_and_shuffled_without_losing_a_record() -> None:
    fetch = {
        TopicPartition("samples", 0): [record(n, b"x" * 10) for n in range(100)],
        TopicPartition("samples", 1): [record(n, b"x" * 10) for n in range(50)],
        TopicPartition("samples", 2): [record(7, b"x" * 5000)],
        TopicPartition("samples", 3): [record(0, None)],
    }
    pieces = interleaved(fetch, piece_bytes=100)
    for source, own in fetch.items():
        assert [r for partition, piece in pieces if partition == source for r in piece] == own
    assert all(len(piece) == 10 for partition, piece in pieces if partition.partition < 2)
    order = "".join(str(partition.partition) for partition, _ in pieces)
    assert order == "0123" + "0" + "01" + "0" + "01" + "0" + "01" + "0" + "01" + "0"
