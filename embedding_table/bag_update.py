"""Training the rows of a whole batch: in one kernel where it is small, shared among threads where it is large.

Knows bags and threads, not ids. Invariant: no row is in two parts: each trains the rows of its slabs and sums what it
sees of their saliency by itself, so the result does not depend on which thread takes which part.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import update_bags
from embedding_table.kernel_arrays import kernel_array
from embedding_table.row_layout import TableViews
from embedding_table.saliency_sums import fold_products, join_products
from embedding_table.slot_update import update_share
from embedding_table.thread_parts import in_parts, parts_of
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
        self._sums: list[UpdateScratch] = []
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
        parts = parts_of(handles.size * dim, _PARALLEL_FLOATS, self._threads)
        self._reserve(parts, handles.size, bags // pooling.size, dim)
        rate, tiny, left, flat = np.float32(lr), np.float32(eps), np.float32(decay), grad.reshape(-1)
        reference = np.float32(reference_width)
        lengths = np.zeros(parts, np.int64)
        free = list(self._scratches)

        def update_part(part: int) -> None:
            scratch = free.pop()
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
                self._sums[part]._replace(share=scratch.share),
                self._dirty[part],
                0,
            )
            free.append(scratch)

        in_parts(update_part, parts, self._threads)
        for dirty, length in zip(self._dirty[:parts], lengths.tolist(), strict=True):
            start = int(self._views.dirty_length[0])
            self._views.dirty[start : start + length] = dirty[:length]
            self._views.dirty_length[0] = start + length
        for sums in self._sums[1:parts]:
            join_products(self._sums[0], sums)
        fold_products(self._views, self._sums[0])

    def _reserve(self, parts: int, lookups: int, slot_bags: int, dim: int) -> None:
        """Makes room for an update in so many parts: memory for each thread, for each part its sums and its list."""
        blocks = self._views.block_width.size
        held = self._scratches[0].row.size if self._scratches else -1
        held_bags = self._scratches[0].share.bag_square.size if self._scratches else -1
        if held < lookups or held_bags < min(slot_bags, lookups):
            lookups, slot_bags = max(held, lookups), max(held_bags, slot_bags)
            self._scratches, self._dirty = [], []
        else:
            lookups, slot_bags = held, held_bags
        while len(self._scratches) < min(parts, self._threads):
            self._scratches.append(new_scratch(lookups, dim, blocks, slot_bags))
        while parts > 1 and len(self._sums) < parts:
            self._sums.append(new_scratch(1, dim, blocks))
        while parts > 1 and len(self._dirty) < parts:
            self._dirty.append(np.empty(lookups, np.uint32))
