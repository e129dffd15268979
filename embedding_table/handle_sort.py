"""Sorts lookups by the row they go to: a radix sort of 64-bit keys with a handle in the upper half.

Knows no table; the lower half of a key is the caller's. Invariant: keys of one handle keep their order; nothing is
allocated. Three passes over keys in the cache cost less than one over the rows' scattered state words, and rows are
then met in the order they lie in memory.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel

__all__ = ["DIGIT_COUNTS", "handle_of", "key_of", "low_half", "sort_by_handle"]

DIGIT_COUNTS = 3 << 11
"""Size of the working memory of `sort_by_handle`: a count for every value of each digit."""

_ONE, _HALF_BITS = np.uint64(1), np.uint64(32)
_DIGIT_BITS = np.uint64(11)
_LOW = np.uint64(0xFFFFFFFF)


@kernel
def key_of(handle: np.uint32, low: np.uint64) -> np.uint64:
    """A key."""
    return np.uint64(handle) << _HALF_BITS | low


@kernel
def handle_of(key: np.uint64) -> np.uint32:
    """Upper half of a key."""
    return np.uint32(key >> _HALF_BITS)


@kernel
def low_half(key: np.uint64) -> np.uint64:
    """Lower half of a key."""
    return key & _LOW


@kernel
def sort_by_handle(
    keys: NDArray[np.uint64], other: NDArray[np.uint64], count: np.uint64, counts: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Sorts the first `count` keys; answers which of the two arrays holds them.

    Args:
        keys: u64, at least `count`, overwritten.
        other: u64, likewise.
        count: how many.
        counts: i64 (DIGIT_COUNTS,), overwritten.
    """
    every = np.uint64(0)
    for place in range(count):
        every |= keys[place] >> _HALF_BITS
    bits = np.uint64(0)
    while every >> bits:
        bits += _ONE
    passes = (bits + _DIGIT_BITS - _ONE) // _DIGIT_BITS
    width = (bits + passes - _ONE) // max(passes, _ONE)
    size = _ONE << width
    counts[: passes * size] = 0
    for place in range(count):
        handle = keys[place] >> _HALF_BITS
        for digit in range(passes):
            counts[digit * size + (handle >> digit * width & size - _ONE)] += 1
    for digit in range(passes):
        start = 0
        for value in range(digit * size, (digit + _ONE) * size):
            found = counts[value]
            counts[value] = start
            start += found
        shift = _HALF_BITS + digit * width
        for place in range(count):
            key = keys[place]
            value = digit * size + (key >> shift & size - _ONE)
            other[np.uint64(counts[value])] = key
            counts[value] += 1
        keys, other = other, keys
    return keys
