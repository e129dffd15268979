"""The distinct rows of a batch and each one's summed gradient, in one pass over the lookups.

Knows bags and rows' state words; not the optimizer. A row's accumulator word holds its number in order of first
appearance meanwhile; a word that holds anything else, even a number left by chance, does not point back to the row. So
there is no table of the batch's own to fill, to search and to clear.

Invariant: after it, scratch.accumulator holds what those words held, and gradients lie in scratch.gradient by number.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.machine_words import add_row, add_scaled_row, copy_row, fill_row, prefetch
from embedding_table.row_adagrad import POOL_MEAN, PREFETCH_AHEAD
from embedding_table.row_layout import ACCUMULATOR, TableViews, state_offset
from embedding_table.update_scratch import UpdateScratch
from model_contract.compiled import lean_kernel

__all__ = ["sum_of_bags", "sum_of_single_lookups"]

_ONE = np.uint64(1)


@lean_kernel
def sum_of_single_lookups(
    views: TableViews,
    handles: NDArray[np.uint32],
    first: np.uint64,
    count: np.uint64,
    grad: NDArray[np.float32],
    dim: np.uint64,
    scratch: UpdateScratch,
) -> np.uint64:
    """Sums over bags with one member each; answers the number of rows.

    Args:
        views: of a table with trained state.
        handles: u32 (L,), ABSENT is passed over.
        first: first lookup.
        count: lookups, and bags.
        grad: f32 (count * D,), flat.
        dim: D.
        scratch: with room for `count` gradients.
    """
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    listed, counts, accumulators, totals = scratch.row, scratch.lookups, scratch.accumulator, scratch.gradient
    rows = np.uint64(0)
    for place in range(count):
        if place + PREFETCH_AHEAD < count:
            prefetch(words, state_offset(handles[first + place + PREFETCH_AHEAD], state_words))
        handle = handles[first + place]
        if handle == ABSENT:
            continue
        at = state_offset(handle, state_words) + ACCUMULATOR
        number = np.uint64(words[at])
        if number < rows and listed[number] == handle:
            counts[number] += 1
            add_row(totals, number * dim, grad, place * dim, dim)
        else:
            listed[rows] = handle
            accumulators[rows] = values[at]
            words[at] = np.uint32(rows)
            counts[rows] = 1
            copy_row(totals, rows * dim, grad, place * dim, dim)
            rows += _ONE
    return rows


@lean_kernel
def sum_of_bags(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: np.uint64,
    hi_bag: np.uint64,
    grad: NDArray[np.float32],
    dim: np.uint64,
    scratch: UpdateScratch,
) -> np.uint64:
    """Sums over bags of any size, a bag's gradient counting for each member as it was pooled; answers as above.

    Args:
        views: of a table with trained state.
        handles: u32 (L,), ABSENT is passed over.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        grad: f32 ((hi_bag - lo_bag) * D,), flat.
        dim: D.
        scratch: with room for as many gradients as the bags have lookups.
    """
    values, words, state_words = views.values, views.words, np.uint64(views.state_words)
    listed, counts, accumulators, totals = scratch.row, scratch.lookups, scratch.accumulator, scratch.gradient
    slots = np.uint64(pooling.size)
    lookup_end = np.uint64(offsets[hi_bag])
    rows = np.uint64(0)
    for bag in range(lo_bag, hi_bag):
        begin, end = np.uint64(offsets[bag]), np.uint64(offsets[bag + _ONE])
        shared = end > begin + _ONE and pooling[bag % slots] == POOL_MEAN
        scale = np.float32(1) / np.float32(end - begin) if shared else np.float32(1)
        start = (bag - lo_bag) * dim
        for lookup in range(begin, end):
            if lookup + PREFETCH_AHEAD < lookup_end:
                prefetch(words, state_offset(handles[lookup + PREFETCH_AHEAD], state_words))
            handle = handles[lookup]
            if handle == ABSENT:
                continue
            at = state_offset(handle, state_words) + ACCUMULATOR
            number = np.uint64(words[at])
            if number < rows and listed[number] == handle:
                counts[number] += 1
            else:
                number = rows
                listed[number] = handle
                accumulators[number] = values[at]
                words[at] = np.uint32(number)
                counts[number] = 1
                rows += _ONE
                fill_row(totals, number * dim, dim, np.float32(0))
            if shared:
                add_scaled_row(totals, number * dim, grad, start, dim, scale)
            else:
                add_row(totals, number * dim, grad, start, dim)
    return rows
