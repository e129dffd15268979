"""Scale and bias of each row in the form they are stored in: binary16, entries of codebooks, or a block's.

Knows ends of rows, not rows or bytes. Invariant: what is chosen for a decoded row is what was chosen for the row; a row
that its form cannot hold gets scale 0. For codebooks that takes two rules that packing has to keep: the least value of
a row gets code 0, so that its bias is found again by being nearest to itself, and the greatest one a code at least so
high that no smaller scale of the codebook would do.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.packed_words import CODED, CODES, HALF
from embedding_table.row_ranges import Ends, coded_step, half_range, spacing
from model_contract.compiled import kernel

__all__ = ["RowScales", "scales_of"]

_CODES = np.uint64(CODES)
_LARGEST = np.float32(np.finfo(np.float32).max)
_UNDER = np.float32(1 - 2.0**-13)  # allows for the rounding of decoded values; short floats are 2**-11 apart at least
_OVER = np.float32(1 + 2.0**-12)
_ZERO = np.float32(0)


class RowScales(NamedTuple):
    """What the codes of n rows mean, and how that is written.

    Attributes:
        scale: f32 (n,), 0 where a row fits no scale.
        bias: f32 (n,).
        scale_code: u8 (n,), number of the scale in its codebook, CODED alone.
        bias_code: u8 (n,), likewise.
        least: u8 (n,), the least code that the greatest value of the row may take.
    """

    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale_code: NDArray[np.uint8]
    bias_code: NDArray[np.uint8]
    least: NDArray[np.uint8]


@kernel
def _entries_below(shared: NDArray[np.float32], first: np.uint64, value: np.float32) -> np.uint64:
    """How many of the 256 ascending entries from `first` on are below a value."""
    below, step = np.uint64(0), _CODES >> np.uint64(1)
    while step:  # no branch on an entry: half of them would be foreseen wrongly
        below += step * np.uint64(shared[first + below + step - np.uint64(1)] < value)
        step >>= np.uint64(1)
    return below + np.uint64(shared[first + below] < value)


@kernel
def _nearest_entry(shared: NDArray[np.float32], value: np.float32) -> np.uint64:
    """Number of the nearest bias, the lower one halfway, the first of equal ones."""
    found = min(_entries_below(shared, _CODES, value), _CODES - np.uint64(1))
    if found and value - shared[_CODES + found - np.uint64(1)] <= shared[_CODES + found] - value:
        found -= np.uint64(1)
    while found and shared[_CODES + found - np.uint64(1)] == shared[_CODES + found]:
        found -= np.uint64(1)
    return found


@kernel
def _half_scales(
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    levels: np.float32,
    scales: NDArray[np.float32],
    biases: NDArray[np.float32],
) -> None:
    for row in range(low.size):
        scale, bias = half_range(low[row], high[row], levels)
        scales[row] = scale if abs(bias) <= _LARGEST and scale <= _LARGEST else _ZERO
        biases[row] = bias


@kernel
def _coded_scales(
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    levels: np.float32,
    shared: NDArray[np.float32],
    out: RowScales,
) -> None:
    scales, biases, leasts = out.scale, out.bias, out.least
    scale_codes, bias_codes = out.scale_code, out.bias_code
    lowest, highest = shared[_CODES], shared[_CODES + _CODES - np.uint64(1)]
    for row in range(low.size):
        bias_code = _nearest_entry(shared, low[row])
        bias = shared[_CODES + bias_code]
        step = coded_step(low[row], high[row], bias, levels)
        scale_code = _entries_below(shared, np.uint64(0), step * _UNDER)
        scales[row], biases[row] = _ZERO, bias
        if scale_code == _CODES:
            continue
        scale = shared[scale_code]
        if not bias + levels * scale <= _LARGEST:
            continue
        if low[row] < lowest - scale or low[row] > highest + scale:
            continue
        scales[row] = scale
        scale_codes[row], bias_codes[row], leasts[row] = scale_code, bias_code, 0
        if scale_code > np.uint64(0):
            smaller = shared[scale_code - np.uint64(1)] * _OVER
            if spacing(bias) <= smaller:
                leasts[row] = np.uint64(levels * smaller / scale) + np.uint64(1)


def scales_of(ends: Ends, bits: int, form: int, shared: NDArray[np.float32]) -> RowScales:
    """Scales and biases for rows.

    Args:
        ends: f32 (n,) each, what the codes of each row should cover.
        bits: of a code.
        form: HALF, CODED or BLOCK.
        shared: what the form shares.

    Returns:
        with scale 0 where the form cannot cover the row: binary16 ends below 65520, codebooks and blocks give or take
        a step what they were learned from, and every code must decode to a finite number.
    """
    low, high = ends
    rows, levels = low.size, np.float32((1 << bits) - 1)
    codes = np.empty((3, rows if form == CODED else 0), np.uint8)
    found = RowScales(np.empty(rows, np.float32), np.empty(rows, np.float32), codes[0], codes[1], codes[2])
    if form == HALF:
        _half_scales(low, high, levels, found.scale, found.bias)
    elif form == CODED:
        _coded_scales(low, high, levels, shared, found)
    else:
        scale, bias = shared
        with np.errstate(over="ignore", invalid="ignore"):
            top = bias + levels * scale
            reached = (high <= top + scale) & (low >= bias - scale) & np.isfinite(top) & np.isfinite(bias)
        found.scale[:], found.bias[:] = np.where(reached, scale, _ZERO), bias
    return found
