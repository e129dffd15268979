"""Columns of records, and the dead letters made of them."""

import numpy as np

from stream_trainer.records import RecordBatch, TopicPartition


def three_records() -> RecordBatch:
    return RecordBatch(
        source=TopicPartition("samples", 2),
        values=[b"{}", None, b"\x00\xff"],
        keys=[None, b"k", b""],
        headers=[(), (("a", None), ("content-type", b"x/y")), (("reason", b"the producer's own"),)],
        content_types=[None, "x/y", None],
        timestamps_ms=np.array([5, 6, 1_700_000_000_123], np.int64),
        offsets=np.array([40, 41, 43], np.int64),
        size_bytes=4,
    )


def test_next_offset_is_behind_the_last_record_over_gaps() -> None:
    batch = three_records()
    assert (len(batch), batch.first_offset, batch.next_offset) == (3, 40, 44)
    assert (batch.topic, batch.partition) == ("samples", 2)


def test_a_dead_letter_keeps_the_record_and_adds_where_it_came_from() -> None:
    letter = three_records().dead_letter(2, "not_json", "expected an object: ü")
    assert (letter.key, letter.value, letter.timestamp_ms) == (b"", b"\x00\xff", 1_700_000_000_123)
    assert letter.letter_headers() == [
        ("reason", b"the producer's own"),
        ("reason", b"not_json"),
        ("detail", "expected an object: ü".encode()),
        ("source-topic", b"samples"),
        ("source-partition", b"2"),
        ("source-offset", b"43"),
    ]


def test_a_header_without_value_stays_one() -> None:
    assert three_records().dead_letter(1, "null_message", "").letter_headers()[:2] == [
        ("a", None),
        ("content-type", b"x/y"),
    ]
