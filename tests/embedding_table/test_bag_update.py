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


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_of_a_slot_in_two_widths(twins: Callable, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(bag_update, "_PARALLEL_FLOATS", 1)
    if threads == 1:
        monkeypatch.setattr(update_scratch, "_SUMMED_FLOATS", 100)
    wide, narrow = np.arange(16, dtype=np.uint16), np.array([1, 5, 6, 11], np.uint16)
    table, plain = twins(2, 16, threads=threads, bands=2, columns=[wide, narrow] * 2)
    ids = np.arange(1, 6001, dtype=np.uint64)
    table.insert(ids, (ids % 2).astype(np.int32), 0)
    for feature_id in ids.tolist():
        plain.insert(feature_id, feature_id % 2, 0)
    moved = ids[ids % np.uint64(3) == 0]
    assert table.move_rows(table.find(moved), np.ones(moved.size, np.int32)) == moved.size
    assert plain.follow(table.take_changes()) == moved.size
    rng = np.random.default_rng(threads)
    offsets = np.arange(0, 801, 20, dtype=np.int64)
    lookups = rng.integers(0, 3000, (20, 2, 20)).astype(np.uint64) * 2 + np.array([[2], [1]], np.uint64)
    grad = rng.standard_normal((20, 2, 16)).astype(np.float32)
    pooling = np.array([0, 1], np.int8)
    table.update(table.find(lookups.ravel()), offsets, pooling, grad, 0.1, 1e-6, 1)
    plain.update(lookups.ravel(), offsets, pooling, grad, 0.1, 1e-6, 1)
    plain.assert_same(table.all_rows(), set(plain.rows))
    for (slot, band), squares in plain.squares.items():
        np.testing.assert_allclose(table.saliency().squared[slot, band], squares, rtol=1e-4)
    assert len(plain.squares) == 4


def test_the_number_of_threads_does_not_change_a_bit_of_a_row(twins: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_update, "_PARALLEL_FLOATS", 1)
    rng = np.random.default_rng(0)
    lookups = rng.integers(1, 2000, 6000).astype(np.uint64)
    grad = rng.standard_normal((300, 1, 16)).astype(np.float32)
    offsets, pooling = np.arange(0, 6001, 20, dtype=np.int64), np.zeros(1, np.int8)
    found = []
    for threads in (2, 3):
        table, _ = twins(1, 16, threads=threads)
        table.insert(np.arange(1, 2000, dtype=np.uint64), np.zeros(1999, np.int32), 0)
        table.update(table.find(lookups), offsets, pooling, grad, 0.1, 1e-6, 1)
        (block,) = table.all_rows().blocks
        found.append((block.values, block.accumulators))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
