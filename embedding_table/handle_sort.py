"""Brings lookups of one slab together: a radix sort of 64-bit keys, handle and bag, by the handle's slab.

Knows no table. Invariant: lookups of one slab keep their order; nothing is allocated. Rows of one slab are not put in
order: their place in it, a small number, tells them apart. One pass goes by the lower digit of the slab; most slabs of
a slot were taken one after another, so that few are still mixed with others then, and few lookups move once more. A
slot's lookups may be sorted in shares, cut between two values of that digit, so that a slab is in one.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.row_layout import ROW_BITS
from model_contract.compiled import lean_kernel

__all__ = ["SLAB_COUNTS", "bag_of", "group_by_slab", "handle_of"]

_DIGIT_BITS = 13
_DIGIT_VALUES = 1 << _DIGIT_BITS
SLAB_COUNTS = _DIGIT_VALUES + 1
"""Size of the working memory of `group_by_slab`: a count for every value of a digit, and one for what is not wanted."""

_FEW = np.uint64(64 * _DIGIT_VALUES)  # with more of a digit, insertion would take longer than a second pass

_ONE, _HALF_BITS = np.uint64(1), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_ROW_BITS = np.uint64(ROW_BITS)
_HIGH_SHIFT = np.uint64(32 + ROW_BITS + _DIGIT_BITS)
_DIGIT_MASK = np.uint64(_DIGIT_VALUES - 1)


@lean_kernel
def handle_of(key: np.uint64) -> np.uint32:
    """Upper half of a key."""
    return np.uint32(key >> _HALF_BITS)


@lean_kernel
def bag_of(key: np.uint64) -> np.uint64:
    """Lower half of a key: the number of its bag among those of the slot that are not empty."""
    return key & _LOW


@lean_kernel
def _low_digit(handle: np.uint32) -> np.uint64:
    return np.uint64(handle) >> _ROW_BITS & _DIGIT_MASK


@lean_kernel
def _count_digits(
    handles: NDArray[np.uint32], offsets: NDArray[np.int64], bags: tuple[int, int, int], counts: NDArray[np.uint32]
) -> np.uint64:
    """How many lookups have each lower digit, ABSENT left out; answers how many in all."""
    counts[:] = 0
    total = np.uint64(0)
    for bag in range(bags[0], bags[1], bags[2]):
        for lookup in range(np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])):
            there = np.uint32(handles[lookup] != ABSENT)
            counts[_low_digit(handles[lookup])] += there
            total += np.uint64(there)
    return total


@lean_kernel
def _share_of_digits(counts: NDArray[np.uint32], first: np.uint64, last: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The digits with lookup first .. last of all: the lowest one and how many; `counts` becomes where theirs start.

    Behind these stands how many lookups they have.
    """
    low = own = passed = np.uint64(0)
    start = np.uint32(0)
    for value in range(np.uint64(_DIGIT_VALUES)):
        found = counts[value]
        if passed < first:
            low = value + _ONE
        elif passed < last:
            counts[own] = start
            start += found
            own += _ONE
        passed += np.uint64(found)
    counts[own] = start
    return low, own


@lean_kernel
def _part_few(keys: NDArray[np.uint64], count: np.uint64) -> None:
    """Orders keys of one lower digit by the higher one, by insertion."""
    for place in range(_ONE, count):
        key = keys[place]
        at = np.uint64(place)
        while at and keys[at - _ONE] >> _HIGH_SHIFT > key >> _HIGH_SHIFT:
            before = keys[at - _ONE]
            if _low_digit(handle_of(before)) != _low_digit(handle_of(key)):
                break
            keys[at] = before
            at -= _ONE
        keys[at] = key


@lean_kernel
def _sort_by_high_digit(
    keys: NDArray[np.uint64], other: NDArray[np.uint64], count: np.uint64, counts: NDArray[np.uint32]
) -> None:
    counts[:] = 0
    for place in range(count):
        counts[keys[place] >> _HIGH_SHIFT] += np.uint32(1)
    start = np.uint32(0)
    for value in range(counts.size):
        found = counts[value]
        counts[value] = start
        start += found
    for place in range(count):
        key = keys[place]
        value = key >> _HIGH_SHIFT
        other[np.uint64(counts[value])] = key
        counts[value] += np.uint32(1)


@lean_kernel
def group_by_slab(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    bags: tuple[int, int, int],
    share: tuple[np.uint64, np.uint64, np.uint64],
    keys: NDArray[np.uint64],
    other: NDArray[np.uint64],
    counts: NDArray[np.uint32],
) -> tuple[NDArray[np.uint64], np.uint64]:
    """Keys of the lookups in these bags, those of one slab together; answers which array holds them and how many.

    Args:
        handles: u32 (L,), ABSENT is left out.
        offsets: i64 (bags + 1,).
        bags: first bag, behind the last, step; those without lookups have no number.
        share: (a, b, n): only the slabs with lookups a / n .. b / n of all. Shares with common ends make up the whole.
        keys: u64, one more than there are lookups, overwritten.
        other: u64, likewise.
        counts: u32 (SLAB_COUNTS,), overwritten.
    """
    total = _count_digits(handles, offsets, bags, counts)
    if not total:
        return keys, total
    low, own = _share_of_digits(counts, total * share[0] // share[2], total * share[1] // share[2])
    count = np.uint64(counts[own])
    number = np.uint64(0)
    for bag in range(bags[0], bags[1], bags[2]):
        begin, end = np.uint64(offsets[bag]), np.uint64(offsets[bag + 1])
        for lookup in range(begin, end):
            handle = handles[lookup]
            value = min(_low_digit(handle) - low, own)
            if handle == ABSENT:
                value = own
            at = counts[value]
            keys[np.uint64(at)] = np.uint64(handle) << _HALF_BITS | number
            counts[value] = at + np.uint32(value != own)
        number += np.uint64(begin != end)
    if count <= _FEW:
        _part_few(keys, count)
        return keys, count
    _sort_by_high_digit(keys, other, count, counts)
    return other, count
