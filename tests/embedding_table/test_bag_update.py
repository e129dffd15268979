"""Large batches, shared among threads, against the plain table and against one kernel."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table import bag_update, update_scratch


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("pooling", [np.zeros(3, np.int8), np.array([1, 0, 1], np.int8)])
def test_shares_add_up_to_the_whole(
    twins: Callable, random_bags: Callable, monkeypatch: pytest.MonkeyPatch, threads: int, pooling: np.ndarray
) -> None:
    monkeypatch.setattr(bag_update, "_PARALLEL_FLOATS", 1)
    if threads == 1:  # one kernel, but slot by slot: the gradients of all rows do not fit
        monkeypatch.setattr(update_scratch, "_SUMMED_FLOATS", 100)
    rng = np.random.default_rng(threads)
    table, plain = twins(
        3, 16, threads=threads, columns=[np.arange(16, dtype=np.uint16)[: 4 * n + 8] for n in range(3)]
    )
    ids = np.arange(1, 3000, dtype=np.uint64)
    slots = (ids % 3).astype(np.int32)
    table.insert(ids, slots, 0)
    for feature_id, slot in zip(ids.tolist(), slots.tolist(), strict=True):
        plain.insert(feature_id, slot, 0)
    table.take_changes()
    plain.changed.clear()
    for now_s in range(3):
        sizes = rng.integers(0, 5, 3 * 200)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        slot_of = np.repeat(np.arange(600) % 3, sizes)
        lookups = (rng.zipf(1.3, slot_of.size) % 900 * 3 + np.where(slot_of == 0, 3, slot_of)).astype(np.uint64)
        grad = rng.standard_normal((200, 3, 16)).astype(np.float32)
        table.update(table.find(lookups), offsets, pooling, grad, 0.1, 1e-6, now_s)
        plain.update(lookups, offsets, pooling, grad, 0.1, 1e-6, now_s)
    plain.assert_same(table.all_rows(), set(plain.rows))
    plain.assert_same(table.take_changes(), plain.changed)
