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
from embedding_table.machine_words import (
    add_row,
    add_scaled_row,
    copy_row,
    fill_row,
    prefetch,
    sum_of_squares,
    weighted_sum_of_rows,
)
from embedding_table.row_layout import (
    ACCUMULATOR,
    COUNT,
    DIRTY_BIT,
    LAST_SEEN,
    ROW_BITS,
    TableViews,
    state_offset,
    value_offset,
)
from model_contract.compiled import fast_kernel, kernel

__all__ = [
    "POOL_MEAN",
    "UpdateScratch",
    "gather_bags",
    "new_scratch",
    "number_rows",
    "sort_by_row",
    "train_rows",
    "update_bags",
]

_AHEAD = 16
POOL_MEAN = 1
_LINE_FLOATS = 16


class UpdateScratch(NamedTuple):
    """Working memory of `update_bags`; one per thread, sized for the most lookups of a range.

    Attributes:
        number: i32 (L,), the lookup's row, numbered in order of first appearance, -1 for none.
        row: u32 (L,), handles of the distinct rows by number.
        end: i32 (L,), behind a row's last lookup in the two below.
        bag: i32 (L,), bags by row, counted from the range's start, a row's in order of lookup.
        scale: f32 (L,), likewise what the bag's gradient counts for each of its members.
        accumulator: f32 (L,), a row's accumulator while its state word holds its number.
        gradient: f32 (D,), one row's summed gradient.
    """

    number: NDArray[np.int32]
    row: NDArray[np.uint32]
    end: NDArray[np.int32]
    bag: NDArray[np.int32]
    scale: NDArray[np.float32]
    accumulator: NDArray[np.float32]
    gradient: NDArray[np.float32]


def new_scratch(lookups: int, dim: int) -> UpdateScratch:
    """Working memory for ranges of at most `lookups` lookups and gradients of `dim` columns."""
    return UpdateScratch(
        number=np.empty(lookups, np.int32),
        row=np.empty(lookups, np.uint32),
        end=np.empty(lookups, np.int32),
        bag=np.empty(lookups, np.int32),
        scale=np.empty(lookups, np.float32),
        accumulator=np.empty(lookups, np.float32),
        gradient=np.empty(dim, np.float32),
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
    values, slab_width, slab_block, block_columns = (
        views.values,
        views.slab_width,
        views.slab_block,
        views.block_columns,
    )
    dim = out.shape[1]
    flat = out.reshape(-1)
    end = offsets[hi_bag]
    for bag in range(lo_bag, hi_bag):
        at = (bag - lo_bag) * dim
        begin = offsets[bag]
        members = offsets[bag + 1] - begin
        if members != 1:
            fill_row(flat, at, dim, np.float32(0))
        for lookup in range(begin, begin + members):
            if lookup + _AHEAD < end and handles[lookup + _AHEAD] != ABSENT:
                ahead = handles[lookup + _AHEAD]
                width = np.int64(slab_width[ahead >> ROW_BITS])
                start = value_offset(ahead, width)
                for column in range(0, width, _LINE_FLOATS):
                    prefetch(values, start + column)
            handle = handles[lookup]
            width = np.int64(slab_width[handle >> ROW_BITS]) if handle != ABSENT else np.int64(0)
            start = value_offset(handle, width)
            if width == dim:
                if members == 1:
                    copy_row(flat, at, values, start, dim)
                else:
                    add_row(flat, at, values, start, dim)
                continue
            if members == 1:
                fill_row(flat, at, dim, np.float32(0))
            if width:
                block = slab_block[handle >> ROW_BITS]
                for column in range(width):
                    flat[at + np.int64(block_columns[block, column])] += values[start + column]
        if members > 1 and pooling[bag % pooling.size] == POOL_MEAN:
            scale = np.float32(1) / np.float32(members)
            for column in range(dim):
                flat[at + column] *= scale


@kernel
def number_rows(
    views: TableViews,
    handles: NDArray[np.uint32],
    lo: int,
    hi: int,
    scratch: UpdateScratch,
) -> int:
    """Numbers the rows of lookups lo .. hi in order of first appearance and counts their lookups in `end`.

    A row's accumulator word holds its number meanwhile; a word that holds anything else, even a number left by
    chance, does not point back to the row. No table of its own, no clearing.
    """
    values, words, state_words = views.values, views.words, views.state_words
    listed, numbers, counts, accumulator = scratch.row, scratch.number, scratch.end, scratch.accumulator
    rows = 0
    for lookup in range(lo, hi):
        if lookup + _AHEAD < hi:
            prefetch(words, state_offset(handles[lookup + _AHEAD], state_words))
        handle = handles[lookup]
        if handle == ABSENT:
            numbers[lookup - lo] = -1
            continue
        at = state_offset(handle, state_words) + ACCUMULATOR
        number = np.int64(words[at])
        if number < rows and listed[number] == handle:
            counts[number] += 1
        else:
            number = np.int64(rows)
            rows += 1
            listed[number] = handle
            accumulator[number] = values[at]
            words[at] = np.uint32(number)
            counts[number] = 1
        numbers[lookup - lo] = number
    return rows


@kernel
def _starts_of_rows(rows: int, ends: NDArray[np.int32]) -> None:
    start = 0
    for number in range(rows):
        members = ends[number]
        ends[number] = start
        start += members


@kernel
def sort_by_row(
    bags: NDArray[np.int32], scales: NDArray[np.float32], lookups: int, rows: int, scratch: UpdateScratch
) -> None:
    """Sorts the bags and scales of numbered lookups by row into `scratch`."""
    numbers, ends, row_bags, row_scales = scratch.number, scratch.end, scratch.bag, scratch.scale
    _starts_of_rows(rows, ends)
    for lookup in range(lookups):
        place = ends[numbers[lookup]]
        row_bags[place] = bags[lookup]
        row_scales[place] = scales[lookup]
        ends[numbers[lookup]] = place + 1


@kernel
def _sort_bags_by_row(
    offsets: NDArray[np.int64], pooling: NDArray[np.int8], lo_bag: int, hi_bag: int, rows: int, scratch: UpdateScratch
) -> None:
    """As sort_by_row, bags and scales being those of a range of bags."""
    numbers, ends, bags, scales = scratch.number, scratch.end, scratch.bag, scratch.scale
    _starts_of_rows(rows, ends)
    first = offsets[lo_bag]
    slots = pooling.size
    slot = lo_bag % slots - 1
    bag = lo_bag - 1
    bag_end = first
    scale = np.float32(1)
    for lookup in range(first, offsets[hi_bag]):  # one flat loop: a loop per bag costs more than its one member
        while lookup == bag_end:
            bag += 1
            bag_end = offsets[bag + 1]
            slot = slot + 1 if slot + 1 < slots else 0
            scale = np.float32(1)
            if pooling[slot] == POOL_MEAN and bag_end > lookup + 1:
                scale /= np.float32(bag_end - lookup)
        number = np.int64(numbers[lookup - first])
        if number >= 0:
            place = np.int64(ends[number])
            bags[place] = bag - lo_bag
            scales[place] = scale
            ends[number] = place + 1


@fast_kernel
def train_rows(
    views: TableViews,
    grad: NDArray[np.float32],
    rate: np.float32,
    tiny: np.float32,
    now_s: int,
    rows: int,
    scratch: UpdateScratch,
    dirty: NDArray[np.uint32],
    dirty_length: int,
) -> int:
    """Sums each row's gradient and trains it; appends newly marked rows to `dirty`, answers its new length."""
    values, words, state_words = views.values, views.words, views.state_words
    slab_width, slab_block, block_columns = views.slab_width, views.slab_block, views.block_columns
    listed, ends, total, bags, scales = scratch.row, scratch.end, scratch.gradient, scratch.bag, scratch.scale
    flat = grad.reshape(-1)
    dim = grad.shape[1]
    lookups = ends[rows - 1] if rows else 0
    begin = np.int64(0)
    for number in range(rows):
        if number + _AHEAD < rows:
            ahead = listed[number + _AHEAD]
            width = np.int64(slab_width[ahead >> ROW_BITS])
            start = value_offset(ahead, width)
            for column in range(0, width, _LINE_FLOATS):
                prefetch(values, start + column)
        end = np.int64(ends[number])
        for member in range(end, min(2 * end - begin, lookups)):
            prefetch(flat, np.int64(bags[member]) * dim)
        weighted_sum_of_rows(total, dim, flat, bags, scales, begin, end)
        handle = listed[number]
        width = np.int64(slab_width[handle >> ROW_BITS])
        if width != dim:
            block = slab_block[handle >> ROW_BITS]
            for column in range(width):  # columns ascend, so none is overwritten before it is read
                total[column] = total[block_columns[block, column]]
        squares = sum_of_squares(total, 0, width)
        accumulator = scratch.accumulator[number] + squares / np.float32(width if width else 1)
        step = rate / (np.sqrt(accumulator) + tiny)
        add_scaled_row(values, value_offset(handle, width), total, 0, width, -step)
        state = state_offset(handle, state_words)
        values[state + ACCUMULATOR] = accumulator
        words[state + LAST_SEEN] = np.uint32(now_s)
        if not words[state + COUNT] & DIRTY_BIT:
            dirty[dirty_length] = handle
            dirty_length += 1
        count = np.abs(values[state + COUNT]) + np.float32(end - begin)
        values[state + COUNT] = -count  # never zero, so the sign is kept
        begin = end
    return dirty_length


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
    rows = number_rows(views, handles, offsets[lo_bag], offsets[hi_bag], scratch)
    _sort_bags_by_row(offsets, pooling, lo_bag, hi_bag, rows, scratch)
    views.dirty_length[0] = train_rows(
        views, grad, np.float32(lr), np.float32(eps), now_s, rows, scratch, views.dirty, views.dirty_length[0]
    )
