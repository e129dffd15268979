"""Quality as the stream goes by: every sample is predicted before it is learned, and both windows watch.

Knows no model and no clock. Invariant: a sample counts once in the whole run, and in the window while it is among the
newest `window` samples (to within a tenth of it); the numbers depend on the samples alone, not on how they were cut
into batches. AUC is that of logits rounded to 0.01 (ties count half), exact enough for four digits.
Source: progressive validation, Blum, Kalai, Langford 1999; normalised entropy, He et al. 2014, section 3.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel
from stream_trainer.errors import StateError

__all__ = ["ProgressiveMetrics", "ProgressiveTotals", "totals_of"]

_BINS = 2048
_BINS_PER_LOGIT = 100.0
_SEGMENTS = 10
_SAMPLES, _WEIGHT, _POSITIVE, _PREDICTED, _LOSS, _NOT_FINITE, _SUMS = range(7)


@kernel
def _tally(
    logits: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    bins: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Adds samples to two histograms f64 (2, bins), negatives and positives by logit, and to the sums f64 (6,)."""
    last = bins.shape[1] - 1
    for row in range(logits.shape[0]):
        logit = np.float64(logits[row])
        sums[_SAMPLES] += 1.0
        if not np.isfinite(logit):
            sums[_NOT_FINITE] += 1.0
            continue
        weight = np.float64(weights[row])
        label = np.float64(labels[row])
        shrunk = np.exp(-abs(logit))  # never overflows
        probability = (1.0 if logit >= 0 else shrunk) / (1.0 + shrunk)
        sums[_WEIGHT] += weight
        sums[_POSITIVE] += weight * label
        sums[_PREDICTED] += weight * probability
        sums[_LOSS] += weight * (max(logit, 0.0) + np.log1p(shrunk) - logit * label)
        place = min(max(logit * _BINS_PER_LOGIT + 0.5 * bins.shape[1], 0.0), np.float64(last))
        column = np.int64(place)
        bins[0, column] += weight * (1.0 - label)
        bins[1, column] += weight * label


class ProgressiveTotals(NamedTuple):
    """Sums over samples: their weights, their weighted log-loss, and how many predictions were not finite."""

    weight: float
    loss: float
    not_finite: float


def totals_of(state: Mapping[str, NDArray[np.generic]]) -> tuple[ProgressiveTotals, ProgressiveTotals]:
    """The sums of the whole run and of the window, from what `ProgressiveMetrics.state` returned.

    They rise from cut to cut: the difference of two says what happened between them.
    """
    window = np.asarray(state["sums"], np.float64).sum(axis=0)
    run = np.asarray(state["past_sums"], np.float64) + window
    places = [_WEIGHT, _LOSS, _NOT_FINITE]
    return ProgressiveTotals(*run[places].tolist()), ProgressiveTotals(*window[places].tolist())


class ProgressiveMetrics:
    """AUC, log-loss, normalised entropy and calibration over the whole run and over the newest samples.

    Args:
        window: samples of the sliding window.
    """

    def __init__(self, window: int = 100_000) -> None:
        self._segment_samples = max(1, window // _SEGMENTS)
        self._past_bins = np.zeros((2, _BINS))  # of samples that have left the window
        self._past_sums = np.zeros(_SUMS)
        self._bins = np.zeros((_SEGMENTS, 2, _BINS))
        self._sums = np.zeros((_SEGMENTS, _SUMS))
        self._current = np.zeros(1, np.int64)

    def update(self, logits: NDArray[np.float32], labels: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Counts B samples in stream order.

        Args:
            logits: f32 (B,), from before the sample was learned; one that is not finite counts in `not_finite` alone.
            labels: f32 (B,), 0 or 1.
            weights: f32 (B,).
        """
        lo = 0
        while lo < len(logits):
            current = int(self._current[0])
            room = self._segment_samples - int(self._sums[current, _SAMPLES])
            if room <= 0:
                current = (current + 1) % _SEGMENTS
                self._current[0] = current
                self._past_bins += self._bins[current]
                self._past_sums += self._sums[current]
                self._bins[current] = 0.0
                self._sums[current] = 0.0
                room = self._segment_samples
            hi = min(len(logits), lo + room)
            _tally(logits[lo:hi], labels[lo:hi], weights[lo:hi], self._bins[current], self._sums[current])
            lo = hi

    def summary(self) -> dict[str, float]:
        """The numbers that exist so far, all finite: of the whole run, and with `window_` before the name.

        `auc`, `normalised_entropy` need both classes, `calibration` (predicted over observed positives) a positive,
        `log_loss` any sample of weight; `samples` and `not_finite` are always there.
        """
        bins, sums = self._bins.sum(axis=0), self._sums.sum(axis=0)
        window = _numbers(bins, sums)
        run = _numbers(self._past_bins + bins, self._past_sums + sums)
        return {**run, **{f"window_{name}": value for name, value in window.items()}}

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of all counts, by name."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes back what `state` returned, under the same window.

        Raises:
            StateError: a name is missing or an array has another shape or dtype; nothing has changed then.
        """
        arrays = self._arrays()
        for name, target in arrays.items():
            found = state.get(name)
            if found is None or found.shape != target.shape or found.dtype != target.dtype:
                seen = "nothing" if found is None else f"{found.dtype} {found.shape}"
                message = f"metric state {name} is {seen}, expected {target.dtype} {target.shape}"
                raise StateError(message)
        for name, target in arrays.items():
            np.copyto(target, state[name])

    def _arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
        return {
            "past_bins": self._past_bins,
            "past_sums": self._past_sums,
            "bins": self._bins,
            "sums": self._sums,
            "current": self._current,
        }


def _numbers(bins: NDArray[np.float64], sums: NDArray[np.float64]) -> dict[str, float]:
    weight, positive = sums[_WEIGHT], sums[_POSITIVE]
    negative = weight - positive
    numbers = {"samples": float(sums[_SAMPLES]), "not_finite": float(sums[_NOT_FINITE])}
    if weight > 0:
        numbers["log_loss"] = float(sums[_LOSS] / weight)
    if positive > 0:
        numbers["calibration"] = float(sums[_PREDICTED] / positive)
    if positive > 0 and negative > 0:
        share = positive / weight
        entropy = -(share * np.log(share) + (1 - share) * np.log1p(-share))
        numbers["normalised_entropy"] = float(sums[_LOSS] / weight / entropy)
        below = np.cumsum(bins[0]) - 0.5 * bins[0]  # negatives under each bin, ties by half
        numbers["auc"] = float((bins[1] * below).sum() / (bins[0].sum() * bins[1].sum()))
    return numbers
