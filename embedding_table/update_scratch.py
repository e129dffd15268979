"""Working memory of a sparse update.

Knows nothing of rows. Invariant: nothing in it outlives one call, so it may be shared by calls that do not overlap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.handle_sort import DIGIT_COUNTS

__all__ = ["UpdateScratch", "new_scratch"]

_LINE_BYTES = 64
_SUMMED_FLOATS = 1 << 21  # 8 MiB: a batch of more is trained slot by slot


class UpdateScratch(NamedTuple):
    """Arrays for ranges of at most L lookups; one scratch per thread.

    Attributes:
        key: u64 (L,), lookups of one slot: handle and bag, counted from the range's start.
        other_key: u64 (L,), for sorting them.
        digit_count: i64 (DIGIT_COUNTS,), likewise.
        row: u32 (L,), handles of the distinct rows by number.
        lookups: u32 (L,), how many a row has.
        row_bag: i32 (L,), bags by row, a row's in order of lookup.
        row_scale: f32 (L,), what a bag's gradient counts for each of its members, by row.
        accumulator: f32 (L,), a row's accumulator while its state word holds its number.
        gradient: f32, summed gradients of D columns by row, as many rows as fit.
        products: f32 (blocks * D,), by block and place, sums over rows of value * gradient; all 0 between calls, as the
            three below. None of the four has an element where no saliency is gathered.
        squares: f32 (blocks * D,), the same of (value * gradient)^2.
        block_rows: u32 (blocks,), how many rows are in the sums of a block.
        signed: f32 (blocks * D,), products by home and column while they are folded.
    """

    key: NDArray[np.uint64]
    other_key: NDArray[np.uint64]
    digit_count: NDArray[np.int64]
    row: NDArray[np.uint32]
    lookups: NDArray[np.uint32]
    row_bag: NDArray[np.int32]
    row_scale: NDArray[np.float32]
    accumulator: NDArray[np.float32]
    gradient: NDArray[np.float32]
    products: NDArray[np.float32]
    squares: NDArray[np.float32]
    block_rows: NDArray[np.uint32]
    signed: NDArray[np.float32]


def new_scratch(lookups: int, dim: int, blocks: int = 0) -> UpdateScratch:
    """Working memory for ranges of at most `lookups` lookups and gradients of `dim` columns.

    With `blocks`, how many the table's views have room for, updates gather saliency as well.
    """
    return UpdateScratch(
        key=np.empty(lookups, np.uint64),
        other_key=np.empty(lookups, np.uint64),
        digit_count=np.empty(DIGIT_COUNTS, np.int64),
        row=np.empty(lookups, np.uint32),
        lookups=np.empty(lookups, np.uint32),
        row_bag=np.empty(lookups, np.int32),
        row_scale=np.empty(lookups, np.float32),
        accumulator=np.empty(lookups, np.float32),
        gradient=np.empty(max(dim, min(lookups * dim, _SUMMED_FLOATS)), np.float32),
        products=_zeros_on_lines(blocks * dim),
        squares=_zeros_on_lines(blocks * dim),
        block_rows=np.zeros(blocks, np.uint32),
        signed=np.zeros(blocks * dim, np.float32),
    )


def _zeros_on_lines(size: int) -> NDArray[np.float32]:
    """Zeros from the start of a cache line on: every row adds to them, and a vector across two lines costs twice."""
    held = np.zeros(size + _LINE_BYTES // 4, np.float32)
    start = -held.ctypes.data % _LINE_BYTES // 4
    return held[start : start + size]
