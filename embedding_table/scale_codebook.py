"""What the rows of a block share: two codebooks of 256 scales and biases, or one scale and bias for all.

Knows the ends of rows, not rows. The idea of coding the scales themselves is that of Guan et al. 2019 (arXiv
1911.02079, section on codebooks); here one byte stands for a scale and one for a bias. A bias is placed to within a
part of its row's step, so errors are weighed by 1 / step^2 and a block of small and large rows serves both; a scale is
the greatest of its cell, so that no row is cut off.

Invariant: the same ends in the same order give the same entries; entries are short floats, ascending, and cover all
rows they were learned from. Rows that were packed with fewer than 257 scales and biases keep every one of them.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.packed_words import CODES
from embedding_table.row_ranges import LARGEST_SHORT, SHORT_FINEST, Ends, short_floats

__all__ = ["learn_block_range", "learn_codebooks", "steps_of"]

_SAMPLE = 1 << 14  # rows learned from; four times as many lose the same and take longer than packing does
_ROUNDS = 12
_LARGEST = np.float32(np.finfo(np.float32).max)
_SHORT_ULP = np.float32(2.0**-10)
_UNDER = np.float32(1 - 2.0**-13)  # what `integer_rows` allows for the rounding of decoded values


def learn_codebooks(ranges: Ends, ends: Ends, bits: int) -> NDArray[np.float32]:
    """Two codebooks for rows.

    Args:
        ranges: f32 (n,) each, what the codes of each row should cover.
        ends: f32 (n,) each, the rows' least and greatest values; they are covered as well.
        bits: of a code.

    Returns:
        f32 (512,): 256 scales, then 256 biases, each ascending and filled up with its last.
    """
    if ranges[0].size == 0:
        return np.concatenate([np.full(CODES, SHORT_FINEST), np.zeros(CODES, np.float32)])
    every = np.linspace(0, ranges[0].size - 1, min(_SAMPLE, ranges[0].size)).astype(np.int64)
    low, high = ranges[0][every], ranges[1][every]
    least, most = ends[0].min(), ends[0].max()
    biases = _bias_entries(low, steps_of(low, high, low, bits), least, most)
    steps = _steps_under(low, high, biases, bits)
    if every.size == ends[0].size:
        largest = _steps_under(*ends, biases, bits).max()
    else:  # every row's bias is at most the widest gap below its least value
        gap = np.diff(biases).max(initial=0) / np.float32((1 << bits) - 1)
        largest = steps_of(*ends, ends[0], bits).max() + gap
    scales = _scale_entries(np.append(steps, np.minimum(largest, _LARGEST)))
    return np.concatenate([_filled(scales), _filled(biases)])


def learn_block_range(ends: Ends, bits: int) -> NDArray[np.float32]:
    """One scale and bias, f32 (2,), that cover the rows with these ends."""
    if ends[0].size == 0:
        return np.array([SHORT_FINEST, 0], np.float32)
    low, high = ends[0].min(keepdims=True), ends[1].max(keepdims=True)
    bias = short_floats(low) + np.float32(0)
    return np.concatenate([short_floats(steps_of(low, high, bias, bits)), bias])


def steps_of(
    low: NDArray[np.float32], high: NDArray[np.float32], bias: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    """What the scale of each row should be, given its bias; see `row_ranges.coded_step`."""
    exponents = (np.ascontiguousarray(bias).view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
    finest = np.maximum(exponents * _SHORT_ULP, SHORT_FINEST)
    with np.errstate(over="ignore"):
        reach = np.where(high > low, high - bias, np.float32(0)) / np.float32((1 << bits) - 1)
    return np.asarray(np.maximum(reach, finest), np.float32)


def _steps_under(
    low: NDArray[np.float32], high: NDArray[np.float32], biases: NDArray[np.float32], bits: int
) -> NDArray[np.float32]:
    middles = (biases[1:].astype(np.float64) + biases[:-1]) / 2
    return steps_of(low, high, biases[np.searchsorted(middles, low)], bits)


def _bias_entries(
    low: NDArray[np.float32], steps: NDArray[np.float32], least: np.float32, most: np.float32
) -> NDArray[np.float32]:
    exact = np.unique(short_floats(np.append(low, [least, most])) + np.float32(0))
    if exact.size <= CODES:
        return exact
    order = np.argsort(low, kind="stable")
    weights = 1 / steps[order].astype(np.float64) ** 2
    values = low[order].astype(np.float64)
    borders = _cells(values, weights)
    middles = (_sums(weights * values, borders) / _sums(weights, borders)).astype(np.float32)
    return np.unique(short_floats(np.concatenate([[least], middles[1:-1], [most]])) + np.float32(0))


def _scale_entries(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Entries that serve all `steps`, the last of which is the largest."""
    exact = np.unique(_short_above(steps))
    if exact.size <= CODES:
        return exact
    ordered = np.sort(steps)
    borders = _cells(np.log(ordered.astype(np.float64)), np.ones(ordered.size))
    return np.unique(_short_above(ordered[borders[1:] - 1]))


def _short_above(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """The least short floats that serve as scales for steps, if there are any so large."""
    bits = (steps * _UNDER).view(np.uint32)
    above = ((bits + np.uint32(0x1FFF)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.minimum(above, LARGEST_SHORT)


def _cells(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Borders (k + 1,) of 256 cells of ascending values: Lloyd's rounds from cells of like weight^(1/3)."""
    density = np.cumsum(np.cbrt(weights) * np.cbrt(np.gradient(values)) ** 2 + 1e-30)
    borders = np.searchsorted(density, density[-1] * np.arange(1, CODES) / CODES)
    for _ in range(_ROUNDS):
        borders = np.unique(np.concatenate([[0], borders, [values.size]]))
        mass, moment = _sums(weights, borders), _sums(weights * values, borders)
        means = moment / mass
        borders = np.searchsorted(values, (means[1:] + means[:-1]) / 2)
    return np.unique(np.concatenate([[0], borders, [values.size]]))


def _sums(values: NDArray[np.float64], borders: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.add.reduceat(values, borders[:-1])


def _filled(entries: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.append(entries, np.full(CODES - entries.size, entries[-1])).astype(np.float32)
