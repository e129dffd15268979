"""What one fetch brought, as columns and in pieces that mix the partitions.

Knows no Kafka client beyond the names of a record's attributes. Invariant: every record of a fetch is in one piece, the
pieces of a partition are in its order, and no Python statement is run per record.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np

from stream_trainer.records import CONTENT_TYPE, Headers, RecordBatch, TopicPartition

__all__ = ["ContentTypes", "batch_of", "interleaved"]

_PIECE_BYTES: Final = 256 << 10
_value_of = attrgetter("value")
_key_of = attrgetter("key")
_headers_of = attrgetter("headers")
_timestamp_of = attrgetter("timestamp")
_offset_of = attrgetter("offset")
_size_of = attrgetter("serialized_value_size")


class ContentTypes(dict[Headers, str | None]):
    """The content type that each set of headers names; producers send few different ones, so it is looked up once."""

    _KEPT: Final = 1024

    def __missing__(self, headers: Headers) -> str | None:
        """Finds the last `content-type`, in any case of letters, as Kafka's own clients do."""
        found = [value for name, value in headers if name.lower() == CONTENT_TYPE and value is not None]
        if len(self) >= self._KEPT:  # headers that differ from message to message, such as trace ids
            self.clear()
        self[headers] = answer = found[-1].decode(errors="replace") if found else None
        return answer


def batch_of(source: TopicPartition, records: Sequence[Any], content_types: ContentTypes) -> RecordBatch:
    """Turns R > 0 records of the client library into columns, without a Python statement per record."""
    count = len(records)
    headers = list(map(_headers_of, records))
    timestamps = np.fromiter(map(_timestamp_of, records), np.int64, count)
    return RecordBatch(
        source=source,
        values=list(map(_value_of, records)),
        keys=list(map(_key_of, records)),
        headers=headers,
        content_types=list(map(content_types.__getitem__, headers)) if any(headers) else [None] * count,
        timestamps_ms=np.maximum(timestamps, 0, out=timestamps),
        offsets=np.fromiter(map(_offset_of, records), np.int64, count),
        size_bytes=max(sum(map(_size_of, records)), 0),  # a tombstone's size is -1: never mind
    )


def interleaved(
    records: Mapping[Any, Sequence[Any]], piece_bytes: int = _PIECE_BYTES
) -> list[tuple[TopicPartition, Sequence[Any]]]:
    """Cuts a fetch into pieces and shuffles those of all partitions together like cards.

    Producers that spread samples over the partitions leave nearly equal shares; a fetch taken partition by partition
    would show the sink tens of thousands of one before the first of the next, far from the order they were sent in.

    Args:
        records: partition -> its records, R > 0 each.
        piece_bytes: size of a piece, more where a single record is larger.

    Returns:
        pieces; those of one partition in their order, and each at the same share of its partition's records.
    """
    placed: list[tuple[float, TopicPartition, Sequence[Any]]] = []
    for source, own in records.items():
        pieces = min(max(sum(map(_size_of, own)) // piece_bytes, 1), len(own))
        cuts = [len(own) * place // pieces for place in range(pieces + 1)]
        partition = TopicPartition(source.topic, source.partition)
        placed += [(place / pieces, partition, own[cuts[place] : cuts[place + 1]]) for place in range(pieces)]
    placed.sort(key=lambda piece: piece[:2])
    return [piece[1:] for piece in placed]
