import numpy as np
import pytest

from serving.freshness import FreshnessMeter

NOW_MS = 1_700_000_000_123


def test_nothing_recorded_has_no_percentiles() -> None:
    meter = FreshnessMeter()
    meter.record((), NOW_MS)

    assert meter.overall() == (0, None, None)
    assert meter.last_minute(NOW_MS) == (0, None, None)
    assert meter.histogram().cumulative[-1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_those_of_the_sorted_delays_within_the_stated_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = np.sort(NOW_MS - rng.integers(0, 10 ** rng.integers(2, 7), 500))
    stamps = np.unique(stamps)
    counts = rng.integers(1, 50, stamps.size)
    meter = FreshnessMeter()
    for half in (slice(None, None, 2), slice(1, None, 2)):
        meter.record(tuple(zip(stamps[half].tolist(), counts[half].tolist(), strict=True)), NOW_MS)

    delays = np.sort(np.repeat(NOW_MS - stamps, counts))
    seen = meter.overall()
    assert seen.samples == delays.size
    for measured, share in ((seen.p50_ms, 0.5), (seen.p95_ms, 0.95)):
        exact = delays[int(np.ceil(share * delays.size)) - 1]
        assert measured is not None
        assert exact <= measured <= exact * 1.02 + 1, f"seed {seed}"
    histogram = meter.histogram()
    for bound, cumulative in zip(histogram.bounds_ms, histogram.cumulative, strict=False):
        assert cumulative == (delays <= bound).sum()
    assert histogram.sum_ms == delays.sum()


def test_the_last_minute_forgets_and_the_whole_does_not() -> None:
    meter = FreshnessMeter()
    meter.record(((NOW_MS - 500, 10),), NOW_MS)
    later = NOW_MS + 59_000
    meter.record(((later - 20, 10),), later)

    assert meter.last_minute(later).samples == 20
    assert meter.last_minute(NOW_MS + 61_000) == (10, 20, 20)
    assert meter.last_minute(NOW_MS + 1_000_000).samples == 0
    assert meter.overall().samples == 20


def test_a_stamp_from_the_future_is_no_delay() -> None:
    meter = FreshnessMeter()
    meter.record(((NOW_MS + 5000, 1),), NOW_MS)

    assert meter.overall() == (1, 0, 0)
