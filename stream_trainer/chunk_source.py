"""Records become a chunk: decoded, its dead letters sent off, its ids prepared, with the account of where it came from.

Knows no Kafka client: records come from a queue, dead letters leave through a function. Invariant: a chunk holds whole
records only, and its `next_offsets` name the first record of each partition that is in no chunk yet.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model_contract.sample_decoding import SampleDecoder
from model_contract.samples import Decoded
from stream_trainer.learner import Learner
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.record_queue import RecordQueue
from stream_trainer.records import DeadLetter, RecordBatch, TopicPartition

__all__ = ["SAMPLE_TIME_BUCKET_MS", "Chunk", "ChunkSource", "SendDeadLetters"]

SAMPLE_TIME_BUCKET_MS = 10

# Sends records to the dead-letter topic; the future ends when the broker has all of them.
SendDeadLetters = Callable[[Sequence[DeadLetter]], Future[None]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Samples ready to be learned, and their account.

    Attributes:
        prepared: B samples.
        next_offsets: partition -> first offset behind this chunk.
        sample_times: Kafka time stamp in 10 ms buckets -> samples, of the records in this chunk.
        records: records read, good and bad.
        dead_letters: records refused.
        sent: ends when the dead letters are safe; None where there are none.
    """

    prepared: PreparedBatch
    next_offsets: Mapping[TopicPartition, int]
    sample_times: Mapping[int, int]
    records: int
    dead_letters: int = 0
    sent: Future[None] | None = field(default=None)


class ChunkSource:
    """Makes one chunk at a time; called from the preparing thread only."""

    def __init__(
        self,
        records: RecordQueue,
        decoder: SampleDecoder,
        learner: Learner,
        send_dead_letters: SendDeadLetters,
        *,
        chunk_rows: int,
        chunk_age_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._records = records
        self._decoder = decoder
        self._learner = learner
        self._send_dead_letters = send_dead_letters
        self._chunk_rows = chunk_rows
        self._chunk_age_s = chunk_age_s
        self._now_ms = now_ms
        self._rows_per_record = 1.0

    def next_chunk(self) -> Chunk | None:
        """The next chunk, or None when no record came within the chunk's age."""
        wanted = max(1, int(self._chunk_rows / self._rows_per_record))
        batches = self._records.take(wanted, self._chunk_age_s, self._chunk_age_s)
        if not batches:
            return None
        values = [value for batch in batches for value in batch.values]
        content_types = [kind for batch in batches for kind in batch.content_types]
        decoded = self._decoder.decode(values, content_types)
        good = len(values) - len(decoded.rejects)
        if good:
            self._rows_per_record = max(1.0, decoded.batch.rows / good)
        letters = _dead_letters(batches, decoded)
        return Chunk(
            prepared=self._learner.prepare(decoded.batch, self._now_ms() // 1000),
            next_offsets={batch.source: batch.next_offset for batch in batches},
            sample_times=_sample_times(batches, decoded),
            records=len(values),
            dead_letters=len(letters),
            sent=self._send_dead_letters(letters) if letters else None,
        )


def _sample_times(batches: Sequence[RecordBatch], decoded: Decoded) -> dict[int, int]:
    stamps: NDArray[np.int64] = np.concatenate([batch.timestamps_ms for batch in batches])
    rows = np.bincount(decoded.source_index, minlength=len(stamps))
    buckets, places = np.unique(stamps // SAMPLE_TIME_BUCKET_MS, return_inverse=True)
    counts = np.bincount(places, weights=rows, minlength=len(buckets)).astype(np.int64)
    pairs = zip((buckets * SAMPLE_TIME_BUCKET_MS).tolist(), counts.tolist(), strict=True)
    return {bucket: count for bucket, count in pairs if count}


def _dead_letters(batches: Sequence[RecordBatch], decoded: Decoded) -> list[DeadLetter]:
    """Only the bad records are touched one by one."""
    if not decoded.rejects:
        return []
    starts = np.cumsum([0] + [len(batch) for batch in batches])
    letters = []
    for reject in decoded.rejects:
        which = int(np.searchsorted(starts, reject.index, side="right")) - 1
        letters.append(batches[which].dead_letter(reject.index - int(starts[which]), reject.reason, reject.detail))
    return letters
