"""Shares of a batch: their rows are apart, together they are the whole batch."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.slot_update import update_share
from embedding_table.update_scratch import new_scratch


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("lo_bag", [0, 3, 4])
def test_shares_of_a_range_of_bags(twins: Callable, parts: int, lo_bag: int) -> None:
    rng = np.random.default_rng(parts)
    table, plain = twins(3, 8)
    ids = np.arange(1, 9001, dtype=np.uint64)
    handles = table.insert(ids, (ids % np.uint64(3)).astype(np.int32), 0)
    sizes = rng.integers(0, 40, 90)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slot_of = np.repeat(np.arange(90) % 3, sizes)
    lookups = (rng.integers(1, 3000, slot_of.size) * 3 + slot_of).astype(np.uint64)
    lookups[rng.random(lookups.size) < 0.1] = 10**9  # no row
    hi_bag, pooling = 80, np.array([0, 1, 0], np.int8)
    grad = rng.standard_normal((hi_bag - lo_bag, 8)).astype(np.float32)
    table.take_changes()
    touched: list[set[int]] = []
    for part in range(parts):
        scratch, dirty = new_scratch(lookups.size, 8), np.empty(lookups.size, np.uint32)
        length = update_share(
            table.views(),
            table.find(lookups),
            offsets,
            pooling,
            lo_bag,
            hi_bag,
            grad.reshape(-1),
            np.uint64(8),
            np.float32(0.1),
            np.float32(1e-6),
            np.float32(1),
            np.float32(0),
            1,
            part,
            parts,
            scratch,
            dirty,
            0,
        )
        touched.append(set(dirty[:length].tolist()))
        assert len(touched[-1]) == length
    used = np.unique(lookups[offsets[lo_bag] : offsets[hi_bag]])
    assert sorted(handle for share in touched for handle in share) == sorted(table.find(used[used != 10**9]).tolist())
    assert parts == 1 or len([share for share in touched if share]) > 1
    for feature_id in ids.tolist():
        plain.insert(feature_id, feature_id % 3, 0)
    full = np.zeros((93, 8), np.float32)
    full[lo_bag:hi_bag] = grad
    window = np.clip(np.append(offsets, offsets[[-1, -1]]), offsets[lo_bag], offsets[hi_bag])
    plain.update(lookups, window, pooling, full[: window.size - 1], 0.1, 1e-6, 1)
    plain.assert_same(table.all_rows(), set(plain.rows))
    assert handles.size == 9000
