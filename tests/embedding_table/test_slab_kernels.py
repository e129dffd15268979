"""Bits of slabs against sets of row numbers."""

import numpy as np
import pytest

from embedding_table.hash_index import ABSENT
from embedding_table.row_layout import LIVE_WORDS, ROW_BITS
from embedding_table.slab_kernels import free_rows, list_live, take_rows


@pytest.mark.parametrize("capacity", [1, 63, 64, 65, 780, 4096])
def test_take_free_and_list_agree(capacity: int) -> None:
    rng = np.random.default_rng(capacity)
    live, slab_live = np.zeros((3, LIVE_WORDS), np.uint64), np.zeros(3, np.int32)
    model: set[int] = set()
    for _ in range(30):
        out = np.full(int(rng.integers(0, capacity + 3)), ABSENT, np.uint32)
        taken = take_rows(2, capacity, live, slab_live, out)
        assert taken == min(out.size, capacity - len(model))
        rows = set(out[:taken].tolist())
        assert len(rows) == taken
        assert not rows & model
        assert all(2 << ROW_BITS <= row < (2 << ROW_BITS) + capacity for row in rows)
        model |= rows
        gone = rng.permutation(np.array(sorted(model), np.uint32))[: int(rng.integers(0, len(model) + 1))]
        freed = np.empty(gone.size + 2, np.uint32)
        assert (
            free_rows(np.concatenate([gone, gone[:1], [ABSENT]]).astype(np.uint32), live, slab_live, freed) == gone.size
        )
        model -= set(gone.tolist())
        assert slab_live.tolist() == [0, 0, len(model)]
    listed = np.empty(len(model), np.uint32)
    assert list_live(np.array([2, 0]), live, listed) == len(model)
    assert listed.tolist() == sorted(model)
