"""Working memory of a sparse update.

Knows nothing of rows. Invariant: nothing in it outlives one call, so it may be shared by calls that do not overlap.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import SLAB_COUNTS
from embedding_table.row_layout import ROW_BITS, SLAB_WORDS, TRAINED_STATE_WORDS

__all__ = ["ROWS_AT_ONCE", "ShareScratch", "UpdateScratch", "new_scratch"]

_LINE_BYTES = 64
_SUMMED_FLOATS = 1 << 21  # 8 MiB: a batch of more is trained slot by slot
ROWS_AT_ONCE = 128
"""Rows from which on a slot's next slab waits until these are trained: what is noted of them stays in the cache."""
_MOST_ROWS_AT_ONCE = ROWS_AT_ONCE + SLAB_WORDS // TRAINED_STATE_WORDS


class ShareScratch(NamedTuple):
    """Working memory of training slot by slot. R is the most rows trained at once, N the most bags of a slot.

    Attributes:
        key: u64 (L,), lookups of one slot: handle and bag, counted from the slot's first that is not empty.
        other_key: u64 (L,), for sorting them.
        slab_count: u32 (SLAB_COUNTS,), likewise.
        bag_gradient: f32 (N * D,), what a bag's gradient counts for each of its members.
        bag_square: f32 (N,), its sum of squares.
        place_row: u32 (rows a slab may have,), number of the row at this place of the slab in hand, where it has one.
        row: u32 (R,), handles of the distinct rows by number.
        lookups: u32 (R,), how many a row has.
        bag: u32 (R,), bag of its first one.
        sum: f32 (R * D,), summed gradients by row, of those with several lookups or fewer columns than D.
        start: u64 (R,), where rows lie in memory, in the order in which they are stepped.
        origin: u64 (R,), where their gradients lie, in `bag_gradient` or in `sum`.
        step: f32 (R,), what their gradients are multiplied by.
    """

    key: NDArray[np.uint64]
    other_key: NDArray[np.uint64]
    slab_count: NDArray[np.uint32]
    bag_gradient: NDArray[np.float32]
    bag_square: NDArray[np.float32]
    place_row: NDArray[np.uint32]
    row: NDArray[np.uint32]
    lookups: NDArray[np.uint32]
    bag: NDArray[np.uint32]
    sum: NDArray[np.float32]
    start: NDArray[np.uint64]
    origin: NDArray[np.uint64]
    step: NDArray[np.float32]


class UpdateScratch(NamedTuple):
    """Arrays for ranges of at most L lookups; one scratch per thread.

    Attributes:
        row: u32 (L,), handles of the distinct rows by number.
        lookups: u32 (L,), how many a row has.
        accumulator: f32 (L,), a row's accumulator while its state word holds its number.
        gradient: f32, summed gradients of D columns by row, as many rows as fit.
        products: f32 (blocks * D,), by block and place, sums over rows of value * gradient; all 0 between calls, as the
            three below. None of the four has an element where no saliency is gathered.
        squares: f32 (blocks * D,), the same of (value * gradient)^2.
        block_rows: u32 (blocks,), how many rows are in the sums of a block.
        signed: f32 (blocks * D,), products by home and column while they are folded.
        share: for batches that are trained slot by slot.
    """

    row: NDArray[np.uint32]
    lookups: NDArray[np.uint32]
    accumulator: NDArray[np.float32]
    gradient: NDArray[np.float32]
    products: NDArray[np.float32]
    squares: NDArray[np.float32]
    block_rows: NDArray[np.uint32]
    signed: NDArray[np.float32]
    share: ShareScratch


def new_scratch(lookups: int, dim: int, blocks: int = 0, slot_bags: int | None = None) -> UpdateScratch:
    """Working memory for ranges of at most `lookups` lookups and gradients of `dim` columns.

    With `blocks`, how many the table's views have room for, updates gather saliency as well. A slot has `slot_bags`
    bags in a range at most, or as many as lookups.
    """
    return UpdateScratch(
        row=np.empty(lookups, np.uint32),
        lookups=np.empty(lookups, np.uint32),
        accumulator=np.empty(lookups, np.float32),
        gradient=np.empty(max(dim, min(lookups * dim, _SUMMED_FLOATS)), np.float32),
        products=_zeros_on_lines(blocks * dim),
        squares=_zeros_on_lines(blocks * dim),
        block_rows=np.zeros(blocks, np.uint32),
        signed=np.zeros(blocks * dim, np.float32),
        share=_share_scratch(lookups, dim, lookups if slot_bags is None else min(slot_bags, lookups)),
    )


def _share_scratch(lookups: int, dim: int, bags: int) -> ShareScratch:
    rows = min(lookups, _MOST_ROWS_AT_ONCE)
    return ShareScratch(
        key=np.empty(lookups, np.uint64),
        other_key=np.empty(lookups, np.uint64),
        slab_count=np.empty(SLAB_COUNTS, np.uint32),
        bag_gradient=_on_lines(np.empty, bags * dim),
        bag_square=np.empty(bags, np.float32),
        place_row=np.empty(1 << ROW_BITS, np.uint32),
        row=np.empty(rows, np.uint32),
        lookups=np.empty(rows, np.uint32),
        bag=np.empty(rows, np.uint32),
        sum=_on_lines(np.empty, rows * dim),
        start=np.empty(rows, np.uint64),
        origin=np.empty(rows, np.uint64),
        step=np.empty(rows, np.float32),
    )


def _zeros_on_lines(size: int) -> NDArray[np.float32]:
    return _on_lines(np.zeros, size)


def _on_lines(make: Callable[[int, type[np.float32]], NDArray[np.float32]], size: int) -> NDArray[np.float32]:
    """Floats from the start of a cache line on: a vector across two lines costs twice."""
    held = make(size + _LINE_BYTES // 4, np.float32)
    start = -held.ctypes.data % _LINE_BYTES // 4
    return held[start : start + size]
