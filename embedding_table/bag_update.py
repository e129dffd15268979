"""Training the rows of a whole batch: in one kernel where it is small, shared among threads where it is large.

Knows bags and threads, not ids. A large batch is taken slot by slot, so that what is written about its lookups stays
in the cache, and each thread trains the rows of its own slabs: no row is ever touched by two.

Invariant: the result is that of `update_bags` on the whole batch, sums of duplicates aside, which run in the same
order; a handle belongs to one slot.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import (
    POOL_MEAN,
    UpdateScratch,
    new_scratch,
    number_rows,
    sort_by_row,
    train_rows,
    update_bags,
)
from embedding_table.hash_index import ABSENT
from embedding_table.row_layout import ROW_BITS, TableViews
from embedding_table.thread_parts import in_parts
from model_contract.compiled import kernel

__all__ = ["BagUpdater"]

_PARALLEL_FLOATS = 1 << 21


class _Share(NamedTuple):
    """One thread's part of a large batch: its lookups of one slot, and the rows it newly marked in all slots.

    Attributes:
        handle: u32 (L,).
        bag: i32 (L,).
        scale: f32 (L,), what the bag's gradient counts for each member.
        dirty: u32 (L,), newly marked rows.
        scratch: for these lookups.
    """

    handle: NDArray[np.uint32]
    bag: NDArray[np.int32]
    scale: NDArray[np.float32]
    dirty: NDArray[np.uint32]
    scratch: UpdateScratch


@kernel
def _list_share(
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    slot: int,
    slots: int,
    mean: bool,
    part: int,
    parts: int,
    share: _Share,
) -> int:
    """Lists the lookups of one slot whose rows lie in this part's slabs; answers how many."""
    listed, bags, scales = share.handle, share.bag, share.scale
    count = 0
    for bag in range(slot, offsets.size - 1, slots):
        members = offsets[bag + 1] - offsets[bag]
        scale = np.float32(1) / np.float32(members) if mean and members > 1 else np.float32(1)
        for lookup in range(offsets[bag], offsets[bag + 1]):
            handle = handles[lookup]
            listed[count] = handle
            bags[count] = bag
            scales[count] = scale
            count += handle != ABSENT and (np.int64(handle) >> ROW_BITS) % parts == part
    return count


@kernel
def _update_share(
    views: TableViews,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    grad: NDArray[np.float32],
    lr: float,
    eps: float,
    now_s: int,
    part: int,
    parts: int,
    share: _Share,
) -> int:
    """Trains all rows in this part's slabs; answers how many handles share.dirty received."""
    dirty_length = 0
    for slot in range(pooling.size):
        mean = pooling[slot] == POOL_MEAN
        lookups = _list_share(handles, offsets, slot, pooling.size, mean, part, parts, share)
        rows = number_rows(views, share.handle, 0, lookups, share.scratch)
        sort_by_row(share.bag, share.scale, lookups, rows, share.scratch)
        dirty_length = train_rows(
            views, grad, np.float32(lr), np.float32(eps), now_s, rows, share.scratch, share.dirty, dirty_length
        )
    return dirty_length


class BagUpdater:
    """Holds the working memory of updates of one table.

    Args:
        views: of the table.
        threads: how many to use for large batches.
    """

    def __init__(self, views: TableViews, threads: int) -> None:
        self._views = views
        self._threads = threads
        self._shares: list[_Share] = []
        self._scratch = new_scratch(0, 0)

    def update(
        self,
        handles: NDArray[np.uint32],
        offsets: NDArray[np.int64],
        pooling: NDArray[np.int8],
        grad: NDArray[np.float32],
        lr: float,
        eps: float,
        now_s: int,
    ) -> None:
        """As `update_bags` on all bags, grad f32 (B*F, D)."""
        dim = grad.shape[1]
        if handles.size * dim < _PARALLEL_FLOATS:
            if self._scratch.row.size < handles.size or self._scratch.gradient.size != dim:
                self._scratch = new_scratch(handles.size, dim)
            update_bags(self._views, handles, offsets, pooling, 0, grad.shape[0], grad, lr, eps, now_s, self._scratch)
            return
        self._prepare_shares(handles.size, dim)
        lengths = np.zeros(self._threads, np.int64)

        def update_part(part: int) -> None:
            lengths[part] = _update_share(
                self._views,
                handles,
                offsets,
                pooling,
                grad,
                lr,
                eps,
                now_s,
                part,
                self._threads,
                self._shares[part],
            )

        in_parts(update_part, self._threads)
        for share, length in zip(self._shares, lengths.tolist(), strict=True):
            start = int(self._views.dirty_length[0])
            self._views.dirty[start : start + length] = share.dirty[:length]
            self._views.dirty_length[0] = start + length

    def _prepare_shares(self, lookups: int, dim: int) -> None:
        if self._shares and self._shares[0].handle.size >= lookups and self._shares[0].scratch.gradient.size == dim:
            return
        self._shares = [
            _Share(
                handle=np.empty(lookups, np.uint32),
                bag=np.empty(lookups, np.int32),
                scale=np.empty(lookups, np.float32),
                dirty=np.empty(lookups, np.uint32),
                scratch=new_scratch(lookups, dim),
            )
            for _ in range(self._threads)
        ]
