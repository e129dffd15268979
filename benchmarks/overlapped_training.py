"""The trainer's two stages at work without Kafka: one thread readies batch after batch, this one learns them.

The same overlap as `stream_trainer.training_loop`, without cuts, queues and metrics pages, so that a rate measured
here is that of the learning itself.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.click_stream import ClickStream
from model_contract.arrow_samples import ArrowSampleDecoder
from model_contract.samples import SampleBatch
from stream_trainer.learner import Learner
from stream_trainer.prepared_batch import PreparedBatch

__all__ = ["decoded", "learn_overlapped"]


def learn_overlapped(learner: Learner, batches: Iterator[Callable[[], SampleBatch]], warm: int) -> float:
    """Learns all batches.

    Args:
        learner: prepares and learns.
        batches: functions that make a batch (decode it), called in the preparing thread.
        warm: how many batches at the start to leave out of the measurement: kernels load, caches fill.

    Returns:
        samples learned per second.
    """
    now_s = int(time.time())

    def ready() -> PreparedBatch | None:
        make = next(batches, None)
        return None if make is None else learner.prepare(make(), now_s)

    rows = seen = 0
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as preparing:
        upcoming = preparing.submit(ready)
        while (prepared := upcoming.result()) is not None:
            if seen == warm:
                rows, begin = 0, time.perf_counter()
            seen += 1
            upcoming = preparing.submit(ready)
            learner.learn(prepared, now_s)
            rows += prepared.rows
    return rows / (time.perf_counter() - begin)


def decoded(stream: ClickStream) -> Iterator[partial[SampleBatch]]:
    """One function for each message."""
    decoder = ArrowSampleDecoder(stream.schema)

    def decode(message: bytes) -> SampleBatch:
        return decoder.decode([message]).batch

    return (partial(decode, message) for message in stream.messages)
