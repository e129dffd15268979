"""Between the event loop that fetches and the thread that decodes: records wait here, bounded by their bytes.

Knows no Kafka client and no decoder. Invariant: records of one partition leave in the order in which they came; when
the bound is reached the event loop's `offer` waits (without blocking the loop), so that fetching pauses.
"""

import asyncio
import threading
import time
from collections import deque

from stream_trainer.records import RecordBatch

__all__ = ["RecordQueue"]

_RECORD_BYTES = 200  # what the objects around one record's value take, roughly


class RecordQueue:
    """One event loop puts, one thread takes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[RecordBatch] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = deque()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the records inside."""
        return self._bytes

    async def offer(self, batch: RecordBatch) -> None:
        """Puts records in; waits while the queue is full. A batch larger than the bound passes when it is empty."""
        size = _cost_bytes(batch)
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._batches or self._bytes + size <= self._max_bytes:
                    self._batches.append(batch)
                    self._bytes += size
                    self._changed.notify()
                    return
                waiter = (asyncio.get_running_loop(), asyncio.Event())
                self._waiters.append(waiter)
            try:
                await waiter[1].wait()
            finally:  # a cancelled offer must not be woken: its loop may be gone by then
                with self._changed:
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)

    def take(self, max_records: int, first_wait_s: float, fill_wait_s: float) -> list[RecordBatch]:
        """Takes records out: waits for the first, then for more until there are enough or their time is up.

        Args:
            max_records: stop gathering at this many records (the last batch may pass it).
            first_wait_s: seconds to wait for anything at all.
            fill_wait_s: seconds to wait for the chunk to fill after the first records.

        Returns:
            batches in order; empty when nothing came in time or the queue was closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed, first_wait_s)
            taken: list[RecordBatch] = []
            records = 0
            until = time.monotonic() + fill_wait_s
            while records < max_records:
                if self._batches:
                    batch = self._batches.popleft()
                    self._bytes -= _cost_bytes(batch)
                    records += len(batch)
                    taken.append(batch)
                    continue
                left = until - time.monotonic()
                if not taken or left <= 0 or self._closed:
                    break
                self._wake()
                self._changed.wait(left)
            self._wake()
            return taken

    def close(self) -> None:
        """Ends it: `offer` drops what comes later, `take` still gives what is inside, then returns empty lists."""
        with self._changed:
            self._closed = True
            self._wake()
            self._changed.notify_all()

    def _wake(self) -> None:
        while self._waiters:
            loop, room = self._waiters.popleft()
            loop.call_soon_threadsafe(room.set)


def _cost_bytes(batch: RecordBatch) -> int:
    return batch.size_bytes + _RECORD_BYTES * len(batch)
