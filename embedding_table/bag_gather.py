"""Pooling the rows of a whole batch: in one kernel where it is small, shared among threads where it is large.

Knows bags and threads, not ids. Invariant: every thread writes bags of its own, so the result does not depend on how
many there are.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import gather_bags
from embedding_table.kernel_arrays import kernel_array
from embedding_table.row_layout import TableViews
from embedding_table.thread_parts import in_parts, parts_of

__all__ = ["gather_batch"]

_PARALLEL_FLOATS = 1 << 20


def gather_batch(
    views: TableViews,
    threads: int,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    out: NDArray[np.float32],
) -> None:
    """As `gather_bags` on all bags, out f32 (B*F, D); large batches are cut by their lookups, not their bags."""
    handles, offsets, pooling = kernel_array(handles), kernel_array(offsets), kernel_array(pooling)
    bags, dim = out.shape
    floats = handles.size * dim
    parts = parts_of(floats, _PARALLEL_FLOATS, threads) if floats >= _PARALLEL_FLOATS else 1
    inner = np.searchsorted(offsets, np.linspace(0, offsets[-1], parts + 1)[1:-1])
    borders = [0, *np.minimum(inner, bags).tolist(), bags]

    def gather_part(part: int) -> None:
        lo, hi = borders[part], borders[part + 1]
        gather_bags(views, handles, offsets, pooling, lo, hi, out[lo:hi])

    in_parts(gather_part, parts, threads)
