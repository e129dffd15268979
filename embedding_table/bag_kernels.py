"""Rows of a batch into (B, F, D), pooled, and gradients back into rows: the two kernels of the sparse side.

Knows nothing of ids, networks or threads; both run on a range of bags and are called per micro-batch from other
kernels. A bag is one (sample, slot): bag k = b * F + f holds lookups offsets[k] .. offsets[k + 1].

Invariant: what a narrow row computes is what a masked row of full width computes: its columns are scattered to where
they belong, the others read as zero, and the mean of squares runs over the active columns alone.

Row-wise Adagrad: m += mean_j g_j^2; w -= lr * g / (sqrt(m) + eps), with g summed over all lookups of the row in the
range (Duchi, Hazan, Singer 2011; row-wise as in FBGEMM's exact_rowwise_adagrad).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT
from embedding_table.prefetch import prefetch
from embedding_table.row_arena import ROW_BITS, TableViews, state_offset, value_offset
from model_contract.compiled import fast_kernel, kernel

__all__ = ["ACCUMULATOR", "COUNT", "LAST_SEEN", "TRAINED_STATE_WORDS", "UpdateScratch", "gather_bags", "new_scratch", "update_bags"]

ACCUMULATOR, COUNT, LAST_SEEN = 2, 3, 4  # state words after the id; COUNT's sign bit is the dirty mark
TRAINED_STATE_WORDS = 5
DIRTY_BIT = np.uint32(0x80000000)
_AHEAD = 16
_POOL_MEAN = 1


class UpdateScratch(NamedTuple):
    """Working memory of `update_bags`; one per thread, sized for the most lookups of a range.

    Attributes:
        following: i32 (L,), next lookup of the same row, -1 at the end.
        bag: i32 (L,), the bag of a lookup, counted from the range's start.
        row: u32 (L,), handles of the distinct rows.
        first: i32 (L,), a row's first lookup in `following`.
        accumulator: f32 (L,), a row's accumulator while its state word holds its number in `row`.
        gradient: f32 (D,), one row's summed gradient.
    """

    following: NDArray[np.int32]
    bag: NDArray[np.int32]
    row: NDArray[np.uint32]
    first: NDArray[np.int32]
    accumulator: NDArray[np.float32]
    gradient: NDArray[np.float32]


def new_scratch(lookups: int, dim: int) -> UpdateScratch:
    """Working memory for ranges of at most `lookups` lookups and rows of at most `dim` columns."""
    return UpdateScratch(
        np.empty(lookups, np.int32),
        np.empty(lookups, np.int32),
        np.empty(lookups, np.uint32),
        np.empty(lookups, np.int32),
        np.empty(lookups, np.float32),
        np.empty(dim, np.float32),
    )


@fast_kernel
def gather_bags(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    out: NDArray[np.float32],
) -> None:
    """Pools the rows of bags lo_bag .. hi_bag into `out`.

    Args:
        views: of the table.
        handles: u32 (L,), ABSENT counts as a row of zeros.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        out: f32 (hi_bag - lo_bag, D), C order, overwritten.
    """
    slots = pooling.size
    dim = out.shape[1]
    end = offsets[hi_bag]
    for bag in range(lo_bag, hi_bag):
        target = out[bag - lo_bag]
        target[:] = np.float32(0)
        for lookup in range(offsets[bag], offsets[bag + 1]):
            if lookup + _AHEAD < end:
                ahead = handles[lookup + _AHEAD]
                if ahead != ABSENT:
                    prefetch(views.values, value_offset(views, ahead))
            handle = handles[lookup]
            if handle == ABSENT:
                continue
            start = value_offset(views, handle)
            slab = handle >> np.uint32(ROW_BITS)
            width = views.slab_width[slab]
            if width == dim:
                for column in range(dim):
                    target[column] += views.values[start + column]
            else:
                block = views.slab_block[slab]
                for column in range(width):
                    target[views.block_columns[block, column]] += views.values[start + column]
        members = offsets[bag + 1] - offsets[bag]
        if members > 1 and pooling[bag % slots] == _POOL_MEAN:
            scale = np.float32(1) / np.float32(members)
            for column in range(dim):
                target[column] *= scale


@kernel
def _list_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    lo_bag: int,
    hi_bag: int,
    scratch: UpdateScratch,
) -> int:
    """Groups the lookups of the range by row; answers the number of rows.

    A row's accumulator word holds its number in `scratch.row` meanwhile; a word that holds anything else, even a
    number left by chance, does not point back to the row. No table of its own, no clearing.
    """
    rows = 0
    begin = offsets[lo_bag]
    end = offsets[hi_bag]
    for bag in range(lo_bag, hi_bag):
        for lookup in range(offsets[bag], offsets[bag + 1]):
            if lookup + _AHEAD < end and handles[lookup + _AHEAD] != ABSENT:
                prefetch(views.words, state_offset(views, handles[lookup + _AHEAD]))
            handle = handles[lookup]
            if handle == ABSENT:
                continue
            local = lookup - begin
            scratch.bag[local] = bag - lo_bag
            at = state_offset(views, handle) + ACCUMULATOR
            number = np.int64(views.words[at])
            if number < rows and scratch.row[number] == handle:
                scratch.following[local] = scratch.first[number]
            else:
                number = rows
                rows += 1
                scratch.row[number] = handle
                scratch.accumulator[number] = views.values[at]
                views.words[at] = np.uint32(number)
                scratch.following[local] = -1
            scratch.first[number] = local
    return rows


@fast_kernel
def update_bags(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    lo_bag: int,
    hi_bag: int,
    grad: NDArray[np.float32],
    lr: float,
    eps: float,
    now_s: int,
    scratch: UpdateScratch,
) -> None:
    """One step of row-wise Adagrad on every row of bags lo_bag .. hi_bag, its gradient summed over all its lookups.

    Counts the lookups of each row, notes now_s as last seen, marks the row dirty. No other update may run meanwhile.

    Args:
        views: of a table with trained state.
        handles: u32 (L,), ABSENT is passed over.
        offsets: i64 (B*F + 1,).
        pooling: i8 (F,), 0 sum, 1 mean.
        lo_bag: first bag.
        hi_bag: behind the last bag.
        grad: f32 (hi_bag - lo_bag, D), C order, of the pooled rows.
        lr: learning rate.
        eps: added to the root of the accumulator.
        now_s: seconds since epoch.
        scratch: for as many lookups as the range holds.
    """
    slots = pooling.size
    dim = grad.shape[1]
    rate = np.float32(lr)
    tiny = np.float32(eps)
    rows = _list_rows(views, handles, offsets, lo_bag, hi_bag, scratch)
    total = scratch.gradient
    dirty_length = views.dirty_length[0]
    for number in range(rows):
        if number + _AHEAD < rows:
            prefetch(views.values, value_offset(views, scratch.row[number + _AHEAD]))
        handle = scratch.row[number]
        total[:] = np.float32(0)
        occurrences = 0
        lookup = scratch.first[number]
        while lookup >= 0:
            bag = scratch.bag[lookup]
            members = offsets[lo_bag + bag + 1] - offsets[lo_bag + bag]
            scale = np.float32(1)
            if members > 1 and pooling[(lo_bag + bag) % slots] == _POOL_MEAN:
                scale = np.float32(1) / np.float32(members)
            for column in range(dim):
                total[column] += scale * grad[bag, column]
            occurrences += 1
            lookup = scratch.following[lookup]
        slab = handle >> np.uint32(ROW_BITS)
        width = np.int64(views.slab_width[slab])
        block = views.slab_block[slab]
        if width != dim:
            for column in range(width):
                total[column] = total[views.block_columns[block, column]]
        squares = np.float32(0)
        for column in range(width):
            squares += total[column] * total[column]
        accumulator = scratch.accumulator[number] + squares / np.float32(max(width, 1))
        step = rate / (np.sqrt(accumulator) + tiny)
        start = value_offset(views, handle)
        for column in range(width):
            views.values[start + column] -= step * total[column]
        state = state_offset(views, handle)
        views.values[state + ACCUMULATOR] = accumulator
        views.words[state + LAST_SEEN] = np.uint32(now_s)
        if not views.words[state + COUNT] & DIRTY_BIT:
            views.dirty[dirty_length] = handle
            dirty_length += 1
        views.values[state + COUNT] = -(np.abs(views.values[state + COUNT]) + np.float32(occurrences))
    views.dirty_length[0] = dirty_length
