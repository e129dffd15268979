"""The feed's pace, in a time that passes only while it waits."""

import threading
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from dimflow.errors import ProduceError
from dimflow.sample_feed import FeedPace, FeedReport, feed_samples
from dimflow.sample_producer import ProduceProgress


class SteppedTime(threading.Event):
    """A stop signal whose `wait` moves the clock instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.on_wait: Callable[[], None] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0.0
        self.on_wait()
        return self.is_set()


class MemorySink:
    """Keeps what it is given; a piece is acknowledged when it is collected or flushed."""

    def __init__(self, time: SteppedTime) -> None:
        self.time = time
        self.sent: list[tuple[float, int]] = []  # when, rows
        self.rows: list[int] = []
        self.acknowledged = 0
        self.flushed = 0
        self.on_send: Callable[[], None] = lambda: None

    def send(self, batch: pa.RecordBatch) -> None:
        self.on_send()
        self.sent.append((self.time.now_s, batch.num_rows))
        self.rows += batch.column("n").to_pylist()

    def collect(self) -> None:
        self.acknowledged = len(self.rows)

    def flush(self, timeout_s: float | None = None) -> None:
        self.collect()
        self.flushed += 1

    @property
    def progress(self) -> ProduceProgress:
        return ProduceProgress(len(self.rows), self.acknowledged, len(self.sent), 8 * len(self.rows))


def batches(rows: int, batch_rows: int = 10_000) -> Iterator[pa.RecordBatch]:
    for low in range(0, rows, batch_rows):
        yield pa.RecordBatch.from_pydict({"n": list(range(low, min(low + batch_rows, rows)))})


@pytest.fixture
def time() -> SteppedTime:
    return SteppedTime()


@pytest.fixture
def sink(time: SteppedTime) -> MemorySink:
    return MemorySink(time)


def feed(sink: MemorySink, rows: Iterator[pa.RecordBatch], **pace: object) -> FeedReport:
    return feed_samples(sink, rows, FeedPace(stop=sink.time, **pace), clock=lambda: sink.time.now_s)  # type: ignore[arg-type]


def test_as_fast_as_it_goes(sink: MemorySink) -> None:
    report = feed(sink, batches(25_000))
    assert sink.rows == list(range(25_000))
    assert report == FeedReport(ProduceProgress(25_000, 25_000, len(sink.sent), 200_000), 0.0, interrupted=False)
    assert sink.flushed == 1


@pytest.mark.parametrize("rate", [0.5, 3.0, 100.0, 12_345.0, 10_000_000.0])
def test_rate_is_never_passed_and_reached(sink: MemorySink, rate: float) -> None:
    rows = max(2, min(30_000, int(rate * 20)))
    report = feed(sink, batches(rows), rate=rate)
    before = 0
    for at_s, sent in sink.sent:
        assert before <= rate * (at_s - 100.0 + 2e-6), "a piece goes when all before it were due"
        assert sent <= max(1.0, rate * 0.05)
        before += sent
    assert sink.rows == list(range(rows))
    assert report.elapsed_s == pytest.approx((rows - sink.sent[-1][1]) / rate, abs=1e-3)


def test_rate_counts_from_where_the_producer_was(sink: MemorySink) -> None:
    feed(sink, batches(1_000))
    report = feed(sink, batches(1_000), rate=1_000.0)
    assert report.elapsed_s == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("window", [5_000, 12_000])
def test_never_more_than_allowed(sink: MemorySink, time: SteppedTime, window: int) -> None:
    trained = 0
    largest = 0

    def allowed(sent: int) -> bool:
        return sent - trained <= window

    def train() -> None:
        nonlocal trained, largest
        largest = max(largest, len(sink.rows) - trained)
        trained = min(len(sink.rows), trained + 37)

    time.on_wait = train
    report = feed(sink, batches(40_000), allowed=allowed)
    assert not report.interrupted
    assert sink.rows == list(range(40_000))
    assert window // 2 < largest <= window


def test_stop_ends_it_between_two_pieces(sink: MemorySink, time: SteppedTime) -> None:
    sink.on_send = lambda: time.set() if len(sink.sent) == 2 else None
    report = feed(sink, batches(100_000))
    assert report.interrupted
    assert len(sink.sent) == 3
    assert report.progress.acknowledged == report.progress.sent == len(sink.rows)


def test_stop_ends_the_wait_for_permission(sink: MemorySink, time: SteppedTime) -> None:
    time.on_wait = time.set
    report = feed(sink, batches(10), allowed=lambda sent: False)
    assert report.interrupted
    assert sink.rows == []


@pytest.mark.parametrize("where", ["send", "batches", "wait"])
def test_interrupt_ends_it_with_all_that_was_sent_flushed(sink: MemorySink, time: SteppedTime, where: str) -> None:
    def interrupt() -> None:
        if len(sink.sent) == 2:
            raise KeyboardInterrupt

    def interrupting() -> Iterator[pa.RecordBatch]:
        yield from batches(8_192, 4_096)
        interrupt()

    if where == "send":
        sink.on_send = interrupt
    if where == "wait":
        time.on_wait = interrupt
    source = interrupting() if where == "batches" else batches(100_000)
    report = feed(sink, source, rate=1_000.0 if where == "wait" else None)
    assert report.interrupted
    assert sink.flushed == 1
    assert len(sink.sent) == 2
    assert report.progress.acknowledged == len(sink.rows)


def test_a_refused_sample_is_an_error(sink: MemorySink) -> None:
    def refuse() -> None:
        message = "full"
        raise ProduceError(message)

    sink.on_send = refuse
    with pytest.raises(ProduceError, match="full"):
        feed(sink, batches(10))


def test_progress_is_told_now_and_then_and_at_the_end(sink: MemorySink, time: SteppedTime) -> None:
    told: list[tuple[int, float]] = []
    pace = FeedPace(rate=10_000.0, stop=time)
    feed_samples(
        sink,
        batches(20_000),
        pace,
        lambda progress, elapsed_s: told.append((progress.sent, elapsed_s)),
        progress_every_s=0.25,
        clock=lambda: time.now_s,
    )
    assert told[-1] == (20_000, pytest.approx(1.95, abs=0.06))
    assert told == sorted(told)
    gaps = [after[1] - before[1] for before, after in zip(told, told[1:], strict=False)]
    assert all(gap >= 0.25 - 1e-9 for gap in gaps[:-1])
    assert len(told) >= 7
