"""The queue between the event loop and the preparing thread."""

import asyncio
import threading

import numpy as np

from stream_trainer.record_queue import RecordQueue
from stream_trainer.records import RecordBatch, TopicPartition


def batch(first: int, count: int, size: int = 10, partition: int = 0) -> RecordBatch:
    return RecordBatch(
        source=TopicPartition("samples", partition),
        values=[b"x" * size] * count,
        keys=[None] * count,
        headers=[()] * count,
        content_types=[None] * count,
        timestamps_ms=np.zeros(count, np.int64),
        offsets=np.arange(first, first + count),
        size_bytes=size * count,
    )


def test_records_leave_in_order_and_stop_at_the_wanted_number() -> None:
    queue = RecordQueue(1 << 20)

    async def fill() -> None:
        for first in range(0, 50, 10):
            await queue.offer(batch(first, 10))

    asyncio.run(fill())

    assert [b.first_offset for b in queue.take(20, 0.1, 0.0)] == [0, 10]
    assert [b.first_offset for b in queue.take(1000, 0.1, 0.0)] == [20, 30, 40]
    assert queue.take(1, 0.0, 0.0) == []
    assert queue.waiting_bytes == 0


def test_a_full_queue_holds_the_producer_without_blocking_its_loop() -> None:
    queue = RecordQueue(1)  # any batch fills it; one passes because the queue is empty

    async def scenario() -> tuple[bool, int]:
        await queue.offer(batch(0, 1))
        second = asyncio.ensure_future(queue.offer(batch(1, 1)))
        for _ in range(20):
            await asyncio.sleep(0)  # the loop goes round while the offer waits
        waited = not second.done()
        taken = await asyncio.to_thread(queue.take, 1, 1.0, 0.0)
        await asyncio.wait_for(second, 5)
        return waited, taken[0].first_offset

    assert asyncio.run(scenario()) == (True, 0)
    assert [b.first_offset for b in queue.take(1, 0.0, 0.0)] == [1]


def test_a_cancelled_offer_leaves_nothing_behind() -> None:
    queue = RecordQueue(1)

    async def scenario() -> None:
        await queue.offer(batch(0, 1))
        second = asyncio.ensure_future(queue.offer(batch(1, 1)))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    asyncio.run(scenario())

    assert [b.first_offset for b in queue.take(10, 0.0, 0.0)] == [0]
    assert queue.take(10, 0.0, 0.0) == []


def test_close_wakes_the_taker_and_drops_what_comes_later() -> None:
    queue = RecordQueue(1 << 20)
    taken: list[list[RecordBatch]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(1, 60.0, 0.0)))
    taker.start()
    queue.close()
    taker.join(10)

    assert taken == [[]]
    asyncio.run(queue.offer(batch(0, 1)))
    assert queue.take(1, 0.0, 0.0) == []
