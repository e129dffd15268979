"""Records become a chunk: what is in it, where it ends, what was refused."""

import asyncio
from concurrent.futures import Future

import numpy as np
import pyarrow as pa

from model_contract.arrow_samples import encode_arrow
from model_contract.sample_decoding import ARROW_CONTENT_TYPE, SampleDecoder
from stream_trainer.chunk_source import ChunkSource
from stream_trainer.record_queue import RecordQueue
from stream_trainer.records import DeadLetter, RecordBatch, TopicPartition
from tests.stream_trainer.samples import SCHEMA, learner


def records(partition: int, first: int, values: list[bytes | None], arrow: bool = False) -> RecordBatch:
    n = len(values)
    return RecordBatch(
        source=TopicPartition("samples", partition),
        values=values,
        keys=[None] * n,
        headers=[()] * n,
        content_types=[ARROW_CONTENT_TYPE if arrow else None] * n,
        timestamps_ms=np.arange(n) * 7 + 1000,
        offsets=np.arange(first, first + n),
        size_bytes=sum(len(v or b"") for v in values),
    )


def json_sample(user: int) -> bytes:
    return b'{"label": 1, "sparse": {"user": %d}}' % user


class Fixture:
    def __init__(self, chunk_rows: int = 1000) -> None:
        self.queue = RecordQueue(1 << 20)
        self.letters: list[DeadLetter] = []
        self.model = learner(admission="always")
        self.source = ChunkSource(
            self.queue,
            SampleDecoder(SCHEMA),
            self.model,
            self.send,
            chunk_rows=chunk_rows,
            chunk_age_s=0.01,
            now_ms=lambda: 5000,
        )

    def send(self, letters: list[DeadLetter]) -> Future[None]:
        self.letters += letters
        return Future()

    def offer(self, *batches: RecordBatch) -> None:
        async def all_of_them() -> None:
            for batch in batches:
                await self.queue.offer(batch)

        asyncio.run(all_of_them())


def test_a_chunk_says_where_it_ends_and_when_its_samples_came() -> None:
    fixture = Fixture()
    fixture.offer(
        records(0, 10, [json_sample(1), json_sample(2)]),
        records(1, 5, [json_sample(3)]),
        records(0, 12, [json_sample(4)]),
    )
    chunk = fixture.source.next_chunk()

    assert chunk.prepared.rows == 4
    assert chunk.next_offsets == {("samples", 0): 13, ("samples", 1): 6}
    assert chunk.sample_times == {1000: 4}
    assert (chunk.records, chunk.dead_letters, chunk.sent) == (4, 0, None)
    assert fixture.source.next_chunk() is None


def test_bad_records_leave_as_letters_with_their_own_coordinates() -> None:
    fixture = Fixture()
    bad = b"not json"
    fixture.offer(records(0, 10, [json_sample(1), bad]), records(1, 5, [None, json_sample(2), bad]))
    chunk = fixture.source.next_chunk()

    assert chunk.prepared.rows == 2
    assert chunk.dead_letters == 3
    assert [(x.source.partition, x.offset, x.reason, x.value) for x in fixture.letters] == [
        (0, 11, "not_json", bad),
        (1, 5, "null_message", None),
        (1, 7, "not_json", bad),
    ]
    assert chunk.sent is not None
    assert sum(chunk.sample_times.values()) == 2


def test_records_with_many_rows_make_the_next_chunk_take_fewer_records() -> None:
    fixture = Fixture(chunk_rows=100)
    table = pa.table({"label": pa.array([1] * 50, pa.int8()), "user": pa.array(range(50))})
    fixture.offer(*[records(0, n, [encode_arrow(table, SCHEMA)], arrow=True) for n in range(6)])

    sizes = []
    while (chunk := fixture.source.next_chunk()) is not None:
        sizes.append(chunk.prepared.rows)
        assert sum(chunk.sample_times.values()) == chunk.prepared.rows

    assert sum(sizes) == 300
    assert sizes[1:] == [100] * len(sizes[1:]) or sizes == [300]
