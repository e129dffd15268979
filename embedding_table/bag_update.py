"""Training the rows of a whole batch: in one kernel where it is small, shared among threads where it is large.

Knows bags and threads, not ids. Invariant: no row is ever touched by two threads: each trains the rows of its slabs
and sums what it sees of their saliency by itself.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import update_bags
from embedding_table.kernel_arrays import kernel_array
from embedding_table.row_layout import TableViews
from embedding_table.saliency_sums import fold_products, join_products
from embedding_table.slot_update import update_share
from embedding_table.thread_parts import in_parts
from embedding_table.update_scratch import UpdateScratch, new_scratch

__all__ = ["BagUpdater"]

_PARALLEL_FLOATS = 1 << 20


class BagUpdater:
    """Holds the working memory of updates of one table.

    Args:
        views: of the table.
        threads: how many to use for large batches.
    """

    def __init__(self, views: TableViews, threads: int) -> None:
        self._views = views
        self._threads = threads
        self._scratches: list[UpdateScratch] = []
        self._dirty: list[NDArray[np.uint32]] = []

    def update(
        self,
        handles: NDArray[np.uint32],
        offsets: NDArray[np.int64],
        pooling: NDArray[np.int8],
        grad: NDArray[np.float32],
        lr: float,
        eps: float,
        now_s: int,
        decay: float = 1.0,
        reference_width: float = 0.0,
    ) -> None:
        """As `update_bags` on all bags, grad f32 (B*F, D)."""
        handles, offsets, pooling = kernel_array(handles), kernel_array(offsets), kernel_array(pooling)
        grad = kernel_array(grad)
        bags, dim = grad.shape
        if handles.size * dim < _PARALLEL_FLOATS or self._threads == 1:
            self._reserve(1, handles.size, bags // pooling.size, dim)
            scratch = self._scratches[0]
            update_bags(
                self._views,
                handles,
                offsets,
                pooling,
                0,
                bags,
                grad,
                lr,
                eps,
                now_s,
                scratch,
                decay,
                reference_width,
            )
            return
        parts = self._threads
        self._reserve(parts, handles.size, bags // pooling.size, dim)
        rate, tiny, left, flat = np.float32(lr), np.float32(eps), np.float32(decay), grad.reshape(-1)
        reference = np.float32(reference_width)
        lengths = np.zeros(parts, np.int64)

        def update_part(part: int) -> None:
            lengths[part] = update_share(
                self._views,
                handles,
                offsets,
                pooling,
                0,
                bags,
                flat,
                np.uint64(dim),
                rate,
                tiny,
                left,
                reference,
                now_s,
                part,
                parts,
                self._scratches[part],
                self._dirty[part],
                0,
            )

        in_parts(update_part, parts)
        for dirty, length in zip(self._dirty, lengths.tolist(), strict=True):
            start = int(self._views.dirty_length[0])
            self._views.dirty[start : start + length] = dirty[:length]
            self._views.dirty_length[0] = start + length
        for scratch in self._scratches[1:parts]:
            join_products(self._scratches[0], scratch)
        fold_products(self._views, self._scratches[0])

    def _reserve(self, parts: int, lookups: int, slot_bags: int, dim: int) -> None:
        held = self._scratches[0].row.size if self._scratches else -1
        held_bags = self._scratches[0].share.bag_square.size if self._scratches else -1
        if len(self._scratches) >= parts and held >= lookups and held_bags >= min(slot_bags, lookups):
            return
        blocks = self._views.block_width.size
        count = max(parts, len(self._scratches))
        lookups, slot_bags = max(held, lookups), max(held_bags, slot_bags)
        self._scratches = [new_scratch(lookups, dim, blocks, slot_bags) for _ in range(count)]
        self._dirty = [np.empty(lookups, np.uint32) for _ in range(parts if parts > 1 else 0)]
