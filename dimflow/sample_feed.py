"""A stream of batches at a chosen pace into a producer: by rate, by permission, or as fast as it goes.

Knows no Kafka and no terminal; time is handed in. Invariant: at no moment more than `rate * elapsed` samples (and one
piece) were sent, and none that `allowed` had not let pass; whatever ends the feed, what was sent is flushed and
counted.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from dimflow.sample_producer import ProduceProgress

__all__ = ["FeedPace", "FeedReport", "SampleSink", "feed_samples"]

_PIECE_S = 0.05  # at a set rate, samples go out in pieces of this length
_PIECE_ROWS = 4096
_POLL_S = 0.002
_PUNCTUAL_S = 1e-6  # what is due so soon goes now: so short a wait may round to none, for ever


class SampleSink(Protocol):
    """What the feed needs of a producer."""

    def send(self, batch: pa.RecordBatch) -> None:
        """Takes a batch."""
        ...

    def collect(self) -> None:
        """Counts what has been acknowledged."""
        ...

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until all is acknowledged."""
        ...

    @property
    def progress(self) -> ProduceProgress:
        """How far it is."""
        ...


@dataclass(frozen=True, slots=True)
class FeedPace:
    """How fast samples may go.

    Attributes:
        rate: samples per second; None: as fast as it goes.
        allowed: asked with the number of samples that would then have been sent, before they are; the feed waits while
            it is false. So whoever counts trained samples can keep the two within a window.
        stop: ends the feed when set.
    """

    rate: float | None = None
    allowed: Callable[[int], bool] | None = None
    stop: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class FeedReport:
    """How a feed ended.

    Attributes:
        progress: of the producer, after the flush.
        elapsed_s: from the first piece to the last acknowledgement.
        interrupted: whether Ctrl-C or `stop` ended it and not the end of the samples.
    """

    progress: ProduceProgress
    elapsed_s: float
    interrupted: bool


def feed_samples(
    sink: SampleSink,
    batches: Iterable[pa.RecordBatch],
    pace: FeedPace,
    on_progress: Callable[[ProduceProgress, float], None] | None = None,
    progress_every_s: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
) -> FeedReport:
    """Sends all batches.

    Args:
        sink: the producer.
        batches: samples, in the order in which they are sent.
        pace: how fast.
        on_progress: called with the progress and the seconds since the start, at most every `progress_every_s`, and
            once at the end.
        progress_every_s: see there.
        clock: seconds, monotonic.

    Returns:
        the report; Ctrl-C (KeyboardInterrupt) while sending ends the feed as `stop` does, another one ends the flush.

    Raises:
        ProduceError: a sample was not taken.
    """
    feed = _Feed(sink, pace, on_progress, progress_every_s, clock)
    interrupted = False
    try:
        for piece in _pieces(batches, pace.rate):
            if not feed.wait_for_turn(piece.num_rows):
                interrupted = True
                break
            sink.send(piece)
            feed.tell(sink.progress)
    except KeyboardInterrupt:
        interrupted = True
    sink.flush()
    feed.tell(sink.progress, last=True)
    return FeedReport(sink.progress, feed.elapsed_s, interrupted)


class _Feed:
    """The state of one feed: when it began and when it last told how far it is."""

    def __init__(
        self,
        sink: SampleSink,
        pace: FeedPace,
        on_progress: Callable[[ProduceProgress, float], None] | None,
        progress_every_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._pace = pace
        self._stop = pace.stop or threading.Event()
        self._on_progress = on_progress
        self._every_s = progress_every_s
        self._clock = clock
        self._began = self._told = clock()
        self._already = sink.progress.sent

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def wait_for_turn(self, rows: int) -> bool:
        """Waits until `rows` more samples may go; false if the feed is to end."""
        sent = self._sink.progress.sent
        allowed = self._pace.allowed
        while not self._stop.is_set():
            due_s = 0.0 if self._pace.rate is None else (sent - self._already) / self._pace.rate - self.elapsed_s
            if due_s <= _PUNCTUAL_S and (allowed is None or allowed(sent + rows)):
                return True
            self._stop.wait(min(due_s, self._every_s) if due_s > _PUNCTUAL_S else _POLL_S)
            self._sink.collect()
            self.tell(self._sink.progress)
        return False

    def tell(self, progress: ProduceProgress, last: bool = False) -> None:
        """Calls back, if it is time to."""
        now = self._clock()
        if self._on_progress is not None and (last or now - self._told >= self._every_s):
            self._told = now
            self._on_progress(progress, now - self._began)


def _pieces(batches: Iterable[pa.RecordBatch], rate: float | None) -> Iterator[pa.RecordBatch]:
    rows = _PIECE_ROWS if rate is None else max(1, min(_PIECE_ROWS, int(rate * _PIECE_S)))
    for batch in batches:
        for low in range(0, batch.num_rows, rows):
            yield batch.slice(low, rows)
