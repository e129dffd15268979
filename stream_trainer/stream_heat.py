"""Popularity bands whose heat cools with the stream's own pace: by samples learned, not by seconds.

Knows when how many samples were learned, and rows' last use in seconds; no table. A mark is kept every so many samples,
so that a row's last use is a place in the stream, whatever the pace was then and is now: a quiet night, a stop of the
trainer or a backlog read at full speed cool nothing.

Invariant: a row never looks colder than it is, but for the samples between two marks: its last use counts as the end
of the second that it was in, and a last use from before the first mark as the place of that mark.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dimension_search.heat import HeatBands

__all__ = ["StreamHeat"]

_MARKS_PER_HALF_LIFE = 16
_HALF_LIVES = 32


class StreamHeat:
    """Heat and bands of rows; the interface of `HeatBands`, which it asks.

    Args:
        heat: thresholds and hysteresis; with its half-life in seconds where `half_life_samples` is 0.
        half_life_samples: samples of the stream in whose time the heat of an unseen row halves.

    Attributes:
        bands: how many bands a slot has.
    """

    def __init__(self, heat: HeatBands, half_life_samples: int) -> None:
        self.bands = heat.bands
        self._half_life = half_life_samples
        self._heat = replace(heat, half_life_s=float(half_life_samples)) if half_life_samples else heat
        self._marks = np.empty((0, 2), np.int64)  # (samples, seconds), both ascending
        self._samples = 0

    def observe(self, samples: int, now_s: int) -> None:
        """Notes that so many samples are learned at this second since the epoch."""
        self._samples = samples
        if self._half_life == 0:
            return
        if len(self._marks):
            last_samples, last_s = self._marks[-1].tolist()
            if now_s <= last_s:
                self._marks[-1, 0] = samples
                return
            if samples - last_samples < self._half_life // _MARKS_PER_HALF_LIFE:
                return
        kept = self._marks[1 - _MARKS_PER_HALF_LIFE * _HALF_LIVES :]
        self._marks = np.concatenate([kept, np.array([[samples, now_s]], np.int64)])

    def heat(self, counts: NDArray[np.float32], last_seen_s: NDArray[np.uint32], now_s: int) -> NDArray[np.float64]:
        """See `HeatBands.heat`."""
        return self._heat.heat(counts, *self._stream_time(last_seen_s, now_s))

    def bands_of(
        self, counts: NDArray[np.float32], last_seen_s: NDArray[np.uint32], now_s: int, bands: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """See `HeatBands.bands_of`."""
        return self._heat.bands_of(counts, *self._stream_time(last_seen_s, now_s), bands)

    def state(self) -> NDArray[np.int64]:
        """The marks, i64 (n, 2)."""
        return self._marks.copy()

    def restore(self, marks: NDArray[np.int64]) -> None:
        """Takes back what `state` returned."""
        self._marks = np.array(marks, np.int64)
        self._samples = int(self._marks[-1, 0]) if len(self._marks) else 0

    def _stream_time(self, last_seen_s: NDArray[np.uint32], now_s: int) -> tuple[NDArray[np.uint32], int]:
        """Last uses and now, in samples since a moment at most `_HALF_LIVES` half-lives ago."""
        if self._half_life == 0 or not len(self._marks):
            return last_seen_s, now_s
        marks = self._marks
        places = np.interp(last_seen_s, marks[:, 1], marks[:, 0])
        places[last_seen_s >= marks[-1, 1]] = self._samples
        horizon = 2 * _HALF_LIVES * self._half_life
        ages = np.clip(self._samples - places, 0, horizon)
        return np.asarray(horizon - ages, np.uint32), horizon
