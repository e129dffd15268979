"""Working memory of a sparse update.

Knows nothing of rows. Invariant: nothing in it outlives one call, so it may be shared by calls that do not overlap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["UpdateScratch", "new_scratch"]

_LINE_BYTES = 64
_SUMMED_FLOATS = 1 << 21  # 8 MiB: a batch of more is trained slot by slot


class UpdateScratch(NamedTuple):
    """Arrays for ranges of at most L lookups; one scratch per thread.

    Attributes:
        handle: u32 (L,), lookups of one slot.
        bag: i32 (L,), their bags, counted from the range's start.
        scale: f32 (L,), what a bag's gradient counts for each of its members.
        number: u32 (L,), the lookup's row, numbered in order of first appearance.
        row: u32 (L,), handles of the distinct rows by number.
        lookups: u32 (L,), how many a row has.
        end: u32 (L,), behind a row's last lookup in the two below.
        row_bag: i32 (L,), bags by row, a row's in order of lookup.
        row_scale: f32 (L,), scales by row.
        accumulator: f32 (L,), a row's accumulator while its state word holds its number.
        gradient: f32, summed gradients of D columns by row, as many rows as fit.
        products: f32 (blocks * D,), by block and place, sums over rows of value * gradient; all 0 between calls, as the
            three below. None of the four has an element where no saliency is gathered.
        squares: f32 (blocks * D,), the same of (value * gradient)^2.
        block_rows: u32 (blocks,), how many rows are in the sums of a block.
        signed: f32 (blocks * D,), products by home and column while they are folded.
    """

    handle: NDArray[np.uint32]
    bag: NDArray[np.int32]
    scale: NDArray[np.float32]
    number: NDArray[np.uint32]
    row: NDArray[np.uint32]
    lookups: NDArray[np.uint32]
    end: NDArray[np.uint32]
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
        handle=np.empty(lookups, np.uint32),
        bag=np.empty(lookups, np.int32),
        scale=np.empty(lookups, np.float32),
        number=np.empty(lookups, np.uint32),
        row=np.empty(lookups, np.uint32),
        lookups=np.empty(lookups, np.uint32),
        end=np.empty(lookups, np.uint32),
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
