"""How long samples took from their Kafka time stamp to being answered from, over all time and over the last minute.

Knows no Kafka, no increment and no clock: who applies an increment hands in the time stamps, their counts and the
moment. Invariant: a percentile of up to a day is never below the true one, and at most
2 % and 1 ms above it.
"""

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FreshnessHistogram", "FreshnessMeter", "FreshnessPercentiles"]

_WINDOW_S = 60
_LONGEST_MS = 24 * 3600 * 1000


def _bin_edges_ms() -> NDArray[np.int64]:
    """Upper edges: every millisecond up to 50, then steps of 2 %, to one day; what is beyond goes to the last."""
    steps = 50.0 * 1.02 ** np.arange(1, int(np.log(_LONGEST_MS / 50) / np.log(1.02)) + 2)
    return np.concatenate([np.arange(51), np.ceil(steps)]).astype(np.int64)


_EDGES_MS = _bin_edges_ms()
_BOUNDS_MS = np.array([50, 100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10_000, 30_000, 60_000, 300_000])


class FreshnessPercentiles(NamedTuple):
    """Milliseconds within which half and 95 % of the samples were answered from; None where there were none."""

    samples: int
    p50_ms: int | None
    p95_ms: int | None


class FreshnessHistogram(NamedTuple):
    """What Prometheus is shown.

    Attributes:
        bounds_ms: (k,) int64 upper bounds.
        cumulative: (k + 1,) int64, samples up to each bound; the last is all of them.
        sum_ms: sum of all delays.
    """

    bounds_ms: NDArray[np.int64]
    cumulative: NDArray[np.int64]
    sum_ms: int


class FreshnessMeter:
    """Counts delays. One thread records while others read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = np.zeros(_EDGES_MS.size, np.int64)
        self._seconds = np.zeros((_WINDOW_S, _EDGES_MS.size), np.int64)
        self._second_of = np.full(_WINDOW_S, -1, np.int64)
        self._bounds = np.zeros(_BOUNDS_MS.size + 1, np.int64)
        self._sum_ms = 0

    def record(self, sample_times: tuple[tuple[int, int], ...], now_ms: int) -> None:
        """Counts samples that are answered from since `now_ms`.

        Args:
            sample_times: (time stamp in ms, count); a stamp from the future counts as no delay.
            now_ms: the moment.
        """
        if not sample_times:
            return
        stamps, counts = np.array(sample_times, np.int64).T
        delays = np.maximum(now_ms - stamps, 0)
        bins = np.minimum(np.searchsorted(_EDGES_MS, delays), _EDGES_MS.size - 1)
        second = now_ms // 1000
        place = second % _WINDOW_S
        with self._lock:
            if self._second_of[place] != second:
                self._second_of[place] = second
                self._seconds[place] = 0
            np.add.at(self._total, bins, counts)
            np.add.at(self._seconds[place], bins, counts)
            np.add.at(self._bounds, np.searchsorted(_BOUNDS_MS, delays), counts)
            self._sum_ms += int(delays @ counts)

    def overall(self) -> FreshnessPercentiles:
        """Percentiles over everything recorded."""
        with self._lock:
            counts = self._total.copy()
        return _percentiles(counts)

    def last_minute(self, now_ms: int) -> FreshnessPercentiles:
        """Percentiles over what was recorded in the 60 seconds up to `now_ms`."""
        oldest = now_ms // 1000 - _WINDOW_S
        with self._lock:
            counts = self._seconds[self._second_of > oldest].sum(axis=0)
        return _percentiles(counts)

    def histogram(self) -> FreshnessHistogram:
        """Counts by the bounds shown to Prometheus."""
        with self._lock:
            return FreshnessHistogram(_BOUNDS_MS, np.cumsum(self._bounds), self._sum_ms)


def _percentiles(counts: NDArray[np.int64]) -> FreshnessPercentiles:
    cumulative = np.cumsum(counts)
    samples = int(cumulative[-1])
    if samples == 0:
        return FreshnessPercentiles(0, None, None)
    half, most = np.searchsorted(cumulative, [0.5 * samples, 0.95 * samples])
    return FreshnessPercentiles(samples, int(_EDGES_MS[half]), int(_EDGES_MS[most]))
