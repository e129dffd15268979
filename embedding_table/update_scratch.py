"""Working memory of a sparse update.

Knows nothing of rows. Invariant: nothing in it outlives one call, so it may be shared by calls that do not overlap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import SLAB_COUNTS
from embedding_table.kernel_arrays import empty_on_lines, zeros_on_lines
from embedding_table.row_layout import ROW_BITS, SLAB_WORDS, TRAINED_STATE_WORDS

__all__ = ["ROWS_AT_ONCE", "ShareScratch", "UpdateScratch", "new_scratch"]

_SUMMED_FLOATS = 1 << 21  # 8 MiB: a batch of more is trained slot by slot
ROWS_AT_ONCE = 128
"""Rows from which on a slot's next slab waits until these are trained: what is noted of them stays in the cache."""
_MOST_ROWS_AT_ONCE = ROWS_AT_ONCE + SLAB_WORDS // TRAINED_STATE_WORDS


class ShareScratch(NamedTuple):
    """Working memory of training slot by slot. R is the most rows trained at once, N the most bags of a slot.

    Attributes:
        key: u64 (L + 1,), lookups of one slot: handle and bag, counted among the slot's that are not empty.
        other_key: u64 (L + 1,), for sorting them.
        slab_count: u32 (SLAB_COUNTS,), likewise.
        bag_square: f32 (N,), the sum of squares of what a bag's gradient counts for each of its members.
        gradient: f32 ((N + R) * D,), these gradients by bag, and behind them summed ones by row, of rows with several
            lookups or fewer columns than D.
        place_row: u32 (rows a slab may have,), number of the row at this place of the slab in hand, where it has one.
        row_key: u64 (R,), the first lookup of every distinct row by number.
        lookups: u32 (R,), how many a row has.
    """

    key: NDArray[np.uint64]
    other_key: NDArray[np.uint64]
    slab_count: NDArray[np.uint32]
    bag_square: NDArray[np.float32]
    gradient: NDArray[np.float32]
    place_row: NDArray[np.uint32]
    row_key: NDArray[np.uint64]
    lookups: NDArray[np.uint32]


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
        products=zeros_on_lines(blocks * dim, np.float32),
        squares=zeros_on_lines(blocks * dim, np.float32),
        block_rows=np.zeros(blocks, np.uint32),
        signed=np.zeros(blocks * dim, np.float32),
        share=_share_scratch(lookups, dim, lookups if slot_bags is None else min(slot_bags, lookups)),
    )


def _share_scratch(lookups: int, dim: int, bags: int) -> ShareScratch:
    rows = min(lookups, _MOST_ROWS_AT_ONCE)
    return ShareScratch(
        key=np.empty(lookups + 1, np.uint64),
        other_key=np.empty(lookups + 1, np.uint64),
        slab_count=np.empty(SLAB_COUNTS, np.uint32),
        bag_square=np.empty(bags, np.float32),
        gradient=empty_on_lines((bags + rows) * dim, np.float32),
        place_row=np.empty(1 << ROW_BITS, np.uint32),
        row_key=np.empty(rows, np.uint64),
        lookups=np.empty(rows, np.uint32),
    )
