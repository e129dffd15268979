"""Brings lookups of one slab together: a radix sort of 64-bit keys with a handle in the upper half, by its slab.

Knows no table; the lower half of a key is the caller's. Invariant: keys of one slab keep their order; nothing is
allocated. Rows of one slab are not put in order: their place in it, a small number, tells them apart. Where slabs of
the keys lie within a window of `_DIGIT_VALUES`, 512 MiB of rows, one pass is enough, and slabs come in ascending order
but for one turn from the last of the window to its first.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.row_layout import ROW_BITS
from model_contract.compiled import lean_kernel

__all__ = ["SLAB_COUNTS", "handle_of", "key_of", "low_half", "sort_by_slab"]

_DIGIT_BITS = 13
_DIGIT_VALUES = 1 << _DIGIT_BITS
SLAB_COUNTS = _DIGIT_VALUES
"""Size of the working memory of `sort_by_slab`: a count for every value of a digit."""

_ONE, _HALF_BITS = np.uint64(1), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_SLAB_SHIFT = np.uint64(32 + ROW_BITS)
_DIGIT_MASK = np.uint64(_DIGIT_VALUES - 1)


@lean_kernel
def key_of(handle: np.uint32, low: np.uint64) -> np.uint64:
    """A key."""
    return np.uint64(handle) << _HALF_BITS | low


@lean_kernel
def handle_of(key: np.uint64) -> np.uint32:
    """Upper half of a key."""
    return np.uint32(key >> _HALF_BITS)


@lean_kernel
def low_half(key: np.uint64) -> np.uint64:
    """Lower half of a key."""
    return key & _LOW


@lean_kernel
def _by_digit(
    keys: NDArray[np.uint64], other: NDArray[np.uint64], count: np.uint64, counts: NDArray[np.uint32], shift: np.uint64
) -> None:
    """Sorts `keys` into `other` by the digit at bit `shift`; `counts` holds how many have each value."""
    start = np.uint32(0)
    for value in range(counts.size):
        found = counts[value]
        counts[value] = start
        start += found
    for place in range(count):
        key = keys[place]
        value = key >> shift & _DIGIT_MASK
        other[np.uint64(counts[value])] = key
        counts[value] += np.uint32(1)


@lean_kernel
def sort_by_slab(
    keys: NDArray[np.uint64], other: NDArray[np.uint64], count: np.uint64, counts: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """Brings the first `count` keys of each slab together; answers which of the two arrays holds them.

    Args:
        keys: u64, at least `count`, overwritten.
        other: u64, likewise.
        count: how many.
        counts: u32 (SLAB_COUNTS,), overwritten.
    """
    counts[:] = 0
    lowest, highest = ~np.uint64(0), np.uint64(0)
    for place in range(count):
        slab = keys[place] >> _SLAB_SHIFT
        counts[slab & _DIGIT_MASK] += np.uint32(1)
        lowest, highest = min(lowest, slab), max(highest, slab)
    if not count:
        return keys
    _by_digit(keys, other, count, counts, _SLAB_SHIFT)
    if highest - lowest <= _DIGIT_MASK:
        return other
    shift = _SLAB_SHIFT + np.uint64(_DIGIT_BITS)
    counts[:] = 0
    for place in range(count):
        counts[other[place] >> shift] += np.uint32(1)
    _by_digit(other, keys, count, counts, shift)
    return keys
